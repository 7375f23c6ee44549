"""The limits of sockets per key and user over all nodes.

A handshake asks how many sockets the other nodes have written. Of one user, one handshake after the other is let in
here, and the next only once the others can see what the one before it added: whatever clients do, a key or a user has
at most the limit and one socket more for each other node. While the store does not answer, each node counts its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from roundtrip.cluster.presence import FAILURES, Presence
from roundtrip.cluster.routing import Router
from roundtrip.identity import BotKey
from roundtrip.outbox.postgres.database import Pool, reason
from roundtrip.sockets.registry import Others, Registry

log = structlog.get_logger(__name__)

KEYS: Final = 1_000
"""Keys that one statement asks for."""

PATIENCE: Final = 1.0
"""Seconds that a handshake waits for the store."""

_HELD: Final = (
    "SELECT coalesce(sum(p.sockets) FILTER (WHERE p.bot_id = r.b), 0)::integer, coalesce(sum(p.sockets), 0)::integer "
    "FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (u, b, o) LEFT JOIN (presence p JOIN nodes n "
    "ON n.node_id = p.node_id AND n.node_id <> $3 AND n.lease_until > clock_timestamp()) ON p.user_id = r.u "
    "GROUP BY r.o ORDER BY r.o"
)


class Turns:
    """One node's handshakes. Lives on the event loop."""

    def __init__(self, pool: Pool, presence: Presence, router: Router, registry: Registry) -> None:
        self._pool = pool
        self._presence = presence
        self._router = router
        self._registry = registry
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        """By user id, with how many handshakes use it."""
        self._asking: dict[BotKey, list[asyncio.Future[Others]]] = {}
        self._question: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def of(self, key: BotKey) -> AsyncIterator[Others]:
        """As `Registry.others`."""
        if not self._router.others:
            yield Others()
            return
        lock, users = self._locks.get(key.user_id, (asyncio.Lock(), 0))
        self._locks[key.user_id] = lock, users + 1
        try:
            async with lock:
                yield await self._others(key)
        finally:
            lock, users = self._locks[key.user_id]
            if users == 1:
                del self._locks[key.user_id]
            else:
                self._locks[key.user_id] = lock, users - 1

    async def _others(self, key: BotKey) -> Others:
        try:
            async with asyncio.timeout(PATIENCE):
                for bot_id in self._registry.keys_of(key.user_id):
                    await self._presence.committed(BotKey(key.user_id, bot_id))
                reply: asyncio.Future[Others] = asyncio.get_running_loop().create_future()
                self._asking.setdefault(key, []).append(reply)
                if self._question is None or self._question.done():
                    self._question = asyncio.create_task(self._ask(), name="cluster-limits")
                return await reply
        except FAILURES as error:
            log.warning("sockets_of_others_not_known", error=reason(error))
            return Others()

    async def _ask(self) -> None:
        """Ask for all who wait, as long as some do."""
        while self._asking:
            asking, self._asking = self._asking, {}
            keys = list(asking)
            for start in range(0, len(keys), KEYS):
                some = keys[start : start + KEYS]
                try:
                    rows = await self._held(some)
                except FAILURES as error:
                    log.warning("sockets_of_others_not_known", error=reason(error))
                    rows = [Others()] * len(some)
                for key, row in zip(some, rows, strict=True):
                    for reply in asking[key]:
                        if not reply.done():
                            reply.set_result(Others(*row))

    async def _held(self, keys: list[BotKey]) -> Any:
        values = [key.user_id for key in keys], [key.bot_id for key in keys], self._router.node
        return await self._pool.run(lambda connection: connection.fetch(_HELD, *values))
