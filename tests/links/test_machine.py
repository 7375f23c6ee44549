"""The table, cell by cell, against a second writing of it in another form."""

from __future__ import annotations

import itertools

import pytest

from roundtrip.drivers import base as driver
from roundtrip.events import TYPE_OF, EventType, Failure
from roundtrip.links import machine, reasons
from roundtrip.links.machine import (
    ENDED,
    INPUT_OF,
    LIVE,
    TABLE,
    TRANSITIONS,
    Effect,
    Input,
    Reason,
    Timer,
    Transition,
    step,
)
from roundtrip.links.record import LinkState

# One line per input: what each live state becomes. `.` stays; a state's name, then `!` if its event is said;
# `/fate`, `+TIMER` to arm, `-TIMER` to drop. The columns are those of COLUMNS.
# `away` is disconnected, `end` qr_expired.
LIVE_ROWS = """
QR                   qr!         qr!         .           .           .           .           qr!
PAIRING_CODE         pairing_code! pairing_code! pairing_code! .           .           .           pairing_code!
CODES_USED_UP        end!/FORGET end!/FORGET end!/FORGET . . . end!/FORGET
PAIRED               paired!     paired!     paired!     .           .           .           paired!
ONLINE               connected!  connected!  connected!  connected!  connected?-GRACE connected!  connected!
KEEPALIVE_LOST       .           .           .           .           degraded!   .+SILENT    .
KEEPALIVE_RESTORED   .           .           .           .           .           connected!  .
OFFLINE              .           .           .           .           .+GRACE     .+GRACE     .
LOGGED_OUT           logged_out!/FORGET *
REPLACED             replaced!/STOP *
BANNED               banned!/STOP *
OUTDATED             client_outdated!/STOP *
CONNECT_FAILED       failed!/STOP *
REFUSED              away!/RETRY away!/RETRY away!/RETRY away!/RETRY away!/RETRY away!/RETRY away?/RETRY
KEYS_REJECTED        failed!/STOP *
STREAM_FAILED        ./CHECK *
UNREACHABLE          ./RETRY     connecting!/RETRY connecting!/RETRY ./RETRY     ./RETRY+GRACE ./RETRY+GRACE ./RETRY
WORKER_DIED          ./RETRY     connecting!/RETRY connecting!/RETRY ./RETRY     ./RETRY+GRACE ./RETRY+GRACE ./RETRY
START                . *
LOGOUT               logged_out!/LOGOUT *
RESTORE              .           connecting  connecting  connecting  connecting  connecting  connecting
CHANGE               connecting!/RETRY connecting!/RETRY connecting!/RETRY . . . connecting!/RETRY
PAIRING_OVER         .           qr_expired!/FORGET qr_expired!/FORGET .           .           .           .
PATIENCE_OVER        failed!/STOP qr_expired!/FORGET qr_expired!/FORGET .           .           .           failed!/STOP
LOGIN_LATE           .           .           .           ./RETRY     .           .           .
PAIRING_INCOMPLETE   .           .           .           disconnected! .           .           .
UNREACHED            disconnected! .           .           .           .           .           .
SILENT               .           .           .           .           .           ./RETRY+GRACE .
BAN_OVER             . *
TRY_AGAIN            . *
GRACE_OVER           .           .           .           .           disconnected! disconnected! .
WORKER_HUNG          ./RETRY     connecting!/RETRY connecting!/RETRY ./RETRY     ./RETRY+GRACE ./RETRY+GRACE ./RETRY
WORKER_CRASHES       failed!/STOP *
WORKER_KEEPS_DYING   away!/RETRY away!/RETRY away!/RETRY away!/RETRY away!/RETRY away!/RETRY away?/RETRY
UNREACHABLE_FOR_LONG away!/RETRY away!/RETRY away!/RETRY away!/RETRY away!/RETRY away!/RETRY away?/RETRY
STORE_MISSING        failed!/STOP *
STORE_CORRUPT        failed!/STOP *
FOUND_ONLINE         .           .           .           .           .           .           ./RETRY
FOUND_OFFLINE        .           .           .           .           disconnected!/RETRY disconnected!/RETRY .
FLAPPING             .           .           .           .           degraded!+CALM degraded!+CALM degraded!+CALM
CALM_ONLINE          .           .           .           .           .           connected!  .
CALM_OFFLINE         .           .           .           .           .           disconnected! .
CALM_AILING          .           .           .           .           .           degraded!+SILENT .
SHARED               .           .           .           .           connected?  .           .
DEVICE_REMOVED       . *
DEVICE_KEPT          . *
"""

COLUMNS = [
    LinkState.CONNECTING,
    LinkState.QR,
    LinkState.PAIRING_CODE,
    LinkState.PAIRED,
    LinkState.CONNECTED,
    LinkState.DEGRADED,
    LinkState.DISCONNECTED,
]

# What ended links still answer to; everything else leaves them as they are.
ENDED_ROWS = {
    (state, Input.START): "connecting!/START" for state in LinkState if state not in COLUMNS
} | {
    (LinkState(name), Input.LOGOUT): "logged_out!/LOGOUT"
    for name in ("qr_expired", "replaced", "banned", "client_outdated", "failed")
} | {
    (LinkState.FAILED, Input.RESTORE): "connecting",
    (LinkState.CLIENT_OUTDATED, Input.RESTORE): "connecting",
    (LinkState.CLIENT_OUTDATED, Input.TRY_AGAIN): "connecting/START",
    (LinkState.FAILED, Input.TRY_AGAIN): "connecting!/START",
    (LinkState.BANNED, Input.BAN_OVER): "connecting!/START",
    (LinkState.LOGGED_OUT, Input.DEVICE_REMOVED): "logged_out?",
    (LinkState.LOGGED_OUT, Input.DEVICE_KEPT): "logged_out?",
}  # fmt: skip


