"""Delays between retries, and how often something may happen within a window. No timer of its own."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter over the upper half of each delay, to spread retries that began together.

    `first` and `cap` are in seconds; `draw` returns a number in [0, 1).
    """

    first: float
    cap: float
    draw: Callable[[], float] = random.random

    def delay(self, failures: int) -> float:
        """Seconds to wait after `failures` (≥ 1) failures in a row."""
        return self.full(failures) * (0.5 + self.draw() / 2)

    def full(self, failures: int) -> float:
        """The same without jitter, for what retries alone."""
        return min(self.cap, self.first * 2.0 ** min(failures - 1, 32))

    def longest(self) -> float:
        """The cap, with the same jitter."""
        return self.cap * (0.5 + self.draw() / 2)


@dataclass(slots=True)
class Budget:
    """At most `limit` occurrences within `window` seconds. Times are monotonic."""

    limit: int
    window: float
    _times: deque[float] = field(default_factory=deque)

    def spend(self, now: float) -> bool:
        """Count one occurrence at `now`; False when it was one too many."""
        self._times.append(now)
        self._drop_old(now)
        return len(self._times) <= self.limit

    def spent(self, now: float) -> int:
        """Occurrences within the window that ends at `now`."""
        self._drop_old(now)
        return len(self._times)

    def clear(self) -> None:
        self._times.clear()

    def _drop_old(self, now: float) -> None:
        while self._times and self._times[0] <= now - self.window:
            self._times.popleft()
