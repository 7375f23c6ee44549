"""The life of a link as a table: state and input give the next state, what is said, and what becomes of the session.

Pure: no clock, no I/O. `link.py` walks it. What whatsmeow's events mean is in docs/links.md.

A paired account is given up only when WhatsApp says that it is gone, or somebody logs it out. Whatever else happens to
it, it is tried again: each state of it either has a session or a deadline.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable
from typing import Final, NamedTuple

from roundtrip.drivers import base as d
from roundtrip.events import EventType
from roundtrip.links.record import LinkState

_S = LinkState
_E = EventType


class Input(enum.Enum):
    """Everything that can happen to a link."""

    # what the session reports
    QR = enum.auto()
    PAIRING_CODE = enum.auto()
    CODES_USED_UP = enum.auto()
    PAIRED = enum.auto()
    ONLINE = enum.auto()
    KEEPALIVE_LOST = enum.auto()
    KEEPALIVE_RESTORED = enum.auto()
    OFFLINE = enum.auto()
    LOGGED_OUT = enum.auto()
    REPLACED = enum.auto()
    BANNED = enum.auto()
    OUTDATED = enum.auto()
    CONNECT_FAILED = enum.auto()
    REFUSED = enum.auto()
    """The same for a paired link: WhatsApp may think better of it."""
    KEYS_REJECTED = enum.auto()
    """A paired link is asked to scan: WhatsApp does not know its keys."""
    STREAM_FAILED = enum.auto()
    UNREACHABLE = enum.auto()
    WORKER_DIED = enum.auto()
    # what somebody asks for
    START = enum.auto()
    LOGOUT = enum.auto()
    RESTORE = enum.auto()
    CHANGE = enum.auto()
    """A code of the other kind, or for another phone number."""
    # what a deadline, a limit or a check finds
    PAIRING_OVER = enum.auto()
    PATIENCE_OVER = enum.auto()
    """Nobody linked an account for so long that nobody waits for a code any more."""
    LOGIN_LATE = enum.auto()
    PAIRING_INCOMPLETE = enum.auto()
    UNREACHED = enum.auto()
    """A start takes so long that somebody has to be told."""
    SILENT = enum.auto()
    """Pings were unanswered for so long that the connection counts as dead."""
    BAN_OVER = enum.auto()
    TRY_AGAIN = enum.auto()
    GRACE_OVER = enum.auto()
    WORKER_HUNG = enum.auto()
    WORKER_CRASHES = enum.auto()
    """Died more often than the limit allows, and not paired."""
    WORKER_KEEPS_DYING = enum.auto()
    """The same for a paired link, which goes on trying."""
    UNREACHABLE_FOR_LONG = enum.auto()
    """More often than the limit allows: tried on, and told."""
    STORE_MISSING = enum.auto()
    STORE_CORRUPT = enum.auto()
    FOUND_ONLINE = enum.auto()
    FOUND_OFFLINE = enum.auto()
    FLAPPING = enum.auto()
    CALM_ONLINE = enum.auto()
    CALM_OFFLINE = enum.auto()
    CALM_AILING = enum.auto()
    """Calm, and pings are unanswered."""
    SHARED = enum.auto()
    """Another key began or ceased to have the same account."""
    DEVICE_REMOVED = enum.auto()
    DEVICE_KEPT = enum.auto()
    """It could not be removed from the account, and nothing tries any more."""


class Reason(enum.StrEnum):
    """Why a state was entered: the label of `roundtrip_link_transitions_total`."""

    REQUESTED = "requested"
    RESTORED = "restored"
    CODE_SHOWN = "code_shown"
    CODES_USED_UP = "codes_used_up"
    PAIRING_TIMEOUT = "pairing_timeout"
    PAIR_SUCCESS = "pair_success"
    AUTHENTICATED = "authenticated"
    KEEPALIVE_LOST = "keepalive_lost"
    KEEPALIVE_RESTORED = "keepalive_restored"
    CONNECTION_LOST = "connection_lost"
    LOGGED_OUT = "logged_out"
    REPLACED = "replaced"
    BANNED = "banned"
    CLIENT_OUTDATED = "client_outdated"
    CONNECT_FAILURE = "connect_failure"
    UNREACHABLE = "unreachable"
    WORKER_DIED = "worker_died"
    WORKER_HUNG = "worker_hung"
    WORKER_CRASHES = "worker_crashes"
    PAIRING_INCOMPLETE = "pairing_incomplete"
    STORE_MISSING = "store_missing"
    STORE_CORRUPT = "store_corrupt"
    CORRECTED = "corrected"
    FLAPPING = "flapping"
    CALM = "calm"
    BAN_OVER = "ban_over"
    TRIED_AGAIN = "tried_again"


class Effect(enum.Enum):
    """What becomes of the session."""

    KEEP = enum.auto()
    START = enum.auto()
    STOP = enum.auto()
    """End it, keep a paired account's keys: starting again needs no new scan."""
    LOGOUT = enum.auto()
    """The session was handed over: whoever removes the device forgets the keys."""
    FORGET = enum.auto()
    """End it and delete the keys, which are worthless."""
    RETRY = enum.auto()
    """End it and start a fresh process: at once when nothing had failed, else later and later."""
    CHECK = enum.auto()
    """Ask the library soon whether it is connected."""


