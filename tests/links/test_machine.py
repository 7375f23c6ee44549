"""The terms of the state machine: which states wait for what, and that each term has one meaning."""

from __future__ import annotations

from roundtrip.links import machine
from roundtrip.links.machine import ENDED, LIVE, Timer
from roundtrip.links.record import LinkState


def test_every_state_is_live_or_ended() -> None:
    assert set(LinkState) == LIVE | ENDED
    assert not LIVE & ENDED
    assert machine.PAIRING | machine.SHOWING | machine.UP < LIVE


def test_every_live_state_that_could_wait_for_ever_has_a_timer() -> None:
    """A code brings its own deadline; a connection is watched by the library and by `reconciliation.py`."""
    waits = {state for state, timers in machine.STATE_TIMERS.items() if timers}
    assert waits >= LIVE - machine.SHOWING - {LinkState.CONNECTED}
    assert {s.value: {t.name for t in timers} for s, timers in machine.STATE_TIMERS.items()} == {
        "connecting": {"STUCK", "UNREACHED"},
        "paired": {"LOGIN", "PAIRED"},
        "degraded": {"SILENT"},
        "disconnected": {"STUCK"},
        "banned": {"BAN"},
        "client_outdated": {"AGAIN"},
        "failed": {"AGAIN"},
    }


def test_every_timer_is_named_once() -> None:
    assert len({timer.value for timer in Timer}) == len(Timer)
