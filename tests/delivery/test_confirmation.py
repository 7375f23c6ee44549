"""Acknowledgements, receipts, timeouts and retries: what is sent again and what is not, and when."""

from __future__ import annotations

from typing import Any

import pytest

from roundtrip.backoff import Backoff
from roundtrip.delivery.confirmation import ACK_GRACE
from roundtrip.delivery.deadlines import MAX_SLICE_ITEMS
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from tests.delivery.stage import ACK_TIMEOUT, KEY, Stage


def test_an_unacknowledged_event_is_retried_until_it_is_acknowledged(stage: Stage) -> None:
    client = stage.join()
    row = stage.publish()
    stage.pass_time(ACK_TIMEOUT + 2.2)
    assert client.received_events == [(1, 1), (1, 2)]
    assert [(a.reason, a.sids) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, ("one",))]
    client.ack(1)
    stage.pass_time(200)
    assert client.received_events == [(1, 1), (1, 2)]
    assert (row.outcome, len(row.attempts), row.attempts[1].reason) == (Outcome.ACKED, 2, None)


def test_an_open_attempt_is_not_retried(stage: Stage) -> None:
    client = stage.join()
    stage.publish()
    stage.pass_time(ACK_TIMEOUT - 0.5)
    stage.publish()  # still has its time when the first is sent again
    stage.pass_time(1.5)
    stage.pass_time(2)
    assert client.received_events == [(1, 1), (2, 1), (1, 2)]


def test_clients_that_owe_no_acknowledgement_get_no_retries(stage: Stage) -> None:
    quiet = stage.join("quiet", must_ack=False)
    owing = stage.join("owing", must_ack=True)
    stage.publish()
    stage.pass_time(ACK_TIMEOUT + 2.2)
    assert (quiet.received_events, owing.received_events) == ([(1, 1)], [(1, 1), (1, 2)])


def test_an_event_with_a_receipt_is_not_retried(stage: Stage) -> None:
    stage.courier.confirmations._backoff = Backoff(0.2, 0.2)  # before the receipt's moment is over
    quiet = stage.join("quiet", must_ack=False)
    owing = stage.join("owing", must_ack=True)
    row = stage.publish()
    stage.pass_time(ACK_TIMEOUT + 0.05)  # given up
    quiet.receipt()
    stage.pass_time(ACK_GRACE - 0.1)
    assert row.pending
    stage.pass_time(3)
    assert row.outcome is Outcome.RECEIVED
    assert owing.received_events == [(1, 1)]


def test_an_expired_event_is_not_retried(stage: Stage) -> None:
    client = stage.join()
    stage.publish(expires_at=stage.watch.wall_ns() // 1_000_000 + 5500)
    stage.pass_time(1)
    stage.outbox.fault_down = True  # so that the outbox does not end it
    stage.pass_time(30)
    assert client.received_events == [(1, 1)]


def test_no_retry_outlives_the_socket_that_it_was_for(stage: Stage) -> None:
    client = stage.join()
    stage.publish()
    stage.pass_time(ACK_TIMEOUT + 0.1)  # a retry waits for its time
    client.leave()
    again = stage.join("again")
    assert again.received_events == [(1, 2)]
    stage.pass_time(ACK_TIMEOUT - 0.5)
    assert again.received_events == [(1, 2)]


def test_an_attempt_that_times_out_during_a_retry_is_retried_too(stage: Stage) -> None:
    client = stage.join()
    for _ in range(200):
        stage.publish()
    stage.pass_time(ACK_TIMEOUT + 0.1)
    while len(client.received_events) <= 200:
        stage.loop.advance(0.002)
    assert len(client.received_events) < 400  # the first slice is out, the others wait
    channel = stage.courier._inflight.keys[KEY]
    stage.call(lambda: stage.courier.confirmations.timed_out(channel.inflight[1]))
    stage.pass_time(2.3)
    assert [attempt for seq, attempt in client.received_events if seq == 1] == [1, 2, 3]
    assert [attempt for seq, attempt in client.received_events if seq == 2] == [1, 2]


def test_the_time_of_a_receipt_is_that_of_the_first_one(stage: Stage) -> None:
    one, two = stage.join("one", must_ack=False), stage.join("two", must_ack=False)
    row = stage.publish()
    stage.clock.advance(0.2)
    at = stage.clock.wall_ns() // 1_000_000
    one.receipt()
    stage.clock.advance(0.1)
    two.receipt()
    stage.pass_time(ACK_GRACE + 0.1)
    assert (row.outcome, row.resolved_at, row.attempts[-1].receipt_at) == (Outcome.RECEIVED, at, at)
    assert row.attempts[-1].ack_at is None


def test_a_receipt_of_a_client_that_owes_an_acknowledgement_is_recorded_with_the_attempt(stage: Stage) -> None:
    client = stage.join()
    row = stage.publish()
    stage.clock.advance(0.2)
    at = stage.clock.wall_ns() // 1_000_000
    client.receipt()
    stage.pass_time(ACK_TIMEOUT)
    assert [(a.reason, a.receipt_at) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, at)]


