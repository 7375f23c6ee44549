"""Notices when somebody sets the machine's clock, so that what was measured against the old one can follow.

A wall clock moves apart from the monotonic one in two ways: slowly, when it is slewed, which is followed in silence;
and at once, when it is stepped. Nothing may expire, and no interval may be wrong, because of a step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from backend.clock import SYSTEM, Clock

log = structlog.get_logger(__name__)

STEP: Final = 0.5
"""Seconds by which the wall clock must jump between two looks to have been stepped; less is slewing."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks when nobody asks for the time."""


def steady(clock: Clock) -> Callable[[], float]:
    """Seconds that no setting of the clock moves. On the machine's own clock a suspend counts, for it is time that
    passed; `monotonic` alone would make it look like a step."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is not SYSTEM or boot is None:
        return clock.monotonic
    return lambda: time.clock_gettime(boot)


class Frame:
    """The wall clock as it was last set: it follows slewing, and goes on evenly over a step until `moved`.

    For one thread. What it gives never runs ahead of what steady time explains.
    """

    __slots__ = ("_clock", "_offset", "_steady")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steady = steady(clock)
        self._offset = clock.wall_ns() - int(self._steady() * 1e9)

    def look(self) -> tuple[int, int]:
        """The wall clock as last set, and how far the real one is from it: 0, or a step. Both in nanoseconds."""
        before = self._steady()
        wall = self._clock.wall_ns()
        apart = wall - int(before * 1e9) - self._offset
        if abs(apart) < STEP * 1e9:
            self._offset += apart
            return wall, 0
        after = self._steady()
        if after - before > STEP / 2:  # this thread was stopped between the two clocks: that says nothing
            return int(after * 1e9) + self._offset, 0
        return wall - apart, apart

    def now_ms(self) -> int:
        """Milliseconds since the epoch, on the wall clock as it was last set."""
        return self.look()[0] // 1_000_000

    def moved(self, ns: int) -> None:
        """Take a step over."""
        self._offset += ns

    def follow(self, offset: int) -> None:
        """Take the clock over as another frame of the same clock has it."""
        self._offset = offset

    @property
    def offset(self) -> int:
        """Wall minus steady time, in nanoseconds."""
        return self._offset


class WatchedClock:
    """A `Clock` that looks for a step whenever it is asked for the wall time, and tells `on_step` before it answers.

    For the event loop's thread. Times that were read before a step are made comparable with those after it by adding
    the growth of `stepped_ns`.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._frame = Frame(clock)
        self.monotonic = clock.monotonic
        self.on_step: list[Callable[[int], object]] = []
        """Each is told a step in nanoseconds, negative when the clock was set back."""
        self.stepped_ns = 0
        """The sum of all steps so far."""
        self._timer: asyncio.TimerHandle | None = None

    def wall_ns(self) -> int:
        """As `Clock.wall_ns`."""
        now, step = self._frame.look()
        if step:
            self._step(step)
            now += step
        return now

    def wall(self) -> float:
        """As `Clock.wall`."""
        return self.wall_ns() / 1e9

    def _step(self, step: int) -> None:
        self._frame.moved(step)
        self.stepped_ns += step
        log.warning("clock_stepped", seconds=round(step / 1e9, 3))
        for tell in self.on_step:
            try:
                tell(step)
            except Exception:  # the others must follow the step all the same
                log.exception("clock_step_not_followed")

    def start(self) -> None:
        """Look now and then, for as long as the loop runs or until `stop`."""
        self.wall_ns()
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self.start)

    def stop(self) -> None:
        """Look once more, and then no longer by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wall_ns()
