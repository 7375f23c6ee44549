"""Writes down what happens to one link: its record and its events, in the order that a crash forgives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from roundtrip.backoff import Backoff
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.errors import StorageError
from roundtrip.events import Payload
from roundtrip.links.policy import Ban
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkRecord, Removal
from roundtrip.links.shared import LinkContext
from roundtrip.links.store import StoreError

log = structlog.get_logger(__name__)

_PATIENCE: Final = Backoff(0.2, 5.0)
"""Between two attempts to store what could not be stored."""


class LinkWriter:
    """`saved` is the record as the disk has it."""

    def __init__(
        self, context: LinkContext, saved: LinkRecord | None, on_stall: Callable[[], None] = lambda: None
    ) -> None:
        """`on_stall` is called each time that something could not be stored."""
        self._context = context
        self._on_stall = on_stall
        self._saved = saved
        self._stalled: StorageError | None = None

    @property
    def stalled(self) -> bool:
        """Whether something waits to be stored, and so everything after it."""
        return self._stalled is not None

    def refusal(self) -> LinkError:
        """What to tell a caller while it is stalled."""
        return _refusal(self._stalled)

    async def begin(self, record: LinkRecord, payload: Payload, traceparent: str | None) -> None:
        """Commit a new link and its first event; on failure it never was. Raises `LinkError`."""
        before = self._saved
        if self._context.publisher.full:
            raise _refusal(StorageError("outbox_full", "There is no room for new events."))
        try:
            await self._save(record)
            try:
                await self._publish(record, payload, None, traceparent)
            except StorageError:
                await self._undo(record, before)
                raise
        except StorageError as error:
            raise _refusal(error) from error

    async def write(
        self,
        old: LinkRecord,
        new: LinkRecord,
        payload: Payload | None,
        ends: float | None,
        traceparent: str | None,
    ) -> None:
        """Commit what a step brings. `ends` is when the payload's secret ends, in seconds since the epoch.

        Keys that WhatsApp accepted are noted first: a crash must not take them for rubbish. Everything else is noted
        after its event, so that a crash between the two says it twice and not never.
        It tries until it succeeds.
        """
        attempt = 0
        while True:
            try:
                if new.paired and not old.paired and (self._saved is None or not self._saved.paired):
                    await self._save(replace(old, paired=True, phone_number=new.phone_number))
                if payload is not None and (ends is None or ends > self._context.clock.now()):
                    await self._publish(new, payload, ends, traceparent)
                break
            except StorageError as error:
                self._stalled = error
                self._on_stall()
                log.warning("link_event_waits", link_id=new.link_id, code=error.code, attempt=attempt)
                await self._context.clock.sleep(_PATIENCE.delay(attempt + 1))
                attempt += 1
        self._stalled = None
        if new != self._saved:
            try:
                await self._save(new)
            except StoreError:
                # The event is out, so the state moves; the next step writes the record anew.
                log.error("link_record_behind", link_id=new.link_id)

    async def condition(self, record: LinkRecord) -> KeyFileState:
        """The key file's; when the disk does not answer, the session may find out."""
        try:
            return await self._context.store.condition(record)
        except StoreError:
            return KeyFileState.GOOD

    async def ready(self) -> None:
        """Return when an event could be stored now. Raises `LinkError`."""
        try:
            await self._context.publisher.check()
        except StorageError as error:
            raise _refusal(error) from error

    async def removal(self, removal: Removal) -> None:
        """Commit that a device is to be removed. Raises `LinkError`, and then nothing was done."""
        try:
            await self._context.removals.add(removal)
        except StoreError as error:
            raise _refusal(error) from error

    async def ban(self, number: str, ban: Ban) -> None:
        """Note a number's ban; where that cannot be stored, for as long as the program lives."""
        self._context.bans.add(number, ban)
        try:
            await self._context.store.save_ban(number, ban)
        except StoreError:
            log.warning("ban_not_stored")

    async def lift(self, number: str) -> None:
        """WhatsApp let a number in: its ban is over."""
        if self._context.bans.lift(number):
            try:
                await self._context.store.delete_ban(number)
            except StoreError:
                log.warning("ban_not_deleted")

    async def forget(self, record: LinkRecord) -> None:
        """Delete the account's keys, unless they are needed to remove the device."""
        if not self._context.removals.pending(record.link_id):
            await self._context.store.forget(record.link_id)

    async def secure(self, record: LinkRecord) -> None:
        """Permissions of the account's keys."""
        try:
            await self._context.store.secure(record)
        except StoreError:
            log.warning("session_store_not_secured", link_id=record.link_id)

    async def _save(self, record: LinkRecord) -> None:
        await self._context.store.save(record)
        self._saved = record

    async def _undo(self, record: LinkRecord, before: LinkRecord | None) -> None:
        try:
            if before is None:
                await self._context.store.delete(record.key)
            else:
                await self._context.store.save(before)
            self._saved = before
        except StoreError:
            # What is left is a link that never showed a code: the next restart ends it.
            log.warning("link_record_left", link_id=record.link_id)

    async def _publish(self, record: LinkRecord, payload: Payload, ends: float | None, traceparent: str | None) -> None:
        expires_at = None if ends is None else int(ends * 1000)
        await self._context.publisher.publish(
            record.key, record.link_id, payload, expires_at=expires_at, traceparent=traceparent
        )


def _refusal(error: StorageError | None) -> LinkError:
    code = "outbox_unavailable" if error is None else error.code
    return LinkError(code, "The server cannot store new events at the moment; try again later.", 5)
