"""Which stores the settings name: the SQLite files of one node, or a PostgreSQL, whose code is imported here and only
where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from roundtrip.drivers.base import Driver
from roundtrip.links.storage import LinkStorage
from roundtrip.links.store import LinkStore
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.settings import Settings
from roundtrip.telemetry.collectors import ClusterCollector

if TYPE_CHECKING:
    from roundtrip.outbox.postgres.outbox import PostgresOutbox

    AnyOutbox: TypeAlias = SqliteOutbox | PostgresOutbox


class Stores(NamedTuple):
    """`outbox` and `links` are not opened yet. `bind` makes a driver whose sessions this node may have, `node` is its
    name in a shared store."""

    outbox: AnyOutbox
    links: LinkStorage
    bind: Callable[[Driver], Driver]
    observe: Callable[[ClusterCollector], None]
    """Have the gauges of the cluster read."""
    node: str | None = None


async def open_stores(settings: Settings, stack: AsyncExitStack) -> Stores:
    """Join a shared store, which the stack's end leaves; the SQLite files need nothing. Raises `StartError`."""
    if settings.store is None:
        outbox = SqliteOutbox(
            settings.data_dir, retention=settings.outbox_retention, max_bytes=settings.outbox_max_bytes
        )
        return Stores(outbox, LinkStore(settings.data_dir), lambda driver: driver, lambda _: None)
    from roundtrip.cluster.shared_store import SharedStore

    shared = SharedStore(settings)
    stack.push_async_callback(shared.leave)
    await shared.join()
    return Stores(shared.outbox, shared.links, shared.driver, shared.observe, shared.lease.node_id)
