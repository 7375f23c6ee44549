"""The event loop's clock, and times as text."""

from __future__ import annotations

import asyncio

from roundtrip.clock import LoopClock, rfc3339


def test_times_are_written_to_the_millisecond() -> None:
    assert rfc3339(1_800_000_000.0) == "2027-01-15T08:00:00.000Z"
    assert rfc3339(1_800_000_000.0005) in ("2027-01-15T08:00:00.000Z", "2027-01-15T08:00:00.001Z")
    assert rfc3339(1_800_000_000.29) == "2027-01-15T08:00:00.290Z"


async def test_the_real_clock() -> None:
    clock = LoopClock()
    over = asyncio.Event()
    clock.call_later(0.0, over.set)
    async with asyncio.timeout(5):
        await over.wait()
        await clock.sleep(0.0)
    assert clock.now() > 1_700_000_000
