"""Deadlines and slices: in order, taken out at once, in short pieces, after what waits to be read, come what may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from roundtrip.delivery.deadlines import (
    GRANULARITY,
    LATE,
    MAX_POSTPONED,
    SLICE_PAUSE,
    SLICE_SECONDS,
    Deadlines,
    TimeSlicer,
)
from tests.support.stepped_clock import SteppedClock
from tests.support.stepped_loop import SteppedLoop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


def deadlines(loop: SteppedLoop, expired: Callable[[str], object], **more: Callable[..., object]) -> Deadlines[str]:
    async def make() -> Deadlines[str]:
        return Deadlines(5.0, expired, clock=loop.clock, **more)

    return loop.run(make())


def test_deadlines_expire_in_order_and_are_late_by_the_granularity_at_most(loop: SteppedLoop) -> None:
    expired: list[str] = []
    made = deadlines(loop, expired.append)
    made.add("first")
    loop.advance(3)
    made.add("second")
    loop.advance(1.9)
    assert expired == []
    loop.advance(0.1)
    assert expired == ["first"]
    loop.advance(3.1)
    assert expired == ["first", "second"]
    made.add("third")
    made.close()
    loop.advance(10)
    assert expired == ["first", "second"]


def test_a_discarded_deadline_is_gone_at_once(loop: SteppedLoop) -> None:
    expired: list[str] = []
    made = deadlines(loop, expired.append)
    for number in range(1000):
        made.add(f"{number}")
        made.discard(f"{number}")
        made.discard("never there")
    assert len(made) == 0
    made.add("last")
    loop.advance(5)
    assert expired == ["last"]


def test_an_item_that_is_added_again_has_its_whole_delay(loop: SteppedLoop) -> None:
    expired: list[str] = []
    made = deadlines(loop, expired.append)
    made.add("again")
    made.add("other")
    loop.advance(4.9)
    made.add("again")
    loop.advance(0.2)
    assert expired == ["other"]
    loop.advance(4.8)
    assert expired == ["other", "again"]


def test_a_failure_of_one_item_affects_no_other(loop: SteppedLoop) -> None:
    expired: list[str] = []
    failures: list[Exception] = []

    def fail(item: str) -> None:
        if item == "bad":
            raise ZeroDivisionError
        expired.append(item)

    made = deadlines(loop, fail, failed=failures.append)
    for item in ("one", "bad", "two"):
        made.add(item)
    loop.advance(5)
    assert expired == ["one", "two"]
    assert [type(error) for error in failures] == [ZeroDivisionError]
    made.add("later")
    loop.advance(5.1)
    assert expired[-1] == "later"


def test_many_deadlines_expire_in_slices_and_their_round_ends_once(loop: SteppedLoop) -> None:
    turns: list[int] = []
    turn = 0
    ends = 0

    def expired(_item: str) -> None:
        loop.clock.advance(SLICE_SECONDS / 4)  # so long does one take
        turns.append(turn)

    def over() -> None:
        nonlocal ends
        ends += 1

    made = deadlines(loop, expired, round_over=over)
    for number in range(40):
        made.add(f"{number}")
    loop.clock.advance(5)

    async def others() -> None:
        nonlocal turn
        for turn in range(60):  # noqa: B007  # `expired` reads it
            loop.clock.advance(SLICE_PAUSE / 2)
            await asyncio.sleep(0)

    loop.run(others())
    assert len(turns) == 40
    assert max(turns.count(turn) for turn in turns) <= 5
    assert len(set(turns)) >= 8
    assert ends == 1


def test_after_a_long_sleep_input_is_read_first(loop: SteppedLoop) -> None:
    """The process stood still: acknowledgements wait in the sockets' buffers while their deadlines are over."""
    expired: list[str] = []
    made = deadlines(loop, expired.append)
    made.add("acknowledged meanwhile")
    made.add("lost")
    loop.clock.advance(60)
    loop.settle()
    assert expired == []
    made.discard("acknowledged meanwhile")
    loop.advance(GRANULARITY)
    assert expired == ["lost"]


def test_on_a_loop_that_is_always_late_deadlines_expire_all_the_same(loop: SteppedLoop) -> None:
    expired: list[str] = []
    deadlines(loop, expired.append).add("one")
    loop.clock.advance(5)
    for _ in range(MAX_POSTPONED + 1):
        assert expired == []
        loop.advance(GRANULARITY + LATE + 0.01)
    assert expired == ["one"]


def test_short_work_is_over_when_start_returns() -> None:
    done: list[int] = []
    TimeSlicer([1, 2, 3], done.append, lambda: done.append(0), clock=SteppedClock()).start()
    assert done == [1, 2, 3, 0]


def test_long_work_yields_to_others_and_can_be_finished_or_cancelled(loop: SteppedLoop) -> None:
    clock = loop.clock
    done: list[int] = []
    failures: list[Exception] = []

    def each(item: int) -> None:
        clock.advance(SLICE_SECONDS)
        if item == 2:
            raise ZeroDivisionError
        done.append(item)

    def work() -> TimeSlicer[int]:
        done.clear()
        made = TimeSlicer(range(1, 7), each, lambda: done.append(0), clock=clock, failed=failures.append)
        loop.call_soon(made.start)
        loop.settle()
        return made

    work()
    assert done == [1]
    loop.advance(SLICE_PAUSE)
    assert (done, len(failures)) == ([1], 1)
    for _ in range(5):
        loop.advance(SLICE_PAUSE)
    assert done == [1, 3, 4, 5, 6, 0]
    work().finish()
    assert done == [1, 3, 4, 5, 6, 0]
    made = work()
    made.cancel()
    made.finish()
    for _ in range(9):
        loop.advance(SLICE_PAUSE)
    assert done == [1]
