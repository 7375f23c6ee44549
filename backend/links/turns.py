"""Who may start a session next: users take turns, so that one who starts many delays nobody else's first code."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """`limit` starts at once, and one more for a user that has none under way: nobody waits behind another's flood."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By user, in the order in which it is their turn."""

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it for as long as the block lasts."""
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(coming)
        self._let_in()
        try:
            await coming
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled():
                self._leave(user)  # it was let in and cancelled in the same breath
            else:
                self._forget(user, coming)
            raise
        try:
            yield
        finally:
            self._leave(user)

    def _leave(self, user: str) -> None:
        self._held[user] -= 1
        if self._held[user] <= 0:
            del self._held[user]
        self._let_in()

    def _forget(self, user: str, coming: asyncio.Future[None]) -> None:
        queue = self._waiting.get(user)
        if queue is not None and coming in queue:
            queue.remove(coming)
            if not queue:
                del self._waiting[user]

    def _let_in(self) -> None:
        while self._waiting:
            # The first of those that hold least; `min` keeps the order in which they wait.
            user = min(self._waiting, key=lambda name: self._held[name])
            room = self._limit + (self._held[user] == 0)
            if self._held.total() >= room:
                return
            queue = self._waiting.pop(user)
            coming = queue.popleft()
            if queue:
                self._waiting[user] = queue  # behind the others
            if not coming.done():
                self._held[user] += 1
                coming.set_result(None)
