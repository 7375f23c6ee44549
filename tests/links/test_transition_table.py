"""The table, cell by cell, against a second writing of it in another form."""

from __future__ import annotations

import itertools

import pytest

from roundtrip.drivers import base as driver
from roundtrip.errors import IllegalTransitionError
from roundtrip.events import EventType
from roundtrip.links import transition_table
from roundtrip.links.machine import ENDED, LIVE, Effect, Input, Reason, Transition
from roundtrip.links.policy import INPUT_OF
from roundtrip.links.record import LinkState
from roundtrip.links.transition_table import REPORTED, TABLE, step

# One line per input: what each live state becomes. `.` stays, or cannot happen there (ILLEGAL says which of both); else
# a state's name, `!` if its event is published, `?` if only when it changed; `/EFFECT`, `+TIMER` to arm, `-TIMER` to
# cancel. The columns are those of COLUMNS. `away` is disconnected, `end` qr_expired.
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
SESSION_CRASHES      failed!/STOP *
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

# What changes an ended link; all else leaves it as it is, or cannot happen to it.
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


# Where each input cannot happen. `ended` are the states without a session, `idle` included; inputs that are not named
# happen in every state.
ILLEGAL = {
    "ended": """
        QR PAIRING_CODE CODES_USED_UP PAIRED ONLINE KEEPALIVE_LOST KEEPALIVE_RESTORED OFFLINE LOGGED_OUT REPLACED BANNED
        OUTDATED CONNECT_FAILED REFUSED KEYS_REJECTED STREAM_FAILED UNREACHABLE UNREACHABLE_FOR_LONG WORKER_DIED
        WORKER_HUNG WORKER_CRASHES SESSION_CRASHES WORKER_KEEPS_DYING STORE_MISSING STORE_CORRUPT FOUND_ONLINE
        FOUND_OFFLINE
    """,
    "idle": "SHARED DEVICE_REMOVED DEVICE_KEPT",
    "all but connecting qr pairing_code disconnected": "CHANGE PATIENCE_OVER",
    "all but qr pairing_code": "PAIRING_OVER",
    "all but paired": "LOGIN_LATE PAIRING_INCOMPLETE",
    "all but connecting": "UNREACHED",
    "all but degraded": "SILENT CALM_ONLINE CALM_OFFLINE CALM_AILING",
    "all but connected degraded": "GRACE_OVER",
    "all but connected degraded disconnected": "FLAPPING",
    "all but banned": "BAN_OVER",
    "all but client_outdated failed": "TRY_AGAIN",
    "": "START LOGOUT RESTORE",
}


def illegal() -> dict[Input, set[LinkState]]:
    states: dict[Input, set[LinkState]] = {}
    for where, names in ILLEGAL.items():
        if where == "ended":
            found = set(LinkState) - set(COLUMNS)
        elif where.startswith("all but "):
            found = set(LinkState) - {LinkState(name) for name in where.removeprefix("all but ").split()}
        else:
            found = {LinkState(name) for name in where.split()}
        states |= {Input[name]: found for name in names.split()}
    assert set(states) == set(Input)
    return states


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
    Input.SESSION_CRASHES: "session_crashes",
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
    text = "." if move.to is state and move.event is None else move.to.value
    if move.event is not None:
        assert move.event is EventType[move.to.name]
        text += "?" if move.if_changed else "!"
    text += "" if move.effect is Effect.KEEP else f"/{move.effect.name}"
    text += "" if move.arm is None else f"+{move.arm.name}"
    return text + ("" if move.disarm is None else f"-{move.disarm.name}")


@pytest.mark.parametrize("event", Input, ids=lambda event: event.name)
def test_every_state_meets_every_input(event: Input) -> None:
    wanted = expected()
    built = transition_table._build()  # anew: the module's own was built before any test ran
    moves = {s: built.get((s, event), Transition(s)) for s in LinkState}
    assert {s.value: written(s, event, moves[s]) for s in LinkState} == {s.value: wanted[s, event] for s in LinkState}
    why = {move.reason for s, move in moves.items() if move.to is not s}
    if event is Input.PATIENCE_OVER:  # a code on the screen expires, a link that never had one could not be reached
        assert why == {"pairing_timeout", "unreachable"}
    else:
        assert why <= {WHY.get(event)}
    assert built == TABLE
    assert {s.value for s in LinkState if (s, event) not in built} == {s.value for s in illegal()[event]}


def test_the_second_writing_leaves_no_input_out() -> None:
    named = {line.split()[0] for line in LIVE_ROWS.strip().splitlines()}
    assert named == {event.name for event in Input}


def test_the_table_is_total() -> None:
    possible = {(state, event) for event, states in illegal().items() for state in set(LinkState) - states}
    assert set(TABLE) == possible
    assert step(LinkState.IDLE, Input.START).to is LinkState.CONNECTING


@pytest.mark.parametrize("state", LinkState, ids=str)
def test_what_cannot_happen_is_refused(state: LinkState) -> None:
    for event in Input:
        if state in illegal()[event]:
            with pytest.raises(IllegalTransitionError, match=state.value) as refused:
                step(state, event)
            assert (refused.value.state, refused.value.cause) == (state.value, event.name.lower())
        else:
            assert step(state, event) is TABLE[state, event]


def test_every_report_has_an_input() -> None:
    assert set(INPUT_OF) == set(driver.Report.__subclasses__())


def test_a_transition_that_ends_a_link_publishes_it_and_ends_its_session() -> None:
    for (state, _), move in TABLE.items():
        if state in LIVE and move.to in ENDED:
            assert move.event is not None
            assert move.effect in (Effect.STOP, Effect.FORGET, Effect.LOGOUT)


def test_no_ended_link_takes_a_report() -> None:
    """`Link` drops the late reports of a session that is being ended."""
    assert not set(itertools.product(ENDED, REPORTED)) & set(TABLE)
    assert set(INPUT_OF.values()) < REPORTED


def test_every_change_has_a_reason() -> None:
    changes = [(move.to, move.reason) for (state, _), move in TABLE.items() if move.to is not state]
    assert None not in {reason for _, reason in changes}
    assert {reason for _, reason in changes} == set(Reason)
    assert (LinkState.CONNECTED, Reason.AUTHENTICATED) in changes
