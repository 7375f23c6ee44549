"""The state machine of a link as a table: state and input give the transition, and the record that it leads to.

Pure: no clock, no I/O. `transition.py` applies it.

A paired account is given up only when WhatsApp reports that it is gone, or its user logs out. Whatever else happens, it
is tried again: each state of a paired account has a session or a deadline.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report
from roundtrip.errors import IllegalTransitionError
from roundtrip.events import EventType
from roundtrip.links import payloads
from roundtrip.links.machine import (
    ENDED,
    LIVE,
    PAIRING,
    SHOWING,
    UP,
    Effect,
    Input,
    Reason,
    Timer,
    Transition,
)
from roundtrip.links.policy import INPUT_OF, Ban
from roundtrip.links.record import DeviceState, LinkRecord, LinkState

_S = LinkState
_E = EventType
_Table = dict[tuple[LinkState, Input], Transition]

REPORTED: Final = frozenset(INPUT_OF.values()) | {
    Input.REFUSED,
    Input.KEYS_REJECTED,
    Input.UNREACHABLE_FOR_LONG,
    Input.WORKER_CRASHES,
    Input.WORKER_KEEPS_DYING,
}
"""What `RetryPolicy.classify` makes of a session's reports."""


def _ignored() -> _Table:
    """What may come in a state and changes nothing there, unless `_build` has a row for it."""
    everything = frozenset(LinkState)
    ignored = (
        (LIVE, REPORTED),  # a library reports what it likes, when it likes
        (LIVE, {Input.FOUND_ONLINE, Input.FOUND_OFFLINE}),  # a report may have overtaken the check
        (LIVE, {Input.START}),  # a second start
        ({_S.IDLE, _S.LOGGED_OUT}, {Input.LOGOUT}),
        (ENDED, {Input.RESTORE}),  # asked of every record when the program starts
        (everything - {_S.IDLE}, {Input.SHARED, Input.DEVICE_REMOVED, Input.DEVICE_KEPT}),  # about another time
    )
    return {(state, cause): Transition(state) for states, causes in ignored for state in states for cause in causes}


