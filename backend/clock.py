"""Time: a wall clock that may step, and a monotonic one that never does. The one seam through which tests step both.

Whoever measures an interval (a deadline, a budget, a backoff) asks `monotonic`. Whoever names a moment to others (a
timestamp, a token's end) asks `wall`. Timers are the event loop's, whose time is monotonic too.
"""

from __future__ import annotations

import time
from typing import Final, Protocol


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