class Timer(enum.Enum):
    """Deadlines of a link."""

    PAIRING = enum.auto()
    """The end of the code on the screen, and a little more for the next to come."""
    PATIENCE = enum.auto()
    """How long nobody need have linked an account; stands over all states before that."""
    LOGIN = enum.auto()
    """WhatsApp is slow to let a new device in: connect again."""
    PAIRED = enum.auto()
    UNREACHED = enum.auto()
    GRACE = enum.auto()
    STUCK = enum.auto()
    """A session that neither connects nor fails."""
    SILENT = enum.auto()
    CALM = enum.auto()
    BAN = enum.auto()
    AGAIN = enum.auto()
    """A look whether what keeps a paired account away is over."""


class Transition(NamedTuple):
    """One cell of the table. `says` is the event to publish, `arm` a deadline to set (once), `disarm` one to drop.

    `if_news`: say it only when it differs from what was said before.
    """

    to: LinkState
    reason: Reason | None = None
    says: EventType | None = None
    effect: Effect = Effect.KEEP
    arm: Timer | None = None
    disarm: Timer | None = None
    if_news: bool = False


PAIRING: Final = frozenset({_S.CONNECTING, _S.QR, _S.PAIRING_CODE})
SHOWING: Final = frozenset({_S.QR, _S.PAIRING_CODE})
UP: Final = frozenset({_S.CONNECTED, _S.DEGRADED})
LIVE: Final = PAIRING | UP | {_S.PAIRED, _S.DISCONNECTED}
"""A session runs or is about to: a second start changes nothing."""
ENDED: Final = frozenset(LinkState) - LIVE

STATE_TIMERS: Final[dict[LinkState, tuple[Timer, ...]]] = {
    _S.CONNECTING: (Timer.STUCK, Timer.UNREACHED),
    _S.PAIRED: (Timer.LOGIN, Timer.PAIRED),
    _S.DEGRADED: (Timer.SILENT,),
    _S.DISCONNECTED: (Timer.STUCK,),
    _S.BANNED: (Timer.BAN,),
    _S.CLIENT_OUTDATED: (Timer.AGAIN,),
    _S.FAILED: (Timer.AGAIN,),
}
"""The deadlines that a state stands under, from its beginning. A code brings its own, and so does an end of the
connection; one that is up has none but the library's own word."""

INPUT_OF: Final[dict[type[d.Report], Input]] = {
    d.QrShown: Input.QR,
    d.PairingCodeShown: Input.PAIRING_CODE,
    d.CodesUsedUp: Input.CODES_USED_UP,
    d.PairSucceeded: Input.PAIRED,
    d.Online: Input.ONLINE,
    d.KeepAliveLost: Input.KEEPALIVE_LOST,
    d.KeepAliveRestored: Input.KEEPALIVE_RESTORED,
    d.Offline: Input.OFFLINE,
    d.LoggedOutByPhone: Input.LOGGED_OUT,
    d.StreamReplaced: Input.REPLACED,
    d.TemporaryBan: Input.BANNED,
    d.Outdated: Input.OUTDATED,
    d.ConnectFailed: Input.CONNECT_FAILED,
    d.StreamFailed: Input.STREAM_FAILED,
    d.Unreachable: Input.UNREACHABLE,
    d.WorkerDied: Input.WORKER_DIED,
}

_Table = dict[tuple[LinkState, Input], Transition]


