"""The writer's one connection: opened, lost and replaced, each time with a new fence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import structlog

from roundtrip.outbox.postgres.database import LOST, RETRIES, UNUSABLE, Database, reason
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)

FENCED: Final = "RT001"
"""SQLSTATE of a write with an old fence."""

NOT_OWNER: Final = "RT002"
"""SQLSTATE of a write of a link's record by a node that has it no more."""


class Lost(Exception):  # noqa: N818  # a state of the connection
    """There is no connection; the message says why, in a few words."""


class Connector:
    """Not for concurrent use but `up` and `close`."""

    def __init__(self, database: Database, lease: NodeLease) -> None:
        self.lease = lease
        self._database = database
        self._connection: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._why = "no connection yet"
        self._closed = False
        self.on_change: Callable[[bool], None] = lambda _up: None
        """Called when the store is reached, and when it no longer is."""
        self._told = False

    @property
    def up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    @property
    def over(self) -> bool:
        """Whether it was closed."""
        return self._closed

    async def get(self, patience: float | None) -> Any:
        """The connection; waits for one up to `patience` seconds, None for as long as it takes. Raises `Lost`."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._closed:
            raise Lost("it is closed")
        if self._connection is not None:
            self.failed(ConnectionResetError())
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="store-connection")
        if patience is None or (patience > 0 and not self._told_down()):
            await asyncio.wait((self._opening,), timeout=patience)
        if self._connection is None:
            raise Lost(self._why)
        return self._connection

    def _told_down(self) -> bool:
        """Whether callers have been refused already: the next ones need not wait for what is known."""
        return not self._told and self._refusing

    _refusing = False

    def failed(self, error: BaseException) -> None:
        """A statement failed: drop the connection if it is at an end, or cannot be trusted."""
        fenced = isinstance(error, asyncpg.PostgresError) and error.sqlstate == FENCED
        if not fenced and not isinstance(error, UNUSABLE):
            return
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
            self._why = "this node's lease has ended" if fenced else reason(error)
            log.warning("store_connection_lost", error=self._why)

    async def _open(self) -> None:
        """Try until there is one."""
        failures = 0
        while True:
            try:
                connection = await self._database.connect()
                try:
                    if await self.lease.refence(connection):
                        self._connection, self._opening = connection, None
                        self._tell(True)
                        return
                    self._why = "this node's lease has ended"
                except BaseException:
                    connection.terminate()
                    raise
                connection.terminate()
            except (*LOST, asyncpg.PostgresError) as error:
                self._why = reason(error)
            failures += 1
            delay = RETRIES.full(failures)
            if delay >= RETRIES.first * 8:
                self._tell(False)
            await asyncio.sleep(delay)

    def _tell(self, up: bool) -> None:
        self._refusing = not up
        if up != self._told:
            self._told = up
            log.log(20 if up else 40, "store_up" if up else "store_down", why="" if up else self._why)
            self.on_change(up)

    async def close(self) -> None:
        """Drop the connection, and open none any more."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
