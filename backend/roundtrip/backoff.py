"""How long to wait before a session is started again, and when to stop trying. Pure."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling delays with full upper-half jitter: many links that fell together do not come back together.

    `first` and `cap` are in seconds.
    """

    first: float
    cap: float
    draw: Callable[[], float] = random.random

    def delay(self, failures: int) -> float:
        """Seconds to wait after `failures` (≥ 1) failures in a row."""
        whole = min(self.cap, self.first * 2.0 ** min(failures - 1, 32))
        return whole * (0.5 + self.draw() / 2)

    def longest(self) -> float:
        """The cap, with the same jitter."""
        return self.cap * (0.5 + self.draw() / 2)


@dataclass(slots=True)
class Budget:
    """How often something may happen within `window` seconds. Times are monotonic."""

    limit: int
    window: float
    _times: deque[float] = field(default_factory=deque)

    def spend(self, now: float) -> bool:
        """Note that it happened at `now`; False when that was once too often."""
        self._times.append(now)
        self._forget(now)
        return len(self._times) <= self.limit

    def spent(self, now: float) -> int:
        """How often it happened within the window."""
        self._forget(now)
        return len(self._times)

    def clear(self) -> None:
        self._times.clear()

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - self.window:
            self._times.popleft()
