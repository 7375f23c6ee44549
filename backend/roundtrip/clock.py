"""Clocks: a wall clock that may step, and a monotonic one that never does. Tests replace both through these types.

Intervals (deadlines, budgets, backoff) are measured with `monotonic`. Moments that others see (timestamps, a token's
expiry) come from `wall`. Timers are the event loop's, whose time is monotonic too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    """The two clocks of a machine, which drift apart when the time is set."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never decreases."""

    def wall(self) -> float:
        """Seconds since the epoch; may step either way."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch; the same clock as `wall`."""


class SystemClock:
    """The clocks of this machine."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    wall_ns = staticmethod(time.time_ns)


SYSTEM: Final[Clock] = SystemClock()


class Handle(Protocol):
    """A scheduled call."""

    def cancel(self) -> None: ...


class TimerClock(Protocol):
    """A clock with timers. Times are in seconds; `now` is since the epoch and may step, `monotonic` never decreases."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle: ...

    async def sleep(self, delay: float) -> None: ...


class LoopClock:
    """A `TimerClock` on the running event loop."""

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
    # Rounded first: isoformat truncates, and 12.3 must not become 12.299.
    moment = datetime.fromtimestamp(round(seconds, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


STEP: Final = 0.5
"""Seconds that the wall clock must jump between two readings to count as a step; less is slewing."""


def steady(clock: Clock) -> Callable[[], float]:
    """A function that returns seconds on a clock that setting the time does not move. On the machine's own clock it
    includes suspends, which `monotonic` does not: they would look like a step of the wall clock."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if clock is not SYSTEM or boot is None:
        return clock.monotonic
    return lambda: time.clock_gettime(boot)


class SteppedOffset:
    """The wall clock as it was last set: it follows slewing, and continues evenly over a step until `apply_step`.

    For one thread. Its time never runs ahead of the steady clock.
    """

    __slots__ = ("_clock", "_offset", "_steady")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steady = steady(clock)
        self._offset = clock.wall_ns() - int(self._steady() * 1e9)

    def read(self) -> tuple[int, int]:
        """The wall clock as last set, and the step by which the real one differs, else 0. Both in nanoseconds."""
        before = self._steady()
        wall = self._clock.wall_ns()
        difference = wall - int(before * 1e9) - self._offset
        if abs(difference) < STEP * 1e9:
            self._offset += difference
            return wall, 0
        after = self._steady()
        if after - before > STEP / 2:  # the thread was suspended between the two readings: no evidence of a step
            return int(after * 1e9) + self._offset, 0
        return wall - difference, difference

    def now_ms(self) -> int:
        """Milliseconds since the epoch, on the wall clock as it was last set."""
        return self.read()[0] // 1_000_000

    def apply_step(self, ns: int) -> None:
        """Continue from the wall clock as it is after a step of `ns`."""
        self._offset += ns

    def set_offset(self, offset: int) -> None:
        """Adopt the `offset` of another instance over the same clock."""
        self._offset = offset

    @property
    def offset(self) -> int:
        """Wall minus steady time, in nanoseconds."""
        return self._offset
