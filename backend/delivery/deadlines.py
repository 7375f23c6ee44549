"""Many deadlines of one length, with one timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

GRAIN: Final = 0.02
"""Seconds by which a deadline may be late, so that a stream of them is not a stream of timers."""


class Deadlines(Generic[T]):
    """Calls back for each item when its time is up; whoever no longer cares says so then."""

    __slots__ = ("_delay", "_items", "_loop", "_timer", "_up")

    def __init__(self, delay: float, up: Callable[[T], None]) -> None:
        """`delay` is in seconds and the same for all, so that the oldest is always the next."""
        self._delay = delay
        self._up = up
        self._loop = asyncio.get_running_loop()
        self._items: deque[tuple[float, T]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: T) -> None:
        self._items.append((self._loop.time() + self._delay, item))
        if self._timer is None:
            self._timer = self._loop.call_later(self._delay, self._tick)

    def _tick(self) -> None:
        items = self._items
        now = self._loop.time()
        while items and items[0][0] <= now:
            self._up(items.popleft()[1])
        self._timer = self._loop.call_later(max(GRAIN, items[0][0] - now), self._tick) if items else None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._items.clear()