def _build() -> _Table:
    table = _ignored()

    def on(states: Iterable[LinkState], cause: Input, move: Transition) -> None:
        for state in states:
            table[state, cause] = move

    def stay(states: Iterable[LinkState], cause: Input, effect: Effect = Effect.KEEP, arm: Timer | None = None) -> None:
        for state in states:
            table[state, cause] = Transition(state, effect=effect, arm=arm)

    def failed(states: Iterable[LinkState], cause: Input, reason: Reason) -> None:
        on(states, cause, Transition(_S.FAILED, reason, _E.FAILED, Effect.STOP))

    def retried(states: frozenset[LinkState], cause: Input, reason: Reason, effect: Effect = Effect.RETRY) -> None:
        move = Transition(_S.DISCONNECTED, reason, _E.DISCONNECTED, effect)
        on(states - {_S.DISCONNECTED}, cause, move)
        on(states & {_S.DISCONNECTED}, cause, move._replace(if_changed=True))

    connected = Transition(_S.CONNECTED, Reason.AUTHENTICATED, _E.CONNECTED)
    connecting = Transition(_S.CONNECTING, Reason.REQUESTED, _E.CONNECTING, Effect.START)

    on(ENDED, Input.START, connecting)
    on(PAIRING | {_S.DISCONNECTED}, Input.CHANGE, connecting._replace(effect=Effect.RETRY))
    # Restoring publishes nothing: for the frontend it is no new link, only not back yet.
    # Done to paired links only, which may have crashed while the code was still shown.
    on(LIVE | {_S.FAILED, _S.CLIENT_OUTDATED}, Input.RESTORE, Transition(_S.CONNECTING, Reason.RESTORED))

    # A pairing code stays valid though the library goes on making QR codes.
    on((_S.CONNECTING, _S.QR, _S.DISCONNECTED), Input.QR, Transition(_S.QR, Reason.CODE_SHOWN, _E.QR))
    on(PAIRING | {_S.DISCONNECTED}, Input.PAIRING_CODE, Transition(_S.PAIRING_CODE, Reason.CODE_SHOWN, _E.PAIRING_CODE))
    expired = Transition(_S.QR_EXPIRED, Reason.CODES_USED_UP, _E.QR_EXPIRED, Effect.FORGET)
    on(PAIRING | {_S.DISCONNECTED}, Input.CODES_USED_UP, expired)
    on(SHOWING, Input.PAIRING_OVER, expired._replace(reason=Reason.PAIRING_TIMEOUT))
    on(SHOWING, Input.PATIENCE_OVER, expired._replace(reason=Reason.PAIRING_TIMEOUT))
    failed((_S.CONNECTING, _S.DISCONNECTED), Input.PATIENCE_OVER, Reason.UNREACHABLE)
    on(PAIRING | {_S.DISCONNECTED}, Input.PAIRED, Transition(_S.PAIRED, Reason.PAIR_SUCCESS, _E.PAIRED))
    stay((_S.PAIRED,), Input.LOGIN_LATE, Effect.RETRY)
    retried(frozenset({_S.PAIRED}), Input.PAIRING_INCOMPLETE, Reason.PAIRING_INCOMPLETE, Effect.KEEP)
    retried(frozenset({_S.CONNECTING}), Input.UNREACHED, Reason.UNREACHABLE, Effect.KEEP)

    on(LIVE - {_S.CONNECTED}, Input.ONLINE, connected)
    on((_S.CONNECTED,), Input.ONLINE, connected._replace(disarm=Timer.GRACE, if_changed=True))
    on((_S.CONNECTED,), Input.KEEPALIVE_LOST, Transition(_S.DEGRADED, Reason.KEEPALIVE_LOST, _E.DEGRADED))
    stay((_S.DEGRADED,), Input.KEEPALIVE_LOST, arm=Timer.SILENT)
    on((_S.DEGRADED,), Input.KEEPALIVE_RESTORED, Transition(_S.CONNECTED, Reason.KEEPALIVE_RESTORED, _E.CONNECTED))
    stay((_S.DEGRADED,), Input.SILENT, Effect.RETRY, Timer.GRACE)  # back within the grace period: nothing is published
    stay(UP, Input.OFFLINE, arm=Timer.GRACE)
    on(UP, Input.GRACE_OVER, Transition(_S.DISCONNECTED, Reason.CONNECTION_LOST, _E.DISCONNECTED))

    on(LIVE, Input.LOGGED_OUT, Transition(_S.LOGGED_OUT, Reason.LOGGED_OUT, _E.LOGGED_OUT, Effect.FORGET))
    on(LIVE, Input.REPLACED, Transition(_S.REPLACED, Reason.REPLACED, _E.REPLACED, Effect.STOP))
    on(LIVE, Input.BANNED, Transition(_S.BANNED, Reason.BANNED, _E.BANNED, Effect.STOP))
    on((_S.BANNED,), Input.BAN_OVER, connecting._replace(reason=Reason.BAN_OVER))
    outdated = Transition(_S.CLIENT_OUTDATED, Reason.CLIENT_OUTDATED, _E.CLIENT_OUTDATED, Effect.STOP)
    on(LIVE, Input.OUTDATED, outdated)
    # Nothing is published: whether this version is accepted again is no matter of the link's user.
    on((_S.CLIENT_OUTDATED,), Input.TRY_AGAIN, Transition(_S.CONNECTING, Reason.TRIED_AGAIN, effect=Effect.START))
    on((_S.FAILED,), Input.TRY_AGAIN, connecting._replace(reason=Reason.TRIED_AGAIN))
    failed(LIVE, Input.CONNECT_FAILED, Reason.CONNECT_FAILURE)
    retried(LIVE, Input.REFUSED, Reason.CONNECT_FAILURE)
    failed(LIVE, Input.KEYS_REJECTED, Reason.STORE_MISSING)
    stay(LIVE, Input.STREAM_FAILED, Effect.CHECK)

    for cause, reason in (
        (Input.UNREACHABLE, Reason.UNREACHABLE),
        (Input.WORKER_DIED, Reason.WORKER_DIED),
        (Input.WORKER_HUNG, Reason.WORKER_HUNG),
    ):
        stay((_S.CONNECTING, _S.PAIRED, _S.DISCONNECTED), cause, Effect.RETRY)
        # The code that is shown was the ended session's: it is worthless.
        on(SHOWING, cause, Transition(_S.CONNECTING, reason, _E.CONNECTING, Effect.RETRY))
        stay(UP, cause, Effect.RETRY, Timer.GRACE)
    failed(LIVE, Input.WORKER_CRASHES, Reason.WORKER_CRASHES)
    failed(LIVE, Input.SESSION_CRASHES, Reason.SESSION_CRASHES)
    retried(LIVE, Input.WORKER_KEEPS_DYING, Reason.WORKER_CRASHES)
    retried(LIVE, Input.UNREACHABLE_FOR_LONG, Reason.UNREACHABLE)
    failed(LIVE, Input.STORE_MISSING, Reason.STORE_MISSING)
    failed(LIVE, Input.STORE_CORRUPT, Reason.STORE_CORRUPT)

    # Its own Online never arrived: a fresh session reports the state of the connection that it makes.
    stay((_S.DISCONNECTED,), Input.FOUND_ONLINE, Effect.RETRY)
    on(UP, Input.FOUND_OFFLINE, Transition(_S.DISCONNECTED, Reason.CORRECTED, _E.DISCONNECTED, Effect.RETRY))
    on(UP | {_S.DISCONNECTED}, Input.FLAPPING, Transition(_S.DEGRADED, Reason.FLAPPING, _E.DEGRADED, arm=Timer.CALM))
    on((_S.DEGRADED,), Input.CALM_ONLINE, Transition(_S.CONNECTED, Reason.CALM, _E.CONNECTED))
    on((_S.DEGRADED,), Input.CALM_OFFLINE, Transition(_S.DISCONNECTED, Reason.CALM, _E.DISCONNECTED))
    on((_S.DEGRADED,), Input.CALM_AILING, Transition(_S.DEGRADED, Reason.KEEPALIVE_LOST, _E.DEGRADED, arm=Timer.SILENT))
    on((_S.CONNECTED,), Input.SHARED, connected._replace(if_changed=True))

    requested = Transition(_S.LOGGED_OUT, Reason.REQUESTED, _E.LOGGED_OUT, Effect.LOGOUT)
    on(frozenset(LinkState) - {_S.IDLE, _S.LOGGED_OUT}, Input.LOGOUT, requested)
    outcome = Transition(_S.LOGGED_OUT, Reason.REQUESTED, _E.LOGGED_OUT, if_changed=True)
    on((_S.LOGGED_OUT,), Input.DEVICE_REMOVED, outcome)
    on((_S.LOGGED_OUT,), Input.DEVICE_KEPT, outcome)
    return table