def expected() -> dict[tuple[LinkState, Input], str]:
    table = dict.fromkeys(itertools.product(LinkState, Input), ".")
    for line in LIVE_ROWS.strip().splitlines():
        name, *cells = line.split()
        cells = [cell.replace("away", "disconnected").replace("end!", "qr_expired!") for cell in cells]
        if cells[1:] == ["*"]:
            cells = cells[:1] * len(COLUMNS)
        assert len(cells) == len(COLUMNS), name
        table.update({(state, Input[name]): cell for state, cell in zip(COLUMNS, cells, strict=True)})
    return table | ENDED_ROWS


# Why: one word per input, for whichever state changes by it. They are the labels of a public metric.
WHY = {
    Input.QR: "code_shown",
    Input.PAIRING_CODE: "code_shown",
    Input.CODES_USED_UP: "codes_used_up",
    Input.PAIRED: "pair_success",
    Input.ONLINE: "authenticated",
    Input.KEEPALIVE_LOST: "keepalive_lost",
    Input.KEEPALIVE_RESTORED: "keepalive_restored",
    Input.LOGGED_OUT: "logged_out",
    Input.REPLACED: "replaced",
    Input.BANNED: "banned",
    Input.OUTDATED: "client_outdated",
    Input.CONNECT_FAILED: "connect_failure",
    Input.REFUSED: "connect_failure",
    Input.KEYS_REJECTED: "store_missing",
    Input.UNREACHABLE: "unreachable",
    Input.WORKER_DIED: "worker_died",
    Input.START: "requested",
    Input.LOGOUT: "requested",
    Input.RESTORE: "restored",
    Input.CHANGE: "requested",
    Input.PAIRING_OVER: "pairing_timeout",
    Input.PAIRING_INCOMPLETE: "pairing_incomplete",
    Input.UNREACHED: "unreachable",
    Input.BAN_OVER: "ban_over",
    Input.TRY_AGAIN: "tried_again",
    Input.GRACE_OVER: "connection_lost",
    Input.WORKER_HUNG: "worker_hung",
    Input.WORKER_CRASHES: "worker_crashes",
    Input.WORKER_KEEPS_DYING: "worker_crashes",
    Input.UNREACHABLE_FOR_LONG: "unreachable",
    Input.STORE_MISSING: "store_missing",
    Input.STORE_CORRUPT: "store_corrupt",
    Input.FOUND_OFFLINE: "corrected",
    Input.FLAPPING: "flapping",
    Input.CALM_ONLINE: "calm",
    Input.CALM_OFFLINE: "calm",
}


def written(state: LinkState, event: Input, move: Transition) -> str:
    text = "." if move.to is state and move.says is None else move.to.value
    if move.says is not None:
        assert move.says is EventType[move.to.name]
        text += "?" if move.if_news else "!"
    text += "" if move.effect is Effect.KEEP else f"/{move.effect.name}"
    text += "" if move.arm is None else f"+{move.arm.name}"
    return text + ("" if move.disarm is None else f"-{move.disarm.name}")


@pytest.mark.parametrize("event", Input, ids=lambda event: event.name)
def test_every_state_meets_every_input(event: Input) -> None:
    wanted = expected()
    built = machine._build()  # anew: the module's own was built before any test ran
    assert {s.value: written(s, event, built[s, event]) for s in LinkState} == {
        s.value: wanted[s, event] for s in LinkState
    }
    why = {move.reason for s in LinkState if (move := built[s, event]).to is not s}
    if event is Input.PATIENCE_OVER:  # a code on the screen expires, a link that never had one could not be reached
        assert why == {"pairing_timeout", "unreachable"}
    else:
        assert why <= {WHY.get(event)}
    assert set(built) == set(TABLE)


def test_the_second_writing_leaves_no_input_out() -> None:
    named = {line.split()[0] for line in LIVE_ROWS.strip().splitlines()}
    assert named == {event.name for event in Input}


def test_the_table_is_total() -> None:
    assert set(TABLE) == set(itertools.product(LinkState, Input))
    assert step(LinkState.IDLE, Input.START).to is LinkState.CONNECTING


def test_every_report_has_an_input() -> None:
    assert set(INPUT_OF) == set(driver.Report.__subclasses__())


def test_whoever_ends_a_link_says_so_and_ends_its_session() -> None:
    for (state, _), move in TABLE.items():
        if state in LIVE and move.to in ENDED:
            assert move.says is not None
            assert move.effect in (Effect.STOP, Effect.FORGET, Effect.LOGOUT)


def test_no_ended_link_is_moved_by_a_report() -> None:
    for state, event in itertools.product(ENDED, INPUT_OF.values()):
        assert TABLE[state, event].to is state
        assert TABLE[state, event].says is None


def test_every_change_has_a_reason() -> None:
    assert all(move.reason for (state, _), move in TABLE.items() if move.to is not state)
    assert {reason for _, reason in TRANSITIONS} == {reason.value for reason in Reason}
    assert ("connected", "authenticated") in TRANSITIONS


def test_every_live_state_that_could_wait_for_ever_has_a_deadline() -> None:
    """A code brings its own deadline; the connection that stands is watched by the library and by `truth.py`."""
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


def test_every_reason_code_says_what_to_do() -> None:
    for code, advice in reasons.ADVICE.items():
        assert code == code.lower()
        assert advice.user_action.endswith(".")
    assert {reasons.logout_reason(n) for n in ("401", "403", "406", "x")} <= set(reasons.ADVICE)
    assert {reasons.ban_reason(n) for n in (101, 102, 103, 104, 106, 999)} <= set(reasons.ADVICE)
    assert sum(issubclass(payload, Failure) for payload in TYPE_OF) == 7
