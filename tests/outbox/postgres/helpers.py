"""What the tests of the PostgreSQL outbox share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from roundtrip.outbox.postgres.database import Database
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from tests.support.drafts import Clock

Open: TypeAlias = Callable[..., Awaitable[PostgresOutbox]]
"""Opens an outbox in the test's database, with the options of `PostgresOutbox`."""

EPOCH = 1_700_000_000_000


def store_clock(clock: Clock) -> Callable[[], int]:
    """The database's clock: it passes as `clock` does, and nobody sets it."""
    return lambda: EPOCH + round(clock.monotonic() * 1000)


async def joined(
    url: str, node_id: str = "node", seconds: float = 3600.0, **options: Any
) -> tuple[Database, NodeLease]:
    """A prepared database, and a lease in it."""
    database = Database(url, **options)
    await database.prepare()
    lease = NodeLease(database, node_id, seconds)
    await lease.join()
    return database, lease
