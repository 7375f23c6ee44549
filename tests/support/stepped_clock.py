"""Wall and monotonic time as a test wants them: together, or apart as when somebody sets the machine's clock."""

from __future__ import annotations


class SteppedClock:
    """Stands still until told. Give it to `SteppedLoop` as well, and its timers follow `monotonic`."""

    def __init__(self, wall: float = 1_800_000_000.0, monotonic: float = 1000.0) -> None:
        """Both in seconds."""
        self._wall_ns = int(wall * 1e9)
        self._monotonic = monotonic

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall_ns / 1e9

    def wall_ns(self) -> int:
        return self._wall_ns

    def advance(self, seconds: float) -> None:
        """Time passes: both clocks move."""
        self._monotonic += seconds
        self._wall_ns += int(seconds * 1e9)

    def step(self, seconds: float) -> None:
        """Somebody sets the clock: the wall clock alone moves, either way."""
        self._wall_ns += int(seconds * 1e9)
