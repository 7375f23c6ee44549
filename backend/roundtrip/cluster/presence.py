"""Which keys have sockets on this node, written to the store for the others; and what these have written.

Every change is written within some 20 ms, many in one statement, and ends with this node's lease. A socket's replay
waits for it: from then on an event of another node is announced here, and what was committed before is read. The whole
is written again after the connection was lost or the lease was taken again, and only once every other node knows that
this one is there: each of its transactions that began before has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import asyncpg
import structlog

from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError, resolve_reply
from roundtrip.outbox.postgres.database import LOST, RETRIES, Pool, reason, store_away
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)

PAUSE: Final = 0.02
"""Seconds between two statements that write presence."""

KEYS: Final = 1_000
"""Keys that one statement writes."""

PATIENCE: Final = 5.0
"""Seconds that a replay waits for its key to be written."""

WATCHED: Final = 100_000
"""Keys of other nodes that are remembered as having a socket."""

FAILURES: Final = (*LOST, asyncpg.PostgresError, OutboxError)
"""Of a query through a `Pool`."""


_WRITE: Final = "SELECT presence_1($1, $2, $3, $4, $5)"
_OWN: Final = "SELECT user_id, bot_id FROM presence WHERE node_id = $1"
_OTHERS: Final = "SELECT node_id FROM nodes WHERE node_id <> $1 AND lease_until > clock_timestamp()"
_BARRIER: Final = "SELECT pg_advisory_xact_lock(1702, hashtext($1))"
"""Waits for the transactions of a node that are under way: each has asked for its fence under this lock."""
_WATCHED: Final = (
    "SELECT p.user_id, p.bot_id FROM presence p JOIN nodes n ON n.node_id = p.node_id "
    "WHERE p.node_id <> $1 AND n.lease_until > clock_timestamp() LIMIT $2"
)
_FORGET: Final = (
    "DELETE FROM departures WHERE (user_id, bot_id) IN (SELECT user_id, bot_id FROM departures "
    "WHERE left_at < clock_timestamp() - interval '1 day' ORDER BY left_at LIMIT 1000)"
)


class LocalSockets(Protocol):
    """The sockets of this node. `sockets/registry.py` implements it."""

    def of(self, key: BotKey) -> Any:
        """The key's sockets, something with a length."""

    def mapped(self) -> Any:
        """The keys that have one."""


class Presence:
    """One node's. `run` it as a task, and call `changed` whenever the number of a key's sockets changes."""

    def __init__(self, pool: Pool, lease: NodeLease, sockets: LocalSockets) -> None:
        self._pool = pool
        self._lease = lease
        self._sockets = sockets
        self._changed: dict[BotKey, None] = {}
        self._writing: dict[BotKey, None] = {}
        self._waiting: dict[BotKey, list[asyncio.Future[None]]] = {}
        """Who waits for a key that has changed."""
        self._written: dict[BotKey, list[asyncio.Future[None]]] = {}
        """Who waits for a key that is being written."""
        self._present: set[BotKey] = set()
        self._whole = True
        """Everything is to be written."""
        self._again = False
        """It has become so while everything was compared."""
        self._watched: frozenset[BotKey] = frozenset()
        self._wake = asyncio.Event()
        self.on_written: Callable[[Sequence[BotKey], bool], None] = lambda _keys, _others: None
        """Called with keys that now have a socket here and had none, and whether another node is alive."""

    def changed(self, key: BotKey) -> None:
        """The number of a key's sockets on this node has changed."""
        self._changed[key] = None
        self._wake.set()

    def rewrite(self) -> None:
        """What is stored may be gone: write everything."""
        self._whole = self._again = True
        self._wake.set()

    async def committed(self, key: BotKey) -> None:
        """Return once the other nodes see the key's sockets that are here now. Raises `OutboxError` when the store does
        not take it."""
        if self._whole or key in self._changed:
            waiting = self._waiting
            self._changed[key] = None
        elif key in self._writing:
            waiting = self._written
        else:
            return
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.setdefault(key, []).append(reply)
        try:
            async with asyncio.timeout(PATIENCE):
                await reply
        except TimeoutError:
            raise store_away("no answer in time") from None

    def watched(self, key: BotKey) -> bool:
        """Whether a key has a socket on any node, as far as is known."""
        return bool(self._sockets.of(key)) or key in self._watched

    async def run(self) -> None:
        """For ever: write what has changed."""
        failures = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                if self._whole:
                    await self._compare()
                while self._changed and not self._whole:
                    await self._write()
                    await asyncio.sleep(PAUSE)
                failures = 0
            except FAILURES as error:
                log.warning("presence_not_written", error=reason(error), keys=len(self._changed))
                self._refuse(store_away(reason(error)))
                self._whole = True
                self._wake.set()
                failures += 1
                await asyncio.sleep(RETRIES.full(failures))

    async def _compare(self) -> None:
        """See to it that no other node overlooks this one, and find out what is to be written."""
        self._again = False
        for row in await self._fetch(_OTHERS, self._lease.node_id):
            await self._fetch(_BARRIER, row[0])
        stored = {BotKey(*row) for row in await self._fetch(_OWN, self._lease.node_id)}
        self._whole, self._present = self._again, set()
        self._changed |= dict.fromkeys(stored) | dict.fromkeys(self._sockets.mapped())

    async def _write(self) -> None:
        keys = list(self._changed)[:KEYS]
        counts = [len(self._sockets.of(key)) for key in keys]
        self._writing = dict.fromkeys(keys)
        self._written = {key: self._waiting.pop(key) for key in keys if key in self._waiting}
        for key in keys:
            del self._changed[key]
        users, bots = [key.user_id for key in keys], [key.bot_id for key in keys]
        lease = self._lease
        try:
            ((others,),) = await self._fetch(_WRITE, lease.node_id, lease.fence, users, bots, counts)
        except BaseException:
            self._changed |= self._writing
            for key, replies in self._written.items():
                self._waiting.setdefault(key, []).extend(replies)
            raise
        finally:
            self._writing = {}
        for replies in self._written.values():
            for reply in replies:
                resolve_reply(reply, None)
        self._written = {}
        now = {key for key, count in zip(keys, counts, strict=True) if count}
        new = now - self._present
        self._present.difference_update(keys)
        self._present |= now
        self.on_written(tuple(new), others)

    def _refuse(self, error: OutboxError) -> None:
        waiting, self._waiting = self._waiting, {}
        for replies in waiting.values():
            for reply in replies:
                resolve_reply(reply, error)

    async def refresh(self) -> None:
        """Read which keys have sockets on other nodes, and forget departures of long ago. Raises one of `FAILURES`."""
        rows = await self._fetch(_WATCHED, self._lease.node_id, WATCHED)
        self._watched = frozenset(BotKey(*row) for row in rows)

    async def forget(self) -> None:
        """Delete what a day has made meaningless. Raises one of `FAILURES`."""
        await self._fetch(_FORGET)

    async def _fetch(self, sql: str, *values: Any) -> Any:
        return await self._pool.run(lambda connection: connection.fetch(sql, *values))
