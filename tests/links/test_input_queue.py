"""A link's queue and its timers: serial, and robust against items and deadlines that came too late."""

from __future__ import annotations

import asyncio

from roundtrip.links.machine import Timer
from roundtrip.links.queue import ExpiredTimer, InputQueue, Timers
from tests.support.links import FakeClock


async def test_a_timer_that_was_dropped_after_it_expired_is_void() -> None:
    clock = FakeClock()
    expired: list[ExpiredTimer] = []
    timers = Timers(clock, expired.append)
    timers.arm(Timer.GRACE, 5.0)
    timers.arm(Timer.PAIRED, 6.0)
    await clock.advance(7.0)
    assert [s.timer for s in expired] == [Timer.GRACE, Timer.PAIRED]
    timers.cancel(Timer.GRACE)
    timers.arm(Timer.PAIRED, 6.0)
    assert [timers.consume(s) for s in expired] == [False, False]
    await clock.advance(7.0)
    assert timers.consume(expired[-1])
    assert not timers.consume(expired[-1])
    assert not timers.armed(Timer.PAIRED)


async def test_the_queue_is_serial_and_survives_an_item_that_raises() -> None:
    seen: list[str] = []
    broken: list[tuple[int, str]] = []

    async def handle(item: int) -> None:
        seen.append(f"+{item}")
        await asyncio.sleep(0)
        if item == 2:
            raise ValueError("two")
        seen.append(f"-{item}")

    inbox = InputQueue(handle, lambda item, error: broken.append((item, str(error))))
    for item in (1, 2, 3):
        assert inbox.put(item)
    await inbox.join()
    assert seen == ["+1", "-1", "+2", "+3", "-3"]
    assert broken == [(2, "two")]
    assert inbox.idle
    await inbox.close()
    assert not inbox.put(4)


async def test_waiting_items_can_be_dropped() -> None:
    seen: list[int] = []

    async def handle(item: int) -> None:
        seen.append(item)
        await asyncio.sleep(0)

    inbox = InputQueue(handle, lambda *_: None)
    for item in range(6):
        inbox.put(item)
    inbox.discard(lambda item: item % 2 == 0)
    await inbox.join()
    assert seen == [1, 3, 5]
