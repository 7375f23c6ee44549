"""How late the event loop is: what every event waits, whatever else is fast."""

from __future__ import annotations

import asyncio
from typing import Final

from prometheus_client import Histogram

EVERY: Final = 0.25
"""Seconds between two looks: often enough to catch a stall, rare enough to cost nothing."""


class LoopLag:
    """A timer that asks to run every quarter of a second and notes how much later it did. Lives on the loop."""

    def __init__(self, histogram: Histogram, every: float = EVERY) -> None:
        self._histogram = histogram
        self._every = every
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._due = self._loop.time() + self._every
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._histogram.observe(max(0.0, self._loop.time() - self._due))
        self._arm()
