"""Which stores the settings name: the SQLite files of one node, or a PostgreSQL, whose code is imported here and only
where it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from roundtrip.delivery.courier import Courier
from roundtrip.drivers.base import Driver
from roundtrip.links.service import LinkService
from roundtrip.links.storage import LinkStorage
from roundtrip.links.store import LinkStore
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.settings import Settings
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry.collectors import ClusterCollector

if TYPE_CHECKING:
    from roundtrip.outbox.postgres.outbox import PostgresOutbox

    AnyOutbox: TypeAlias = SqliteOutbox | PostgresOutbox


class Stores(NamedTuple):
    """`outbox` and `links` are not opened yet. `bind` makes a driver whose sessions this node may have, `service` the
    link service, from the arguments of `LinkService`, `share` tells other nodes of sockets and events until the stack
    ends. `node` is this node's name in a shared store."""

    outbox: AnyOutbox
    links: LinkStorage
    bind: Callable[[Driver], Driver]
    service: Callable[..., LinkService]
    share: Callable[[Registry, Courier, AsyncExitStack], Awaitable[None]]
    observe: Callable[[ClusterCollector], None]
    """Have the gauges of the cluster read."""
    limit_pairing: Callable[[Callable[[str], None]], None]
    """Have pairings counted that other nodes' callers begin on links of this one."""
    node: str | None = None


async def open_stores(settings: Settings, stack: AsyncExitStack) -> Stores:
    """Join a shared store, which the stack's end leaves; the SQLite files need nothing. Raises `StartError`."""
    if settings.store is None:
        outbox = SqliteOutbox(
            settings.data_dir, retention=settings.outbox_retention, max_bytes=settings.outbox_max_bytes
        )
        links = LinkStore(settings.data_dir)
        return Stores(outbox, links, lambda driver: driver, LinkService, _alone, lambda _: None, lambda _: None)
    from roundtrip.cluster.shared_store import SharedStore

    shared = SharedStore(settings)
    stack.push_async_callback(shared.leave)
    await shared.join()
    return Stores(
        shared.outbox,
        shared.links,
        shared.driver,
        shared.service,
        shared.share,
        shared.observe,
        shared.limit_pairing,
        shared.lease.node_id,
    )


async def _alone(_registry: Registry, _courier: Courier, _stack: AsyncExitStack) -> None:
    """There is nobody to share with."""
