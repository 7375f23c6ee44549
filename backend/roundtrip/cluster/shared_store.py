"""What `ROUNDTRIP_STORE=postgresql://…` puts in the place of the SQLite files: outbox, links' records, a lease, and a
link service that knows of other nodes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import asyncpg
import structlog

from roundtrip.clock import SYSTEM
from roundtrip.cluster.fenced_driver import FencedDriver, fenced
from roundtrip.cluster.link_store import PostgresLinkStore
from roundtrip.cluster.presence import Presence
from roundtrip.cluster.routing import Router
from roundtrip.cluster.shared_links import SharedLinks
from roundtrip.cluster.signals import Signals
from roundtrip.cluster.turns import Turns
from roundtrip.delivery.courier import Courier
from roundtrip.drivers.base import Driver
from roundtrip.errors import StartError
from roundtrip.links.service import LinkService
from roundtrip.outbox.postgres.database import LOST, Database, Pool, reason
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from roundtrip.settings import Settings
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry.collectors import ClusterCollector

CONNECTIONS: Final = 2
"""For presence and routing together."""

log = structlog.get_logger(__name__)


class SharedStore:
    """`join` before anything else, `leave` last."""

    def __init__(self, settings: Settings) -> None:
        if settings.store is None:
            raise ValueError("ROUNDTRIP_STORE is not set")
        self._database = Database(settings.store.get_secret_value())
        self.lease = NodeLease(self._database, settings.node_id or uuid.uuid4().hex, settings.lease)
        self.outbox = PostgresOutbox(self._database, self.lease, retention=settings.outbox_retention, clock=SYSTEM)
        self.links = PostgresLinkStore(self._database, self.lease, settings.data_dir)
        self.signals = Signals(self._database, self.lease.node_id)
        self._pool = Pool(self._database, CONNECTIONS)
        self._presence: Presence | None = None
        self.router: Router | None = None
        """Once other nodes are told of this one's sockets."""
        self._driver: FencedDriver | None = None
        self._service: SharedLinks | None = None
        self._collector: ClusterCollector | None = None
        self._holding: asyncio.Task[None] | None = None
        self.lease.on_change = self._lease_changed

    async def join(self) -> None:
        """Check and migrate the store, and take a lease. Raises `StartError`."""
        await self._database.prepare()
        try:
            await self.lease.join()
            await self.signals.start()
        except (*LOST, asyncpg.PostgresError) as error:
            raise StartError(f"The store cannot be used: {reason(error)}.") from None
        self._holding = asyncio.create_task(self.lease.hold(), name="node-lease")

    def driver(self, driver: Driver) -> Driver:
        """The driver, its sessions bound to the lease."""
        self._driver = fenced(driver, self.lease)
        return self._driver

    def service(self, *args: Any, **named: Any) -> LinkService:
        """A link service, from the arguments of `LinkService`. Links whose page is open on any node come first."""
        here = named["watched"]
        named["watched"] = lambda key: here(key) or (self._presence is not None and self._presence.watched(key))
        self._service = service = SharedLinks(
            *args, lease=self.lease, signals=self.signals, took_over=self._took_over, **named
        )
        if self._driver is not None:
            self._driver.cleared = lambda: not service.ownership.lost
        return service

    def limit_pairing(self, limit: Callable[[str], None]) -> None:
        """Count pairings that other nodes' callers begin here."""
        if self._service is not None:
            self._service.limit_pairing = limit

    def _count(self, result: str, count: int) -> None:
        if self._collector is not None:
            self._collector.announcements[result] += count

    def _took_over(self, reason: str) -> None:
        if self._collector is not None:
            self._collector.takeovers[reason] += 1

    async def share(self, registry: Registry, courier: Courier, stack: AsyncExitStack) -> None:
        """Tell the other nodes of this one's sockets, and exchange events with them, until the stack ends."""
        presence = self._presence = Presence(self._pool, self.lease, registry)
        router = Router(self._pool, self.signals, presence, self.outbox.endings, lambda: SYSTEM.wall_ns() // 1_000_000)
        self.router = router
        router.on_announced, router.on_polled = partial(self._count, "sent"), partial(self._count, "found_later")
        arrivals = courier.share(router, registry.why_missing)
        stack.callback(arrivals.endings.close)
        router.attach(arrivals)
        registry.on_count = presence.changed
        self.signals.on_reconnected = presence.rewrite
        registry.others = Turns(self._pool, presence, router, registry).of
        courier.present = presence.committed
        self.outbox.on_commit = router.committed
        stack.callback(self._pool.close)
        presence.rewrite()
        for work in (presence.run, router.announce_all, router.answer_all, router.receive_all, arrivals.run):
            task = asyncio.create_task(work(), name=f"cluster-{work.__qualname__}")
            stack.push_async_callback(_ended, task)

    def observe(self, collector: ClusterCollector) -> None:
        """Have the gauges of the cluster read from here."""
        self._collector = collector
        collector.nodes = lambda: self.lease.nodes
        collector.lease_age = lambda: self.lease.age
        collector.lease = self.lease.seconds

    def _lease_changed(self, held: bool) -> None:
        if self._service is not None:
            self._service.ownership.lease_changed(held)
        if held and self._presence is not None:
            self._presence.rewrite()
        if self._driver is not None:
            self._driver.lease_changed(held)

    async def leave(self) -> None:
        """Give the lease up: the next node need not wait."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.wait((self._holding,))
        await self.signals.close()
        await self.lease.leave()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
