"""The input queue and the timers of a link."""

from __future__ import annotations

import asyncio
from pathlib import Path

from roundtrip.links.machine import Timer
from roundtrip.links.queue import ExpiredTimer, InputQueue, Timers
from tests.support.links import FakeClock, running_timers, settle


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


async def test_a_timer_that_is_cancelled_or_replaced_leaves_nothing_scheduled(tmp_path: Path) -> None:
    clock = FakeClock()
    expired: list[ExpiredTimer] = []
    timers = Timers(clock, expired.append)
    timers.arm(Timer.GRACE, 5.0)
    timers.arm(Timer.GRACE, 6.0)
    timers.arm(Timer.STUCK, 7.0)
    timers.arm(Timer.CALM, 8.0)
    assert running_timers(clock) == 3
    assert timers.names() == ("grace", "stuck", "calm")
    timers.cancel(Timer.GRACE)
    timers.cancel(Timer.GRACE)
    assert running_timers(clock) == 2
    timers.cancel_all({Timer.STUCK})
    assert (running_timers(clock), timers.armed(Timer.STUCK), timers.armed(Timer.CALM)) == (1, True, False)
    timers.cancel_all()
    assert running_timers(clock) == 0
    await clock.advance(10.0)
    assert expired == []


async def test_a_queue_that_is_closed_ends_what_is_under_way_and_what_waits() -> None:
    taken: list[int] = []
    ended: list[int] = []

    async def handle(item: int) -> None:
        taken.append(item)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    inbox = InputQueue(handle, lambda *_: None)
    assert inbox.put(1)
    assert inbox.put(2)
    await settle()
    assert (inbox.processed, len(inbox), inbox.idle) == (1, 1, False)
    await inbox.close()
    assert (taken, ended, len(inbox), inbox.idle) == ([1], [1], 0, True)
    assert not inbox.put(3)
    await inbox.join()
    await inbox.close()
