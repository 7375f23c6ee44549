"""Time as links see it: a seam, so that tests need not wait 160 seconds for a code to end.

Moments that others see (`now`) come from the wall clock, which somebody may set. Intervals (budgets, backoff,
deadlines) are measured on `monotonic` and with timers, which no setting of the clock moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from backend.clock import SYSTEM, Clock


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
