"""Times as text, the loop's clock, and steps of the wall clock: noticed and counted; slewing and pauses are none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from roundtrip.clock import STEP, SYSTEM, LoopClock, SteppedOffset, rfc3339, steady
from roundtrip.watched_clock import CHECK_INTERVAL, WatchedClock
from tests.support.stepped_clock import SteppedClock
from tests.support.stepped_loop import SteppedLoop

DAY = 86_400


@pytest.mark.parametrize("seconds", [DAY, -DAY, STEP + 0.1, -STEP - 0.1])
def test_callbacks_are_notified_of_a_step_before_the_time_is_returned(seconds: float) -> None:
    clock = SteppedClock()
    watched = WatchedClock(clock)
    steps: list[int] = []
    watched.on_step += [steps.append, lambda _: steps.append(watched.wall_ns())]
    before = watched.wall()
    clock.step(seconds)
    assert watched.wall() == clock.wall()
    assert steps == [int(seconds * 1e9), clock.wall_ns()]
    assert watched.wall() - steps[0] / 1e9 == pytest.approx(before, abs=1e-3)
    assert len(steps) == 2


def test_slewing_and_time_that_passes_are_no_steps() -> None:
    clock = SteppedClock()
    watched = WatchedClock(clock)
    steps: list[int] = []
    watched.on_step.append(steps.append)
    for _ in range(1000):
        clock.advance(1)
        clock.step(-0.0005)  # as fast as a kernel slews
        assert watched.wall() == clock.wall()
    clock.advance(30 * DAY)
    assert watched.wall() == clock.wall()
    assert steps == []


def test_a_offset_goes_on_evenly_until_it_is_told() -> None:
    clock = SteppedClock()
    offset = SteppedOffset(clock)
    before = offset.now_ms()
    clock.step(DAY)
    clock.advance(2)
    assert offset.now_ms() == before + 2000
    offset.apply_step(DAY * 10**9)
    assert offset.now_ms() == clock.wall_ns() // 1_000_000
    clock.step(-DAY)
    assert offset.now_ms() == before + 2000 + DAY * 1000
    offset.set_offset(SteppedOffset(clock).offset)
    assert offset.now_ms() == before + 2000


def test_a_pause_between_the_two_readings_is_no_step() -> None:
    class Pausing(SteppedClock):
        pause = 0.0

        def wall_ns(self) -> int:
            self.advance(self.pause)
            return super().wall_ns()

    clock = Pausing()
    watched = WatchedClock(clock)
    steps: list[int] = []
    watched.on_step.append(steps.append)
    clock.pause = 3.0  # this thread is stopped just there
    assert watched.wall() == pytest.approx(SteppedClock.wall(clock), abs=0.001)
    assert steps == []


def test_a_failing_callback_does_not_keep_the_step_from_the_others() -> None:
    clock = SteppedClock()
    watched = WatchedClock(clock)
    steps: list[int] = []

    def broken(_ns: int) -> None:
        raise ZeroDivisionError

    watched.on_step += [broken, steps.append]
    clock.step(5)
    watched.wall_ns()
    assert steps == [5 * 10**9]


def test_it_checks_at_intervals() -> None:
    loop = SteppedLoop()
    watched = WatchedClock(loop.clock)
    steps: list[int] = []
    watched.on_step.append(steps.append)

    async def start() -> None:
        watched.start()

    try:
        loop.run(start())
        loop.clock.step(DAY)
        loop.advance(CHECK_INTERVAL)
        assert len(steps) == 1
        loop.clock.step(-DAY)
        loop.advance(CHECK_INTERVAL)
        assert len(steps) == 2
        loop.clock.step(7)
        watched.stop()
        assert len(steps) == 3
        loop.clock.step(7)
        loop.advance(5 * CHECK_INTERVAL)
        assert len(steps) == 3
    finally:
        loop.close()


def test_a_suspend_is_time_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.clock_gettime
    slept = 0.0
    gettime: Callable[[int], float] = lambda which: real(which) + slept  # noqa: E731  # as short as it gets
    monkeypatch.setattr(time, "clock_gettime", gettime)
    now = steady(SYSTEM)
    before = now()
    slept = 3600.0
    assert 3600 <= now() - before < 3610


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
