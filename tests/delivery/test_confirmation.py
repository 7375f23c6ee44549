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


def test_what_a_client_does_not_acknowledge_is_sent_again_until_it_does(stage: Stage) -> None:
    client = stage.join()
    row = stage.publish()
    stage.let(ACK_TIMEOUT + 2.2)
    assert client.got == [(1, 1), (1, 2)]
    assert [(a.reason, a.sids) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, ("one",))]
    client.ack(1)
    stage.let(200)
    assert client.got == [(1, 1), (1, 2)]
    assert (row.outcome, len(row.attempts), row.attempts[1].reason) == (Outcome.ACKED, 2, None)


def test_what_is_under_way_is_not_sent_again(stage: Stage) -> None:
    client = stage.join()
    stage.publish()
    stage.let(ACK_TIMEOUT - 0.5)
    stage.publish()  # still has its time when the first is sent again
    stage.let(1.5)
    stage.let(2)
    assert client.got == [(1, 1), (2, 1), (1, 2)]


def test_clients_that_owe_no_acknowledgement_are_not_sent_anything_again(stage: Stage) -> None:
    quiet = stage.join("quiet", must_ack=False)
    owing = stage.join("owing", must_ack=True)
    stage.publish()
    stage.let(ACK_TIMEOUT + 2.2)
    assert (quiet.got, owing.got) == ([(1, 1)], [(1, 1), (1, 2)])


def test_what_a_client_confirmed_by_a_receipt_is_not_sent_again(stage: Stage) -> None:
    stage.courier.confirmations._backoff = Backoff(0.2, 0.2)  # before the receipt's moment is over
    quiet = stage.join("quiet", must_ack=False)
    owing = stage.join("owing", must_ack=True)
    row = stage.publish()
    stage.let(ACK_TIMEOUT + 0.05)  # given up
    quiet.receipt()
    stage.let(ACK_GRACE - 0.1)
    assert row.pending
    stage.let(3)
    assert row.outcome is Outcome.RECEIVED
    assert owing.got == [(1, 1)]


def test_what_has_expired_is_not_sent_again(stage: Stage) -> None:
    client = stage.join()
    stage.publish(expires_at=stage.watch.wall_ns() // 1_000_000 + 5500)
    stage.let(1)
    stage.outbox.fault_down = True  # so that nobody says that it has expired
    stage.let(30)
    assert client.got == [(1, 1)]


def test_no_retry_outlives_the_socket_that_it_was_for(stage: Stage) -> None:
    client = stage.join()
    stage.publish()
    stage.let(ACK_TIMEOUT + 0.1)  # a retry waits for its time
    client.leave()
    again = stage.join("again")
    assert again.got == [(1, 2)]
    stage.let(ACK_TIMEOUT - 0.5)
    assert again.got == [(1, 2)]


def test_an_attempt_that_runs_out_while_a_retry_passes_it_by_is_sent_again(stage: Stage) -> None:
    client = stage.join()
    for _ in range(200):
        stage.publish()
    stage.let(ACK_TIMEOUT + 0.1)
    while len(client.got) <= 200:
        stage.loop.advance(0.002)
    assert len(client.got) < 400  # the first slice is out, the others wait
    channel = stage.courier._inflight.keys[KEY]
    stage.do(lambda: stage.courier.confirmations.timed_out(channel.inflight[1]))
    stage.let(2.3)
    assert [attempt for seq, attempt in client.got if seq == 1] == [1, 2, 3]
    assert [attempt for seq, attempt in client.got if seq == 2] == [1, 2]


def test_the_time_of_a_receipt_is_that_of_the_first(stage: Stage) -> None:
    one, two = stage.join("one", must_ack=False), stage.join("two", must_ack=False)
    row = stage.publish()
    stage.clock.advance(0.2)
    at = stage.clock.wall_ns() // 1_000_000
    one.receipt()
    stage.clock.advance(0.1)
    two.receipt()
    stage.let(ACK_GRACE + 0.1)
    assert (row.outcome, row.resolved_at, row.attempts[-1].receipt_at) == (Outcome.RECEIVED, at, at)
    assert row.attempts[-1].ack_at is None


def test_a_receipt_of_who_owes_an_acknowledgement_is_kept_with_the_attempt(stage: Stage) -> None:
    client = stage.join()
    row = stage.publish()
    stage.clock.advance(0.2)
    at = stage.clock.wall_ns() // 1_000_000
    client.receipt()
    stage.let(ACK_TIMEOUT)
    assert [(a.reason, a.receipt_at) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, at)]


def test_an_acknowledgement_takes_its_deadlines_along(stage: Stage) -> None:
    client = stage.join(must_ack=False)
    for seq in range(1, 101):
        stage.publish()
        client.receipt()
        client.ack(seq)
    assert (len(stage.courier.confirmations.timeouts), len(stage.courier.confirmations.graces)) == (0, 0)


def test_many_that_miss_together_are_one_line(stage: Stage) -> None:
    client = stage.join()
    for _ in range(50):
        stage.publish()
    client.leave()
    stage.let(0.1)
    (misses,) = stage.notes.rounds
    assert (misses.count, misses.event.seq, misses.last_seq) == (50, 1, 50)
    client = stage.join("again")
    stage.let(ACK_TIMEOUT + 0.2)
    assert [misses.count for misses in stage.notes.rounds] == [50, 50]


def test_a_mistake_about_one_event_is_counted_and_costs_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client = stage.join()
    rows = [stage.publish() for _ in range(4)]
    record = stage.outbox.record

    def fail(key: BotKey, seq: int, attempts: Any) -> None:
        if seq == 2:
            raise ZeroDivisionError
        record(key, seq, attempts)

    monkeypatch.setattr(stage.outbox, "record", fail)
    stage.let(ACK_TIMEOUT + 0.2)
    assert [len(row.attempts) for row in rows] == [1, 0, 1, 1]
    assert stage.notes.failed_ == 1
    stage.let(2)
    client.leave()
    stage.let(0.1)
    assert [len(row.attempts) for row in rows] == [2, 0, 2, 2]
    assert stage.notes.failed_ == 2


def test_a_late_receipt_ends_an_event_although_another_socket_comes(stage: Stage) -> None:
    """The attempt was given up when the receipt came: no new one begins, and the time of the end is the receipt's."""
    owing, quiet = stage.join("owing"), stage.join("quiet", must_ack=False)
    row = stage.publish()
    stage.let(ACK_TIMEOUT + 0.05)
    at = stage.clock.wall_ns() // 1_000_000
    quiet.receipt()
    late = stage.join("late")
    stage.let(ACK_GRACE)
    assert (row.outcome, row.resolved_at) == (Outcome.RECEIVED, at)
    assert [(a.reason, a.receipt_at) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, at)]
    assert (owing.got, late.got) == ([(1, 1)], [])


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
    stage.let(1)
    again.ack(last)
    assert (stage.notes.failed_, rows[-1].outcome) == (1, Outcome.ACKED)
