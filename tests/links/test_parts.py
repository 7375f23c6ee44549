"""The small parts: waiting times, budgets, deadlines, the queue, phone numbers."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.backoff import Backoff, Budget
from roundtrip.clock import LoopClock, rfc3339
from roundtrip.links.machine import Timer
from roundtrip.links.phone import canonical, parse_phone_number
from roundtrip.links.queue import ExpiredTimer, InputQueue, Timers
from roundtrip.links.reasons import LinkError
from tests.links.helpers import FakeClock


@given(st.integers(0, 200), st.floats(0.0, 1.0, exclude_max=True))
def test_delays_double_up_to_the_cap_with_jitter(attempt: int, drawn: float) -> None:
    delay = Backoff(1.0, 60.0, lambda: drawn).delay(attempt + 1)
    whole = min(60.0, 2.0**attempt)
    assert whole / 2 <= delay <= whole


def test_two_links_do_not_come_back_together() -> None:
    assert len({Backoff(1.0, 60.0).delay(5) for _ in range(50)}) > 40


def test_a_budget_is_of_a_window() -> None:
    budget = Budget(2, 10.0)
    assert [budget.spend(t) for t in (0.0, 1.0, 2.0, 10.5, 12.0)] == [True, True, False, False, True]
    assert budget.spent(100.0) == 0


def test_times_are_written_to_the_millisecond() -> None:
    assert rfc3339(1_800_000_000.0) == "2027-01-15T08:00:00.000Z"
    assert rfc3339(1_800_000_000.0005) in ("2027-01-15T08:00:00.000Z", "2027-01-15T08:00:00.001Z")
    assert rfc3339(1_800_000_000.29) == "2027-01-15T08:00:00.290Z"


async def test_a_deadline_that_was_dropped_after_it_struck_is_void() -> None:
    clock = FakeClock()
    struck: list[ExpiredTimer] = []
    timers = Timers(clock, struck.append)
    timers.arm(Timer.GRACE, 5.0)
    timers.arm(Timer.PAIRED, 6.0)
    await clock.pass_(7.0)
    assert [s.timer for s in struck] == [Timer.GRACE, Timer.PAIRED]
    timers.cancel(Timer.GRACE)
    timers.arm(Timer.PAIRED, 6.0)
    assert [timers.consume(s) for s in struck] == [False, False]
    await clock.pass_(7.0)
    assert timers.consume(struck[-1])
    assert not timers.consume(struck[-1])
    assert not timers.armed(Timer.PAIRED)


async def test_the_queue_is_serial_and_survives_a_bad_item() -> None:
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


async def test_the_queue_can_forget_what_waits() -> None:
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


async def test_the_real_clock() -> None:
    clock = LoopClock()
    over = asyncio.Event()
    clock.call_later(0.0, over.set)
    async with asyncio.timeout(5):
        await over.wait()
        await clock.sleep(0.0)
    assert clock.now() > 1_700_000_000


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+14155550142", "+14155550142"),
        (" +44 (0)20 7946 0958", "+442079460958"),
        ("+49-1512-3456789", "+4915123456789"),
        ("+55 11 8765-4321", "+551187654321"),
        ("+52 1 55 1234 5678", "+5215512345678"),
        ("+229 61 23 45 67", "+22961234567"),
    ],
)
def test_a_phone_number_is_brought_to_one_form(text: str, number: str) -> None:
    assert parse_phone_number(text) == number


@given(st.text(max_size=200))
def test_no_text_breaks_the_phone_number_check(text: str) -> None:
    try:
        number = parse_phone_number(text)
    except LinkError as error:
        outcome = error.code
    else:
        outcome = "valid" if number.startswith("+") and number[1:].isdigit() and number.isascii() else number
    assert outcome in ("phone_number_invalid", "valid")


def test_a_number_without_its_plus_is_told_what_is_missing() -> None:
    with pytest.raises(LinkError, match=r"lacks the \+"):
        parse_phone_number("11 98765-4321")


@pytest.mark.parametrize(("old", "new"), [("+551187654321", "+5511987654321"), ("+5215512345678", "+525512345678")])
def test_two_ways_to_write_a_number_are_one_account(old: str, new: str) -> None:
    assert canonical(old) == canonical(new)
