"""Time as links see it: a seam, so that tests need not wait 160 seconds for a code to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Handle(Protocol):
    """A call to come."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """All times are in seconds; `now` counts from the epoch."""

    def now(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle: ...

    async def sleep(self, delay: float) -> None: ...


class LoopClock:
    """The real one, on the running event loop."""

    def now(self) -> float:
        return time.time()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Handle:
        return asyncio.get_running_loop().call_later(delay, callback)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds."""
    # Rounded first: isoformat cuts, and 12.3 must not become 12.299.
    moment = datetime.fromtimestamp(round(seconds, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
