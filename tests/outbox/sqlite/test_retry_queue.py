"""Failed writes that nobody waits for: when they are retried, what is dropped, what is logged."""

from __future__ import annotations

import pytest

from roundtrip.identity import BotKey
from roundtrip.outbox.base import Record, Resolve
from roundtrip.outbox.records import Outcome
from roundtrip.outbox.sqlite import maintenance
from roundtrip.outbox.sqlite.batch import ClockStep
from roundtrip.outbox.sqlite.maintenance import RetryQueue
from tests.support.stepped_clock import SteppedClock

KEY = BotKey("user", "bot")


def resolve(seq: int) -> Resolve:
    return Resolve(KEY, seq, Outcome.ACKED, 1, "[]")


def test_the_delay_doubles_up_to_a_second() -> None:
    clock = SteppedClock()
    retries = RetryQueue(clock.monotonic)
    assert retries.retry_in() == float("inf")
    delays = []
    for _ in range(8):
        retries.add([resolve(1)])
        retries.failed("down")
        assert not retries.due()
        delays.append(round(retries.retry_in(), 3))
        clock.advance(delays[-1] - 0.001)
        assert not retries.due()
        clock.advance(0.002)
        assert retries.due()
        retries.take()
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    retries.succeeded()
    retries.add([resolve(1)])
    assert retries.due()
    retries.failed("down again")
    assert retries.retry_in() == pytest.approx(0.05)


def test_only_many_failed_writes_delay_new_ones() -> None:
    clock = SteppedClock()
    retries = RetryQueue(clock.monotonic)
    retries.add([resolve(seq) for seq in range(1000)])
    retries.failed("down")
    assert not retries.must_wait()
    retries.add([resolve(1000)])
    assert retries.must_wait()
    clock.advance(0.06)
    assert not retries.must_wait()


def test_ended_events_are_known_until_their_end_is_written() -> None:
    retries = RetryQueue()
    assert retries.ended_events() == frozenset()
    retries.add([resolve(1), Record(KEY, 2, "[]"), resolve(3)])
    assert retries.ended_events() == {(KEY, 1), (KEY, 3)}
    assert retries.take(1) == [resolve(1)]
    assert retries.ended_events() == {(KEY, 3)}
    retries.add([resolve(1)])
    assert retries.ended_events() == {(KEY, 1), (KEY, 3)}
    retries.take()
    assert retries.ended_events() == frozenset()


def test_past_the_limit_records_are_dropped_first_then_the_newest_ends_but_no_step_of_the_clock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(maintenance, "_RETRY_LIMIT", 3)
    retries = RetryQueue()
    note, move = Record(KEY, 9, "[]"), ClockStep(5, 5)
    retries.add([resolve(1), note, resolve(2)])
    assert "outbox_writes_dropped" not in capsys.readouterr().out
    retries.add([resolve(0)])
    assert "outbox_writes_dropped" in capsys.readouterr().out
    assert retries.take() == [resolve(0), resolve(1), resolve(2)]
    retries.add([resolve(0), resolve(1), resolve(2), resolve(3), move])
    assert retries.take() == [resolve(0), resolve(1), resolve(2), move]


def test_an_outage_is_logged_at_once_then_at_intervals_and_its_end_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = SteppedClock()
    retries = RetryQueue(clock.monotonic)

    def logged() -> list[str]:
        text = capsys.readouterr().out
        return [name for name in ("outbox_write_failed", "outbox_recovered") if name in text]

    retries.succeeded()
    assert logged() == []
    for _ in range(2):  # a second outage is reported as the first was
        retries.failed("down")
        assert logged() == ["outbox_write_failed"]
        for _ in range(9):
            clock.advance(1)
            retries.failed("down")
            assert logged() == []
        clock.advance(1)
        retries.failed("down")
        assert logged() == ["outbox_write_failed"]
        retries.succeeded()
        assert logged() == ["outbox_recovered"]
        retries.succeeded()
        assert logged() == []
