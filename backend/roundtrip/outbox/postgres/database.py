"""Connections to the PostgreSQL store: how one is made, what must be true of the server, and which errors mean what.

Nothing here retries: the outbox's writer and the users of `Pool` decide what a failure means for what they wrote.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import asyncpg
import structlog

from roundtrip.backoff import Backoff
from roundtrip.errors import StartError
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.migrations import migrate

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

OLDEST_SERVER: Final = 140_000
"""PostgreSQL 14: the oldest release whose SQL the migrations use."""

CONNECT_TIMEOUT: Final = 5.0
HOST_PATIENCE: Final = 0.5
"""Seconds until the next of several hosts is tried beside one that has not answered yet."""
ANSWER_TIMEOUT: Final = 5.0
"""Seconds until a connection or an answer counts as lost. A network that drops packets says nothing by itself."""

RETRIES: Final = Backoff(0.05, 1.0)
"""How long those wait who need a connection again that was lost."""

_SESSION: Final = {
    "statement_timeout": "10000",
    "idle_in_transaction_session_timeout": "10000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    # Every statement has one good plan, by indexes. Statistics of tables that were empty a minute ago are not asked.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_SET: Final = ";".join(f"SET {name} = '{text}'" for name, text in _SESSION.items())

POOLED: Final = (
    "ROUNDTRIP_STORE leads through a proxy that pools transactions (PgBouncer's pool_mode=transaction): LISTEN and the "
    "session's settings do not work there. Use PostgreSQL's own address, or pool_mode=session."
)

REFUSED: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)
"""The transaction was rolled back and may be tried again at once."""

LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
"""The connection is gone; whether what was under way is committed is not known."""

UNUSABLE: Final = (*LOST, asyncpg.ReadOnlySQLTransactionError)
"""After these a connection is replaced: a server that has become a standby takes no writes, another one does."""


def store_away(why: str) -> OutboxError:
    """The error of every call while PostgreSQL cannot be reached, or refuses writes."""
    return OutboxError("store_unavailable", f"The store cannot be reached at the moment: {why}.")


def reason(error: BaseException) -> str:
    """An error in a few words, without an address and without a value."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__} ({error.sqlstate})"
    return type(error).__name__


class Database:
    """One store's address, checked once by `prepare`, and its connections."""

    def __init__(self, dsn: str, *, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        """`dsn` as libpq takes it; several hosts name a primary and its standbys. `answer_timeout` in seconds."""
        self._dsn = dsn
        self._dsns = _one_each(dsn)
        self.answer_timeout = answer_timeout

    async def connect(self, **options: Any) -> Any:
        """A connection to the server that takes writes. Raises one of `LOST` or an `asyncpg.PostgresError`."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await _first([partial(self._open, dsn, options) for dsn in self._dsns])
            try:
                await connection.execute(_SET)  # not at the start of the session, where PgBouncer refuses them
            except BaseException:
                connection.terminate()
                raise
            return connection

    async def _open(self, dsn: str, options: dict[str, Any]) -> Any:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_TIMEOUT,
            command_timeout=self.answer_timeout,
            server_settings={"application_name": "roundtrip"},
            target_session_attrs="read-write",
            **options,
        )

    async def prepare(self) -> int:
        """Check the server and migrate its schema; the schema's version. Raises `StartError`."""
        try:
            connection = await self.connect(statement_cache_size=0)
        except (*LOST, asyncpg.PostgresError, ValueError) as error:
            raise StartError(f"The store {address(self._dsn)} cannot be used: {told(error)}.") from None
        try:
            await refuse_pooling(connection, self.connect)
            version = connection.get_server_version()
            if version.major * 10_000 < OLDEST_SERVER:
                raise StartError(f"The store is PostgreSQL {version.major}; this program needs 14 or later.", 2)
            if (
                await connection.fetchval(
                    "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
                )
                != "UTF8"
            ):
                raise StartError("The store's database must have the encoding UTF8.", 2)
            return await migrate(connection)
        except (*LOST, asyncpg.PostgresError) as error:
            if "statement pooling mode" in str(error):
                raise StartError(POOLED, 2) from None
            raise StartError(f"The store {address(self._dsn)} cannot be used: {told(error)}.") from None
        finally:
            connection.terminate()


def _one_each(dsn: str) -> list[str]:
    """The addresses of the hosts that a DSN names."""
    parts = urlsplit(dsn)
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]


async def _first(attempts: Sequence[Callable[[], Awaitable[Any]]]) -> Any:
    """The connection of the first attempt that succeeds. The next one is started when one fails, or says nothing for a
    while: a machine that is off does not refuse a connection. Raises what the last one raised."""
    waiting, running = deque(attempts), set[asyncio.Task[Any]]()
    error: BaseException | None = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.popleft()()))
            done, running = await asyncio.wait(
                running, timeout=HOST_PATIENCE if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (error := task.exception()) is None:
                    running |= done - {task}
                    return task.result()
        raise error or OSError("no host")
    finally:
        for task in running:
            task.add_done_callback(_let_go)
            task.cancel()


def _let_go(task: asyncio.Task[Any]) -> None:
    """An attempt that was not needed: it may have succeeded before it was cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


async def refuse_pooling(first: Any, connect: Callable[..., Awaitable[Any]]) -> None:
    """Raise `StartError` when two sessions share one server process, which only a pooling proxy does."""

    async def pid(connection: Any) -> int:
        async with connection.transaction():  # what pools transactions keeps one together
            return int(await connection.fetchval("SELECT pg_backend_pid()"))

    mine = await pid(first)
    if first.get_server_pid() == mine:
        return  # no proxy that has a word in it
    second = await connect(statement_cache_size=0)
    try:
        async with second.transaction():
            held = int(await second.fetchval("SELECT pg_backend_pid()"))
            if held == mine or await pid(first) != mine:
                raise StartError(POOLED, 2)
    finally:
        second.terminate()


def told(error: BaseException) -> str:
    """An error as the server tells it, in one line."""
    if isinstance(error, asyncpg.PostgresError) and error.args:
        return str(error.args[0]).splitlines()[0].rstrip(".")
    return (
        "no answer in time"
        if isinstance(error, TimeoutError)
        else (str(error).splitlines() or [""])[0] or reason(error)
    )


def address(dsn: str) -> str:
    """Where a store is, without user and password."""
    parts = urlsplit(dsn)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


class Pool:
    """A few connections for what may run side by side: reads, link records. Opened on demand, replaced when lost."""

    def __init__(self, database: Database, size: int) -> None:
        self._database = database
        self._free: list[Any] = []
        self._slots = asyncio.Semaphore(size)
        self._open: set[Any] = set()
        self._closed = False

    async def run(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        """Call `work` with a connection of its own. Raises what it raises; a lost connection is not used again."""
        async with self._slots:
            if self._closed:
                raise store_away("it is closed")
            connection = self._free.pop() if self._free else None
            if connection is None or connection.is_closed():
                self._open.discard(connection)
                connection = await self._database.connect()
                self._open.add(connection)
            try:
                async with asyncio.timeout(self._database.answer_timeout):
                    result = await work(connection)
            except BaseException as error:
                if isinstance(error, asyncpg.PostgresError) and not isinstance(error, UNUSABLE):
                    self._free.append(connection)
                else:  # lost, or interrupted in the middle of an answer
                    self._open.discard(connection)
                    connection.terminate()
                raise
            self._free.append(connection)
            return result

    def close(self) -> None:
        """Drop every connection."""
        self._closed = True
        for connection in self._open:
            connection.terminate()
        self._open.clear()
        self._free.clear()
