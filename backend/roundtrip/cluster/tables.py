"""Reading and writing the tables of links: each write is one transaction that asks for the node's fence first.

One whose answer was lost is made again; what is written through here must bear that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg
import structlog

from roundtrip.links.storage import StoreError
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.connector import FENCED
from roundtrip.outbox.postgres.database import LOST, Database, Pool, reason
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

CONNECTIONS: Final = 4
TRIES: Final = 2
"""Of what lost its connection."""

_FENCE: Final = "SELECT require_fence_1($1, $2)"


class Tables:
    """Every coroutine raises `StoreError` when the store fails."""

    def __init__(self, database: Database, lease: NodeLease) -> None:
        self.lease = lease
        self._pool = Pool(database, CONNECTIONS)
        self._closed = False

    async def read(self, sql: str, *values: object) -> list[Any]:
        """The rows of a query, or of a statement that needs no fence."""

        async def query(db: Any) -> list[Any]:
            return list(await db.fetch(sql, *values))

        return await self._run(query)

    async def fenced(self, sql: str, *values: object) -> list[Any]:
        """The rows of a function that takes this node's name and fence before `values`, and asks for the latter."""

        async def query(db: Any) -> list[Any]:
            return list(await db.fetch(sql, self.lease.node_id, self.lease.fence, *values))

        return await self._run(query)

    async def execute(self, sql: str, *values: object) -> None:
        """One statement under this node's fence."""
        await self.write(lambda db: db.execute(sql, *values))

    async def write(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        """What `work` does with a connection, under this node's fence."""

        async def transaction(db: Any) -> _T:
            async with db.transaction():
                await db.execute(_FENCE, self.lease.node_id, self.lease.fence)
                return await work(db)

        return await self._run(transaction)

    async def _run(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        if self._closed:
            raise StoreError("The links' records are not open.")
        tries = 0
        while True:
            tries += 1
            fence = self.lease.fence
            try:
                return await self._pool.run(work)
            except LOST as error:
                if tries < TRIES:
                    continue
                failure: BaseException = error
            except (asyncpg.PostgresError, OutboxError) as error:
                if tries < TRIES and getattr(error, "sqlstate", "") == FENCED and fence != self.lease.fence:
                    continue  # the outbox took a new one meanwhile
                failure = error
            log.error("link_store_failed", error=reason(failure))
            raise StoreError(f"The links' records cannot be read or written: {reason(failure)}.") from failure

    def close(self) -> None:
        """Drop every connection."""
        self._closed = True
        self._pool.close()
