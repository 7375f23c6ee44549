"""The courier: how long events live, sockets that leave, and a clock that is set."""

from __future__ import annotations

import pytest

from roundtrip.events import Qr
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import FIRST_ATTEMPTS, LAST_ATTEMPTS, MissReason, Outcome
from tests.delivery.stage import ACK_TIMEOUT, TTL, Stage


def test_a_code_expires_by_its_own_deadline_and_no_event_outlives_the_ttl(stage: Stage) -> None:
    now = stage.watch.wall_ns() // 1_000_000
    long = stage.publish(expires_at=now + 10**9)
    code = stage.publish(Qr("2@secret", 1, 6, "2027-01-15T08:00:20.000Z"), expires_at=now + 20_000)
    assert (code.event.expires_at, long.event.expires_at) == (now + 20_000, now + int(TTL * 1000))
    stage.pass_time(20.2)
    assert (code.outcome, long.outcome) == (Outcome.EXPIRED, Outcome.PENDING)
    assert stage.join().received_events == [(1, 2)]


def test_held_back_events_of_a_socket_that_leaves_are_missed(stage: Stage) -> None:
    client = stage.join(replay=False)  # its replay waits for the outbox
    row = stage.publish()
    assert client.received_events == []
    client.leave()
    stage.pass_time(0.1)
    assert [(a.reason, a.sockets) for a in row.attempts] == [(MissReason.JUST_DISCONNECTED, 0)]
    assert stage.join("again").received_events == [(1, 2)]


def test_events_that_a_leaving_socket_receipted_are_received(stage: Stage) -> None:
    client = stage.join(must_ack=False)
    row = stage.publish()
    client.receipt()
    client.leave()
    stage.pass_time(0.1)
    assert (row.outcome, row.attempts[-1].reason) == (Outcome.RECEIVED, None)
    assert stage.join("again").received_events == []


def test_an_event_keeps_its_first_and_last_attempts_and_a_count(stage: Stage) -> None:
    row = stage.publish()
    for number in range(40):
        stage.join(f"s{number}").leave()
        stage.pass_time(0.1)
    assert (len(row.attempts), sum(a.omitted for a in row.attempts)) == (FIRST_ATTEMPTS + LAST_ATTEMPTS, 41 - 10)
    assert [a.sids for a in row.attempts] == [(), ("s0",), ("s1",), *((f"s{n}",) for n in range(33, 40))]
    assert stage.join("last").received_events == [(1, 42)]


@pytest.mark.parametrize("seconds", [86_400, -86_400])
def test_a_step_of_the_clock_expires_nothing_and_changes_no_interval(stage: Stage, seconds: int) -> None:
    client = stage.join()
    now = stage.watch.wall_ns() // 1_000_000
    row = stage.publish()
    code = stage.publish(Qr("2@secret", 1, 6, "x"), expires_at=now + 20_000)
    stage.pass_time(ACK_TIMEOUT + 0.1)
    stage.clock.step(seconds)
    stage.pass_time(2.2)
    assert client.received_events == [(1, 1), (2, 1), (1, 2), (2, 2)]
    client.ack(1)
    (delivery,) = stage.notes.settled_
    assert 0 < delivery.ack_ns - delivery.started_ns < 3e9
    assert 7 < delivery.ack_ns / 1e9 - delivery.event.created_at / 1e3 < 8
    assert code.outcome is Outcome.PENDING
    again = stage.join("again")
    assert again.received_events == [(2, 2)]
    stage.pass_time(20)
    assert (code.outcome, row.outcome) == (Outcome.EXPIRED, Outcome.ACKED)
    assert stage.join("late").received_events == []


def test_who_asks_whether_events_can_be_stored_asks_the_outbox(stage: Stage) -> None:
    """A link that waits for the outbox tries again once this raises no more."""
    stage.loop.run(stage.courier.check())
    stage.outbox.fault_down = True
    with pytest.raises(OutboxError) as refusal:
        stage.loop.run(stage.courier.check())
    assert refusal.value.code == "outbox_unavailable"
    stage.outbox.fault_down = False
    stage.loop.run(stage.courier.check())
