"""The link service of one node among several: it has the links that it took, and knows of all others from the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
from msgspec.structs import replace

from roundtrip.cluster.claims import Taken
from roundtrip.cluster.commands import TOPIC as WANTED
from roundtrip.cluster.commands import Commands, Wish
from roundtrip.cluster.directory import Directory
from roundtrip.cluster.hand_over import HandOver
from roundtrip.cluster.owned_links import OwnedLinks
from roundtrip.cluster.ownership import TOPIC as LINKS
from roundtrip.cluster.ownership import Ownership
from roundtrip.cluster.signals import Signals
from roundtrip.cluster.stored_links import StoredLinks
from roundtrip.drivers.simulated import SimulateAction, SupportsSimulate
from roundtrip.identity import BotKey
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from roundtrip.links.storage import StoreError
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)

TELL_AFTER: Final = 0.1
"""Seconds after a command until other nodes are told that there is a link: its record is committed by then."""


class SharedLinks(OwnedLinks):
    """As `LinkService`; commands and views are the same on every node."""

    def __init__(self, *args: Any, lease: NodeLease, signals: Signals, took_over: Callable[[str], None], **named: Any):
        """`args` and `named` are those of `LinkService`, with a `PostgresLinkStore`; `took_over` is called with the
        reason each time that this node takes a link."""
        super().__init__(*args, lease=lease, **named)
        self._signals = signals
        tables = self._store.tables
        self._directory = Directory(tables)
        self._directory.on_account = self._account_changed
        self._stored = StoredLinks(
            tables,
            self._clock,
            lambda record: record.paired and self._context.linked_elsewhere(record.phone_number, record.key),
        )
        watched = named.get("watched", lambda _key: False)
        self.ownership = Ownership(lease, self._claims, self._directory, self, watched, took_over)
        self._commands = self.ownership.commands = Commands(tables, signals, self._carry_out)
        self._owning: asyncio.Task[None] | None = None
        self.limit_pairing: Callable[[str], None] = lambda _user_id: None
        """Counts a pairing that another node's caller begins; raises a `RoundtripError` when there are too many."""
        signals.on(LINKS, self.ownership.look)
        signals.on(WANTED, self._commands.look)

    # starting and stopping

    async def open(self) -> None:
        """As `LinkService.open`; no link is this node's yet."""
        await super().open()
        await self._directory.refresh()
        self._owning = asyncio.create_task(self.ownership.run(), name="links-ownership")
        self._spawn(self._commands.run(), "links-commands")

    async def restore(self) -> None:
        """As `LinkService.restore`: returns when there was nothing left for this node to take, and it all was tried."""
        await self.ownership.caught_up.wait()
        while self.waiting:  # noqa: ASYNC110  # at the start only
            await asyncio.sleep(0.05)
        await super().restore()

    async def close(self) -> None:
        """As `LinkService.close`; before that links go to other nodes, one by one."""
        if self._closing:
            return
        self._commands.accepting = False
        if self._owning is not None:
            self._owning.cancel()
            await asyncio.wait((self._owning,))
        await self._commands.drained()
        if self.ownership.holds:
            with suppress(StoreError):
                over = HandOver(self._claims, self._signals, self, self._lease.node_id)
                await over.run(self._settings.hand_over_time)
        await super().close()

    # commands

    async def start(self, key: BotKey, phone_number: str | None = None, traceparent: str | None = None) -> Snapshot:
        """As `LinkService.start`, on whichever node has the link; one that nobody has is this node's from then on."""
        if not self.is_live(key) or not self.ownership.holds:
            taken = await self._take(key, self._settings.max_links_per_user)
            if taken.owner != self._lease.node_id:
                return await self._ask(taken, key, Wish("start", phone_number, traceparent))
        return await self._start_here(key, phone_number, traceparent)

    async def _start_here(self, key: BotKey, phone_number: str | None, traceparent: str | None) -> Snapshot:
        try:
            snapshot = await super().start(key, phone_number, traceparent)
        except LinkError:
            if key not in self._links and (fence := self._store.lose(key, frozenset())):
                with suppress(StoreError):
                    await self._claims.untake(key, fence)
            raise
        if others := self.ownership.others():
            asyncio.get_running_loop().call_later(TELL_AFTER, self._signals.send, others, LINKS)
        return snapshot

    async def logout(self, key: BotKey) -> Snapshot:
        """As `LinkService.logout`, on whichever node has the link."""
        if key not in self._links or not self.ownership.holds:
            taken = await self._take(key)
            if taken.owner not in (self._lease.node_id, None):
                return await self._ask(taken, key, Wish("logout"))
        await super().logout(key)
        return await self.snapshot_at(key, 0)

    async def simulate(self, key: BotKey, action: SimulateAction) -> Snapshot:
        """As `LinkService.simulate`, on whichever node has the link."""
        supported = isinstance(self._context.driver, SupportsSimulate)
        if supported and (key not in self._links or not self.ownership.holds):
            taken = await self._take(key)
            if taken.owner not in (self._lease.node_id, None):
                return await self._ask(taken, key, Wish("simulate", action.value))
        return await super().simulate(key, action)

    async def _take(self, key: BotKey, most: int | None = None) -> Taken:
        """Find out who has a link, and take it where nobody has. Raises `LinkError`."""
        self._check_not_closing()
        if not self.ownership.holds:
            raise _away("this node's lease has ended")
        self._taking.add(key)
        try:
            taken = await self._claims.take(key, self._clock.now(), most)
            if taken.full:
                raise LinkError("too_many_links", "This user has the maximum number of links; log one out first.")
            if (claimed := taken.claimed) is None or key in self._links:
                return taken
            if claimed.record.state is LinkState.IDLE:
                self._store.hold(key, claimed.fence)  # it has no record yet
            elif not await self.ownership.adopt(claimed) and key not in self._links:
                raise _away("the account's keys could not be fetched")
        except StoreError as error:
            raise _away(str(error).rstrip(".")) from error
        finally:
            self._taking.discard(key)
        return taken

    async def _ask(self, taken: Taken, key: BotKey, wish: Wish) -> Snapshot:
        try:
            await self._commands.ask(taken.owner or "", key, wish)
            return await self._stored.snapshot(key)
        except StoreError as error:
            raise _away(str(error).rstrip(".")) from error

    async def _carry_out(self, key: BotKey, wish: Wish) -> None:
        """What another node's caller wants of a link of this one. Raises `RoundtripError`."""
        if wish.what == "logout":
            await self.logout(key)
        elif wish.what == "simulate":
            await self.simulate(key, SimulateAction(wish.argument or ""))
        else:
            if self.begins_pairing(key, wish.argument) and not self._starting[key]:
                self.limit_pairing(key.user_id)
            await self.start(key, wish.argument, wish.traceparent)

    # views

    def begins_pairing(self, key: BotKey, phone_number: str | None) -> bool:
        """As `LinkService.begins_pairing`. Where another node has the link, that one counts."""
        return (key in self._links or key not in self._directory) and super().begins_pairing(key, phone_number)

    def __contains__(self, key: BotKey) -> bool:
        """Whether a key was ever linked, on whichever node."""
        return super().__contains__(key) or key in self._directory

    async def snapshot_at(self, key: BotKey, seq: int) -> Snapshot:
        """As `LinkService.snapshot_at`. Raises `OutboxError`."""
        if key in self._links:
            return await super().snapshot_at(key, seq)
        try:
            return await self._stored.snapshot(key)
        except StoreError as error:
            raise OutboxError(error.code, error.message) from error

    def links(self) -> list[LinkView]:
        """As `LinkService.links`: those of this node, which each of them names."""
        return [replace(view, owner=self._lease.node_id) for view in super().links()]

    async def of_user(self, user_id: str) -> list[LinkView]:
        """As `LinkService.of_user`. Raises `StoreError`."""
        return await self._stored.of_user(user_id)


def _away(why: str) -> LinkError:
    return LinkError("store_unavailable", f"The store cannot be used at the moment: {why}.", 5)
