"""What `ROUNDTRIP_STORE=postgresql://…` puts in the place of the SQLite files: outbox, links' records, and a lease.

One node at a time may use a store as yet: `join` waits for a dead node's lease to end, and refuses beside a live one.
"""

from __future__ import annotations

import asyncio
import uuid

import structlog

from roundtrip.clock import SYSTEM
from roundtrip.cluster.fenced_driver import FencedDriver, fenced
from roundtrip.cluster.link_store import PostgresLinkStore
from roundtrip.drivers.base import Driver
from roundtrip.errors import StartError
from roundtrip.outbox.postgres.database import LOST, Database, reason
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from roundtrip.settings import Settings
from roundtrip.telemetry.collectors import ClusterCollector

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
        self._driver: FencedDriver | None = None
        self._holding: asyncio.Task[None] | None = None
        self.lease.on_change = self._lease_changed

    async def join(self) -> None:
        """Check and migrate the store, and take a lease. Raises `StartError`."""
        await self._database.prepare()
        try:
            await self.lease.join()
        except LOST as error:
            raise StartError(f"The store cannot be used: {reason(error)}.") from None
        self._holding = asyncio.create_task(self.lease.hold(), name="node-lease")

    def driver(self, driver: Driver) -> Driver:
        """The driver, its sessions bound to the lease."""
        self._driver = fenced(driver, self.lease)
        return self._driver

    def observe(self, collector: ClusterCollector) -> None:
        """Have the gauges of the cluster read from here."""
        collector.nodes = lambda: self.lease.nodes
        collector.lease_age = lambda: self.lease.age

    def _lease_changed(self, held: bool) -> None:
        if self._driver is not None:
            self._driver.lease_changed(held)

    async def leave(self) -> None:
        """Give the lease up: the next node need not wait."""
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.wait((self._holding,))
        await self.lease.leave()