TABLE: Final[_Table] = _build()
"""Every pair of state and input that can happen. Any other is illegal."""


def step(state: LinkState, cause: Input) -> Transition:
    """What a link in `state` does when `cause` happens. Raises `IllegalTransitionError` when it cannot happen there."""
    move = TABLE.get((state, cause))
    if move is None:
        raise IllegalTransitionError("link", state.value, cause.name.lower())
    return move


_DEVICE: Final = {Input.DEVICE_REMOVED: DeviceState.REMOVED, Input.DEVICE_KEPT: DeviceState.KEPT}


def record_after(
    record: LinkRecord, cause: Input, move: Transition, report: Report | None, now: float, ban: Ban | None = None
) -> LinkRecord:
    """The record once `move` is made. `now` is in seconds since the epoch, `ban` what a BANNED means."""
    new = record
    if isinstance(report, d.PairSucceeded):
        new = replace(new, paired=True, phone_number=report.phone_number)
    if isinstance(report, d.Online):
        name = report.display_name or record.display_name  # right after pairing it may not be known yet
        new = replace(new, paired=True, phone_number=report.phone_number, display_name=name)
    if move.to is LinkState.BANNED and ban is not None:
        new = replace(new, banned_until=ban.until, retry_at=ban.over)
    if move.to is LinkState.LOGGED_OUT:
        new = replace(new, device=_DEVICE.get(cause, record.device))
    if move.to is LinkState.CONNECTED:
        new = replace(new, connected_before=True)
    if move.to is not record.state:
        new = replace(new, state=move.to, since=now)
    if move.event is not None:
        why = Input.FLAPPING if move.reason is Reason.FLAPPING else cause
        new = replace(new, reason_code=payloads.reason_code(why, report, record.paired))
    if move.effect in (Effect.FORGET, Effect.LOGOUT):
        new = replace(new, paired=False, phone_number=None, display_name=None, also_linked=False)
    return new


def content_changed(old: LinkRecord, new: LinkRecord) -> bool:
    """Whether an event about the same state would have other content."""
    return _content(old) != _content(new)


def _content(record: LinkRecord) -> tuple[object, ...]:
    return record.phone_number, record.display_name, record.reason_code, record.also_linked, record.device