def test_an_acknowledgement_removes_the_deadlines(stage: Stage) -> None:
    client = stage.join(must_ack=False)
    for seq in range(1, 101):
        stage.publish()
        client.receipt()
        client.ack(seq)
    assert (len(stage.courier.confirmations.timeouts), len(stage.courier.confirmations.graces)) == (0, 0)


def test_misses_of_one_round_are_reported_as_one(stage: Stage) -> None:
    client = stage.join()
    for _ in range(50):
        stage.publish()
    client.leave()
    stage.pass_time(0.1)
    (misses,) = stage.notes.rounds
    assert (misses.count, misses.event.seq, misses.last_seq) == (50, 1, 50)
    client = stage.join("again")
    stage.pass_time(ACK_TIMEOUT + 0.2)
    assert [misses.count for misses in stage.notes.rounds] == [50, 50]


def test_a_failure_of_one_event_is_counted_and_affects_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client = stage.join()
    rows = [stage.publish() for _ in range(4)]
    record = stage.outbox.record

    def fail(key: BotKey, seq: int, attempts: Any) -> None:
        if seq == 2:
            raise ZeroDivisionError
        record(key, seq, attempts)

    monkeypatch.setattr(stage.outbox, "record", fail)
    stage.pass_time(ACK_TIMEOUT + 0.2)
    assert [len(row.attempts) for row in rows] == [1, 0, 1, 1]
    assert stage.notes.failed_ == 1
    stage.pass_time(2)
    client.leave()
    stage.pass_time(0.1)
    assert [len(row.attempts) for row in rows] == [2, 0, 2, 2]
    assert stage.notes.failed_ == 2


def test_a_late_receipt_ends_an_event_although_another_socket_comes(stage: Stage) -> None:
    """The attempt was given up when the receipt came: no new one begins, and the time of the end is the receipt's."""
    owing, quiet = stage.join("owing"), stage.join("quiet", must_ack=False)
    row = stage.publish()
    stage.pass_time(ACK_TIMEOUT + 0.05)
    at = stage.clock.wall_ns() // 1_000_000
    quiet.receipt()
    late = stage.join("late")
    stage.pass_time(ACK_GRACE)
    assert (row.outcome, row.resolved_at) == (Outcome.RECEIVED, at)
    assert [(a.reason, a.receipt_at) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, at)]
    assert (owing.received_events, late.received_events) == ([(1, 1)], [])


def test_an_acknowledgement_of_what_was_never_sent_is_refused_and_counted(stage: Stage) -> None:
    """No client can: it is refused by its socket. Here the event is one that was held back for a socket that left."""
    client = stage.join_slowly()
    rows = [stage.publish() for _ in range(MAX_SLICE_ITEMS + 1)]
    client.leave()  # all but the last are released at once
    again = stage.join("again", replay=False)
    last = len(rows) + 1
    again.ack(last)
    assert stage.notes.failed_ == 1
    assert rows[-1].pending
    stage.pass_time(1)
    again.ack(last)
    assert (stage.notes.failed_, rows[-1].outcome) == (1, Outcome.ACKED)
