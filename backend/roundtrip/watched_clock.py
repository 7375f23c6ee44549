"""A clock that notices when the machine's time is set. Apart from `clock.py`, which workers load too: it logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from roundtrip.clock import SYSTEM, Clock, SteppedOffset

log = structlog.get_logger(__name__)

CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks for a step while the time is not read."""


class WatchedClock:
    """A `Clock` that checks for a step whenever the wall time is read, and notifies `on_step` before it returns.

    For the event loop's thread.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._offset = SteppedOffset(clock)
        self.monotonic = clock.monotonic
        self.on_step: list[Callable[[int], object]] = []
        """Called with each step in nanoseconds, negative when the clock was set back."""
        self._timer: asyncio.TimerHandle | None = None

    def wall_ns(self) -> int:
        """As `Clock.wall_ns`."""
        now, step = self._offset.read()
        if step:
            self._step(step)
            now += step
        return now

    def wall(self) -> float:
        """As `Clock.wall`."""
        return self.wall_ns() / 1e9

    def _step(self, step: int) -> None:
        self._offset.apply_step(step)
        log.warning("clock_stepped", seconds=round(step / 1e9, 3))
        for callback in self.on_step:
            try:
                callback(step)
            except Exception:  # the other callbacks must be notified all the same
                log.exception("clock_step_not_followed")

    def start(self) -> None:
        """Check at intervals, for as long as the loop runs or until `stop`."""
        self.wall_ns()
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self.start)

    def stop(self) -> None:
        """Check once more, then no longer at intervals."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wall_ns()
