"""One serial queue per link: what happens to it is taken up in order, one thing at a time, without a standing task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """`handle` is awaited for each item, `on_error` is told what it raised. A task lives only while there is work."""

    def __init__(self, handle: Callable[[_T], Awaitable[None]], on_error: Callable[[_T, Exception], None]) -> None:
        self._handle = handle
        self._on_error = on_error
        self._items: deque[_T] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.taken = 0
        """How many items were taken up in all: unchanged means that nothing happened."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def idle(self) -> bool:
        return self._task is None

    def put(self, item: _T) -> bool:
        """Add an item; False when the inbox is closed."""
        if self._closed:
            return False
        self._items.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return True

    def drop(self, unwanted: Callable[[_T], bool]) -> None:
        """Forget waiting items."""
        self._items = deque(item for item in self._items if not unwanted(item))

    async def settled(self) -> None:
        """Return once nothing waits."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Drop what waits and end the work that is under way."""
        self._closed = True
        self._items.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._items:
                item = self._items.popleft()
                self.taken += 1
                try:
                    await self._handle(item)
                except Exception as error:  # noqa: BLE001  one bad item must not end the link
                    self._on_error(item, error)
        finally:
            self._task = None