def _build() -> _Table:
    # Whatever is not said below changes nothing: a late report of an ended session, a timer of a state that is over.
    table: _Table = {(state, event): Transition(state) for state, event in itertools.product(LinkState, Input)}

    def on(states: Iterable[LinkState], event: Input, move: Transition) -> None:
        for state in states:
            table[state, event] = move

    def stay(states: Iterable[LinkState], event: Input, effect: Effect = Effect.KEEP, arm: Timer | None = None) -> None:
        for state in states:
            table[state, event] = Transition(state, effect=effect, arm=arm)

    connected = Transition(_S.CONNECTED, Reason.AUTHENTICATED, _E.CONNECTED)
    connecting = Transition(_S.CONNECTING, Reason.REQUESTED, _E.CONNECTING, Effect.START)

    def tried_on(states: frozenset[LinkState], event: Input, reason: Reason, effect: Effect = Effect.RETRY) -> None:
        move = Transition(_S.DISCONNECTED, reason, _E.DISCONNECTED, effect)
        on(states - {_S.DISCONNECTED}, event, move)
        on(states & {_S.DISCONNECTED}, event, move._replace(if_news=True))

    on(ENDED, Input.START, connecting)
    on(PAIRING | {_S.DISCONNECTED}, Input.CHANGE, connecting._replace(effect=Effect.RETRY))
    # Restoring is silent: the link was there before and is, for the frontend, only not back yet.
    # Asked only of paired ones, which may have crashed while the code was still on the screen.
    on(LIVE, Input.RESTORE, Transition(_S.CONNECTING, Reason.RESTORED))
    on((_S.FAILED, _S.CLIENT_OUTDATED), Input.RESTORE, Transition(_S.CONNECTING, Reason.RESTORED))

    # A pairing code stays on the screen though the library goes on making the other ones.
    on((_S.CONNECTING, _S.QR, _S.DISCONNECTED), Input.QR, Transition(_S.QR, Reason.CODE_SHOWN, _E.QR))
    on(PAIRING | {_S.DISCONNECTED}, Input.PAIRING_CODE, Transition(_S.PAIRING_CODE, Reason.CODE_SHOWN, _E.PAIRING_CODE))
    on(
        PAIRING,
        Input.CODES_USED_UP,
        Transition(_S.QR_EXPIRED, Reason.CODES_USED_UP, _E.QR_EXPIRED, Effect.FORGET),
    )
    on(
        (_S.DISCONNECTED,),
        Input.CODES_USED_UP,
        Transition(_S.QR_EXPIRED, Reason.CODES_USED_UP, _E.QR_EXPIRED, Effect.FORGET),
    )
    on(
        SHOWING,
        Input.PAIRING_OVER,
        Transition(_S.QR_EXPIRED, Reason.PAIRING_TIMEOUT, _E.QR_EXPIRED, Effect.FORGET),
    )
    on(
        SHOWING,
        Input.PATIENCE_OVER,
        Transition(_S.QR_EXPIRED, Reason.PAIRING_TIMEOUT, _E.QR_EXPIRED, Effect.FORGET),
    )
    on(
        (_S.CONNECTING, _S.DISCONNECTED),
        Input.PATIENCE_OVER,
        Transition(_S.FAILED, Reason.UNREACHABLE, _E.FAILED, Effect.STOP),
    )
    on(PAIRING | {_S.DISCONNECTED}, Input.PAIRED, Transition(_S.PAIRED, Reason.PAIR_SUCCESS, _E.PAIRED))
    stay((_S.PAIRED,), Input.LOGIN_LATE, Effect.RETRY)
    tried_on(frozenset({_S.PAIRED}), Input.PAIRING_INCOMPLETE, Reason.PAIRING_INCOMPLETE, Effect.KEEP)
    tried_on(frozenset({_S.CONNECTING}), Input.UNREACHED, Reason.UNREACHABLE, Effect.KEEP)

    on(LIVE - {_S.CONNECTED}, Input.ONLINE, connected)
    on((_S.CONNECTED,), Input.ONLINE, connected._replace(disarm=Timer.GRACE, if_news=True))
    on((_S.CONNECTED,), Input.KEEPALIVE_LOST, Transition(_S.DEGRADED, Reason.KEEPALIVE_LOST, _E.DEGRADED))
    stay((_S.DEGRADED,), Input.KEEPALIVE_LOST, arm=Timer.SILENT)
    on((_S.DEGRADED,), Input.KEEPALIVE_RESTORED, Transition(_S.CONNECTED, Reason.KEEPALIVE_RESTORED, _E.CONNECTED))
    stay((_S.DEGRADED,), Input.SILENT, Effect.RETRY, Timer.GRACE)  # back within the grace period, nobody has to know
    stay(UP, Input.OFFLINE, arm=Timer.GRACE)
    on(UP, Input.GRACE_OVER, Transition(_S.DISCONNECTED, Reason.CONNECTION_LOST, _E.DISCONNECTED))

    on(LIVE, Input.LOGGED_OUT, Transition(_S.LOGGED_OUT, Reason.LOGGED_OUT, _E.LOGGED_OUT, Effect.FORGET))
    on(LIVE, Input.REPLACED, Transition(_S.REPLACED, Reason.REPLACED, _E.REPLACED, Effect.STOP))
    on(LIVE, Input.BANNED, Transition(_S.BANNED, Reason.BANNED, _E.BANNED, Effect.STOP))
    on((_S.BANNED,), Input.BAN_OVER, connecting._replace(reason=Reason.BAN_OVER))
    on(
        LIVE,
        Input.OUTDATED,
        Transition(_S.CLIENT_OUTDATED, Reason.CLIENT_OUTDATED, _E.CLIENT_OUTDATED, Effect.STOP),
    )
    # Silent: whether this version is accepted again is the program's question, not the person's.
    on((_S.CLIENT_OUTDATED,), Input.TRY_AGAIN, Transition(_S.CONNECTING, Reason.TRIED_AGAIN, effect=Effect.START))
    on((_S.FAILED,), Input.TRY_AGAIN, connecting._replace(reason=Reason.TRIED_AGAIN))
    on(LIVE, Input.CONNECT_FAILED, Transition(_S.FAILED, Reason.CONNECT_FAILURE, _E.FAILED, Effect.STOP))
    tried_on(LIVE, Input.REFUSED, Reason.CONNECT_FAILURE)
    on(LIVE, Input.KEYS_REJECTED, Transition(_S.FAILED, Reason.STORE_MISSING, _E.FAILED, Effect.STOP))
    stay(LIVE, Input.STREAM_FAILED, Effect.CHECK)

    for event, reason in (
        (Input.UNREACHABLE, Reason.UNREACHABLE),
        (Input.WORKER_DIED, Reason.WORKER_DIED),
        (Input.WORKER_HUNG, Reason.WORKER_HUNG),
    ):
        stay((_S.CONNECTING, _S.PAIRED, _S.DISCONNECTED), event, Effect.RETRY)
        on(
            SHOWING, event, Transition(_S.CONNECTING, reason, _E.CONNECTING, Effect.RETRY)
        )  # the code on the screen is dead
        stay(UP, event, Effect.RETRY, Timer.GRACE)
    on(LIVE, Input.WORKER_CRASHES, Transition(_S.FAILED, Reason.WORKER_CRASHES, _E.FAILED, Effect.STOP))
    tried_on(LIVE, Input.WORKER_KEEPS_DYING, Reason.WORKER_CRASHES)
    tried_on(LIVE, Input.UNREACHABLE_FOR_LONG, Reason.UNREACHABLE)
    on(LIVE, Input.STORE_MISSING, Transition(_S.FAILED, Reason.STORE_MISSING, _E.FAILED, Effect.STOP))
    on(LIVE, Input.STORE_CORRUPT, Transition(_S.FAILED, Reason.STORE_CORRUPT, _E.FAILED, Effect.STOP))

    # Its own Online never came here: a fresh session says what is true of the connection that then stands.
    stay((_S.DISCONNECTED,), Input.FOUND_ONLINE, Effect.RETRY)
    on(UP, Input.FOUND_OFFLINE, Transition(_S.DISCONNECTED, Reason.CORRECTED, _E.DISCONNECTED, Effect.RETRY))
    on(UP | {_S.DISCONNECTED}, Input.FLAPPING, Transition(_S.DEGRADED, Reason.FLAPPING, _E.DEGRADED, arm=Timer.CALM))
    on((_S.DEGRADED,), Input.CALM_ONLINE, Transition(_S.CONNECTED, Reason.CALM, _E.CONNECTED))
    on((_S.DEGRADED,), Input.CALM_OFFLINE, Transition(_S.DISCONNECTED, Reason.CALM, _E.DISCONNECTED))
    on((_S.DEGRADED,), Input.CALM_AILING, Transition(_S.DEGRADED, Reason.KEEPALIVE_LOST, _E.DEGRADED, arm=Timer.SILENT))
    on((_S.CONNECTED,), Input.SHARED, connected._replace(if_news=True))

    ended_by_request = Transition(_S.LOGGED_OUT, Reason.REQUESTED, _E.LOGGED_OUT, Effect.LOGOUT)
    on(frozenset(LinkState) - {_S.IDLE, _S.LOGGED_OUT}, Input.LOGOUT, ended_by_request)
    outcome = Transition(_S.LOGGED_OUT, Reason.REQUESTED, _E.LOGGED_OUT, if_news=True)
    on((_S.LOGGED_OUT,), Input.DEVICE_REMOVED, outcome)
    on((_S.LOGGED_OUT,), Input.DEVICE_KEPT, outcome)
    return table


TABLE: Final[_Table] = _build()
"""Total: every state and every input has its cell."""

TRANSITIONS: Final = frozenset(
    (move.to.value, move.reason.value)
    for (state, _), move in TABLE.items()
    if move.reason is not None and move.to is not state
)
"""Every pair of state and reason that can be counted."""


def step(state: LinkState, event: Input) -> Transition:
    """What a link in `state` does when `event` happens."""
    return TABLE[state, event]
