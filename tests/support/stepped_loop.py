"""An event loop whose clock a test moves: timers fire when the test says that their time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.support.stepped_clock import SteppedClock

T = TypeVar("T")


class SteppedLoop(asyncio.SelectorEventLoop):
    """Time stands still between two `advance`s; threads go on, so results of theirs are waited for as ever."""

    def __init__(self, clock: SteppedClock | None = None) -> None:
        super().__init__()
        self.clock = clock or SteppedClock()

    def time(self) -> float:
        return self.clock.monotonic()

    def advance(self, seconds: float) -> None:
        """Move the clock and run what became due."""
        self.clock.advance(seconds)
        self.settle()

    def settle(self) -> None:
        """Run what is ready, and what that makes ready."""
        self.run_until_complete(_turns(5))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.run_until_complete(work)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
