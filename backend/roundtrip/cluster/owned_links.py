"""The links that this node has, as long as it has them: each comes with its keys, and leaves them when it goes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import structlog

from roundtrip.cluster.claims import Claimed, Claims
from roundtrip.cluster.link_store import PostgresLinkStore
from roundtrip.identity import BotKey
from roundtrip.links.machine import LIVE
from roundtrip.links.record import Removal
from roundtrip.links.service import LinkService
from roundtrip.links.storage import StoreError
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)


class OwnedLinks(LinkService):
    """A link service whose links come and go."""

    def __init__(self, *args: Any, lease: NodeLease, **named: Any) -> None:
        """`args` and `named` are those of `LinkService`, with a `PostgresLinkStore`."""
        super().__init__(*args, **named)
        store = self._context.store
        if not isinstance(store, PostgresLinkStore):
            raise TypeError("links of several nodes are in one PostgreSQL")
        self._store = store
        self._lease = lease
        self._claims = Claims(store.tables)
        self._taking: set[BotKey] = set()
        """Keys of which the store may say that they are this node's, and this node does not yet."""
        self._adopting: dict[BotKey, asyncio.Event] = {}
        self._banned: set[str] = set()
        """Phone numbers that the store says are banned."""

    @property
    def waiting(self) -> int:
        """As `ownership.Service.waiting`."""
        return self.restoring.total - self.restoring.done

    def held(self) -> list[BotKey]:
        """As `ownership.Service.held`."""
        return [*self._links, *self._taking, *self._adopting]

    def is_live(self, key: BotKey) -> bool:
        """Whether a key's link is this node's, and has a session or waits for one."""
        return (link := self._links.get(key)) is not None and link.state in LIVE

    async def adopt(self, claimed: Claimed) -> bool:
        """As `ownership.Service.adopt`."""
        key = claimed.record.key
        while (under_way := self._adopting.get(key)) is not None:
            await under_way.wait()
        if key in self._links:
            return False
        self._adopting[key] = asyncio.Event()
        try:
            self._store.hold(key, claimed.fence)
            removals = await self._fetch_keys(claimed)
            self._context.removals.load(removals)
            self._adopt(claimed.record, claimed.since)
        except StoreError:
            self._store.lose(key, frozenset())
            log.error("link_not_taken", link_id=claimed.record.link_id)
            with suppress(StoreError):
                await self._claims.release(key, claimed.fence, None)
            return False
        finally:
            self._adopting.pop(key).set()
        self._context.removals.resume()
        self._spawn(self._restoration.run(), "links-restore")
        return True

    async def _fetch_keys(self, claimed: Claimed) -> list[Removal]:
        """Bring back the key files of a link and of its removals, which it returns. Raises `StoreError`."""
        record = claimed.record
        removals = await self._store.removals_of([record.key])
        if record.paired:
            await self._store.bring_back(record.link_id)
        for removal in removals:
            if removal.link_id != record.link_id:
                await self._store.bring_back(removal.link_id)
        if claimed.term != self._lease.term:
            raise StoreError("The lease under which the link was taken has ended.")
        return removals

    async def drop(self, key: BotKey) -> int:
        """Have a link no more: its session ends, its keys are stored. The fence that it had."""
        link = self._links.pop(key)
        self._restoration.discard(link)
        await link.close()
        link_ids = self._context.removals.of(key) | ({link.record.link_id} if link.record is not None else set())
        await self._context.removals.forget(key)
        return await self._store.let_go(key, frozenset(link_ids))

    def suspend(self) -> None:
        """As `ownership.Service.suspend`. What is known of the links stays to be shown."""
        for key, link in self._links.items():
            self._spawn(link.close(), "link-suspended")
            self._store.lose(key, frozenset() if link.record is None else frozenset({link.record.link_id}))

    async def start_over(self) -> None:
        """As `ownership.Service.start_over`."""
        links = list(self._links.items())
        self._links.clear()
        for _, link in links:
            self._restoration.discard(link)
        await asyncio.gather(*(link.close() for _, link in links))
        for key, link in links:
            await self._context.removals.forget(key)
            self._store.lose(key, frozenset() if link.record is None else frozenset({link.record.link_id}))

    async def refresh(self) -> None:
        """As `ownership.Service.refresh`: bans that other nodes were told of, or saw lifted."""
        bans = await self._store.bans(self._clock.now())
        for number in self._banned - bans.keys():
            self._context.bans.lift(number)
        for number in bans.keys() - self._banned:
            self._context.bans.add(number, bans[number])
        self._banned = set(bans)

    def _account_changed(self, key: BotKey, old: str | None, new: str | None) -> None:
        """Another node's link has another account: whose account is linked twice is known over all nodes."""
        if key in self._links:
            return  # it sees to that itself
        if old is not None:
            self._context.release(old, key)
        if new is not None:
            self._context.claim(new, key)
