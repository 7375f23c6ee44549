"""What is in flight for one key: what is held back, remembered, and known to have ended."""

from __future__ import annotations

from roundtrip.delivery.inflight import HELD_BACK_LIMIT, REMEMBERED, HeldBack, KeyInFlight
from roundtrip.delivery.state import Delivery
from roundtrip.outbox.records import Mode
from tests.delivery.stage import KEY, stored


def test_held_back_events_are_bounded_and_an_overflow_is_marked() -> None:
    held_back = HeldBack()
    for seq in range(HELD_BACK_LIMIT + 5):
        held_back.add(Delivery(stored(seq), Mode.LIVE, 0))
    assert len(held_back.deliveries) == HELD_BACK_LIMIT
    assert held_back.overflowed


def test_old_received_events_are_dropped() -> None:
    channel = KeyInFlight(KEY)
    for seq in range(REMEMBERED + 10):
        channel.remember_received(Delivery(stored(seq), Mode.LIVE, 0))
    assert len(channel.received) == REMEMBERED
    assert min(channel.received) == 10


def test_events_that_ended_during_a_replay_are_remembered_until_it_is_over() -> None:
    channel = KeyInFlight(KEY)
    assert channel.take(1) is None
    assert channel.resolved == set()
    channel.held_back["sid"] = HeldBack()
    channel.take(2)
    assert channel.resolved == {2}
    channel.replay_over("sid")
    assert channel.resolved == set()
