"""Time: a wall clock that may step, and a monotonic one that never does. The one seam through which tests step both.

Whoever measures an interval (a deadline, a budget, a backoff) asks `monotonic`. Whoever names a moment to others (a
timestamp, a token's end) asks `wall`. Timers are the event loop's, whose time is monotonic too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog


class Clock(Protocol):
    """The two clocks of a machine, which move apart when somebody sets the time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def wall(self) -> float:
        """Seconds since the epoch; may step either way."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch; the same clock as `wall`."""


class SystemClock:
    """The machine's own."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    wall_ns = staticmethod(time.time_ns)


SYSTEM: Final[Clock] = SystemClock()


class Handle(Protocol):
    """A call to come."""

    def cancel(self) -> None: ...


class TimerClock(Protocol):
    """All times are in seconds; `now` counts from the epoch and may step, `monotonic` never goes back."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle: ...

    async def sleep(self, delay: float) -> None: ...


class LoopClock:
    """The real one, on the running event loop. `clock` is the machine's, or a test's."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.wall()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        return asyncio.get_running_loop().call_later(delay, callback)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds."""
    # Rounded first: isoformat cuts, and 12.3 must not become 12.299.
    moment = datetime.fromtimestamp(round(seconds, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


class SteppedOffset:
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
        self._frame = SteppedOffset(clock)
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
