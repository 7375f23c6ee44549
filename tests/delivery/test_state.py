"""How far a delivery is: which state may follow which, and that nothing else happens."""

from __future__ import annotations

from itertools import product
from typing import Final

import pytest

from roundtrip.delivery.state import ENDED, Delivery, DeliveryState
from roundtrip.errors import IllegalTransitionError
from roundtrip.outbox.records import Attempt, MissReason, Mode, Outcome
from tests.delivery.stage import stored

S = DeliveryState
BY_OUTBOX: Final = {S.SUPERSEDED, S.EXPIRED, S.DISCARDED}
LEGAL: Final = {
    S.QUEUED: {S.SENT, S.MISSED, *BY_OUTBOX},
    S.SENT: {S.RECEIPTED, S.ACKED, S.MISSED, *BY_OUTBOX},
    S.MISSED: {S.SENT, S.MISSED, S.LATE_RECEIPT, S.ACKED, *BY_OUTBOX},
    S.RECEIPTED: {S.RECEIVED, S.ACKED, *BY_OUTBOX},
    S.LATE_RECEIPT: {S.RECEIVED, S.ACKED, *BY_OUTBOX},
}


@pytest.mark.parametrize(("before", "after"), list(product(S, S)))
def test_a_transition_is_in_the_table_or_refused(before: DeliveryState, after: DeliveryState) -> None:
    delivery = Delivery(stored(1), Mode.LIVE, 0)
    delivery.state = before
    if after in LEGAL.get(before, ()):
        delivery.change(after)
        assert delivery.state is after
    else:
        with pytest.raises(IllegalTransitionError, match=f"id-1: {before.name.lower()} -> {after.name.lower()}"):
            delivery.change(after)
        assert delivery.state is before


def test_an_attempt_is_open_from_its_writing_to_its_end() -> None:
    assert {state for state in S if state.waiting} == {S.SENT, S.RECEIPTED}


def test_an_event_that_has_ended_or_is_about_to_is_not_sendable() -> None:
    """A receipt for an open attempt is no reason to leave out a socket that comes meanwhile: no attempt is begun."""
    assert {state for state in S if state.sendable} == {S.QUEUED, S.SENT, S.MISSED, S.RECEIPTED}


def test_an_end_has_the_name_and_the_outcome_of_the_outbox() -> None:
    assert {state.name for state in ENDED.values()} == {outcome.name for outcome in Outcome} - {"PENDING"}
    for outcome in Outcome:
        if outcome is not Outcome.PENDING:
            assert ENDED[outcome].outcome is outcome
    assert all(not state.following for state in ENDED.values())
    assert all(state.outcome is Outcome.PENDING for state in LEGAL)


def test_a_delivery_counts_all_its_attempts() -> None:
    delivery = Delivery(stored(1), Mode.LIVE, 0)
    for at in range(40):
        delivery.finish(Attempt(at, Mode.LIVE, 0, MissReason.NEVER_CONNECTED))
    assert delivery.tried == 40
    assert len(delivery.attempts) + sum(attempt.omitted for attempt in delivery.attempts) == 40
