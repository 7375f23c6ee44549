"""Stores what happens to one link: its record and its events, in an order that a crash between the two cannot harm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from roundtrip.backoff import Backoff
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.errors import StorageError
from roundtrip.events import LinkRow, Payload
from roundtrip.links.context import LinkContext
from roundtrip.links.policy import Ban
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkRecord, Removal
from roundtrip.links.storage import StoreError

log = structlog.get_logger(__name__)

_RETRY_DELAYS: Final = Backoff(0.2, 5.0)
"""Between two attempts to store what could not be stored."""


class LinkWriter:
    """Not for concurrent use: the link's queue calls it with one step at a time."""

    def __init__(
        self, context: LinkContext, saved: LinkRecord | None, on_stall: Callable[[], None] = lambda: None
    ) -> None:
        """`saved` is the record as it is on the disk. `on_stall` is called each time that something could not be
        stored.
        """
        self._context = context
        self._on_stall = on_stall
        self._saved = saved
        self._stalled: StorageError | None = None

    @property
    def stalled(self) -> bool:
        """Whether a write is being retried; everything after it waits for that."""
        return self._stalled is not None

    def refusal(self) -> LinkError:
        """The error for a command that comes while it is stalled."""
        return _refusal(self._stalled)

    async def begin(self, record: LinkRecord, payload: Payload, traceparent: str | None) -> None:
        """Commit a new link and its first event. On failure the record is rolled back. Raises `LinkError`."""
        before = self._saved
        if self._context.publisher.full:
            raise _refusal(StorageError("outbox_full", "The event store is full."))
        row = self._context.store.row(record)
        try:
            if row is None:
                await self._save(record)
            try:
                await self._publish(record, payload, None, traceparent, row)
            except StorageError:
                if row is None:
                    await self._roll_back(record, before)
                raise
        except StorageError as error:
            raise _refusal(error) from error

    async def write(
        self,
        old: LinkRecord,
        new: LinkRecord,
        payload: Payload | None,
        expires_at: float | None,
        traceparent: str | None,
    ) -> None:
        """Commit the event of one step; retried until it succeeds. `keep` follows, once the state has been entered: who
        was told of it must not find the one before. `expires_at` is when the payload's code expires, in seconds since
        the epoch: an event that expired before it could be stored is dropped.

        That WhatsApp accepted new keys is stored before the event: after a crash, keys of an unpaired link are deleted.
        A store that holds both, records and events, commits the new record in the event's transaction. Elsewhere
        everything else is stored after its event, so that a crash between the two publishes it twice rather than never.
        """
        attempt = 0
        while True:
            try:
                if new.paired and not old.paired and (self._saved is None or not self._saved.paired):
                    await self._save(replace(old, paired=True, phone_number=new.phone_number))
                left = None if expires_at is None else expires_at - self._context.clock.now()
                if payload is not None and (left is None or left > 0):
                    if left is not None:
                        await self._context.store.show(new.key, payload, left)
                    await self._publish(new, payload, expires_at, traceparent, self._context.store.row(new))
                break
            except StorageError as error:
                self._stalled = error
                self._on_stall()
                log.warning("link_event_waits", link_id=new.link_id, code=error.code, attempt=attempt)
                await self._context.clock.sleep(_RETRY_DELAYS.delay(attempt + 1))
                attempt += 1
        self._stalled = None

    async def keep(self, record: LinkRecord) -> None:
        """Store a record whose event is committed, where that has not stored it, too."""
        if record != self._saved:
            try:
                await self._save(record)
            except StoreError:
                # The event is committed, so the state has moved; the next step saves the record again.
                log.error("link_record_behind", link_id=record.link_id)

    async def key_state(self, record: LinkRecord) -> KeyFileState:
        """State of the account's key file. GOOD when the disk does not answer: the session will find out."""
        try:
            return await self._context.store.key_state(record.link_id)
        except StoreError:
            return KeyFileState.GOOD

    async def ready(self) -> None:
        """Return when an event could be stored now. Raises `LinkError`."""
        try:
            await self._context.publisher.check()
        except StorageError as error:
            raise _refusal(error) from error

    async def save_removal(self, removal: Removal) -> None:
        """Commit that a device is to be removed. Raises `LinkError`, and then nothing was stored."""
        try:
            await self._context.removals.add(removal)
        except StoreError as error:
            raise _refusal(error) from error

    async def save_ban(self, number: str, ban: Ban) -> None:
        """Note a phone number's ban; in memory only where it cannot be stored."""
        self._context.bans.add(number, ban)
        try:
            await self._context.store.save_ban(number, ban)
        except StoreError:
            log.warning("ban_not_stored")

    async def lift_ban(self, number: str) -> None:
        """Delete a phone number's ban, if there is one: WhatsApp accepted its login."""
        if self._context.bans.lift(number):
            try:
                await self._context.store.delete_ban(number)
            except StoreError:
                log.warning("ban_not_deleted")

    async def delete_keys(self, record: LinkRecord) -> None:
        """Delete the account's keys, unless they are still needed to remove the device. Raises `StoreError`."""
        if not self._context.removals.pending(record.link_id):
            await self._context.store.delete_keys(record.link_id)

    async def secure(self, record: LinkRecord) -> None:
        """Restrict the permissions of the account's key file to its owner."""
        try:
            await self._context.store.secure(record.link_id)
        except StoreError:
            log.warning("session_store_not_secured", link_id=record.link_id)

    async def _save(self, record: LinkRecord) -> None:
        await self._context.store.save(record)
        self._saved = record

    async def _roll_back(self, record: LinkRecord, before: LinkRecord | None) -> None:
        try:
            if before is None:
                await self._context.store.delete(record.key)
            else:
                await self._context.store.save(before)
            self._saved = before
        except StoreError:
            # The record that is left over is of a link that never showed a code: the next restart ends it.
            log.warning("link_record_left", link_id=record.link_id)

    async def _publish(
        self,
        record: LinkRecord,
        payload: Payload,
        expires_at: float | None,
        traceparent: str | None,
        row: LinkRow | None,
    ) -> None:
        milliseconds = None if expires_at is None else int(expires_at * 1000)
        await self._context.publisher.publish(
            record.key, record.link_id, payload, expires_at=milliseconds, traceparent=traceparent, state=row
        )
        if row is not None:
            self._saved = record


def _refusal(error: StorageError | None) -> LinkError:
    code = "outbox_unavailable" if error is None else error.code
    return LinkError(code, "The server cannot store new events at the moment; try again later.", 5)
