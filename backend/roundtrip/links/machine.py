"""The terms of a link's state machine: what can happen to a link, what follows, and which states belong together.

Pure: no clock, no I/O, no driver. `transition_table.py` is the table in these terms, `transition.py` applies its rows.
What whatsmeow's events mean is in docs/links.md.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from roundtrip.events import EventType
from roundtrip.links.record import LinkState

_S = LinkState


class Input(enum.Enum):
    """Everything that can happen to a link."""

    # reports of the session
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
    """WhatsApp refuses a link that was never paired: final."""
    REFUSED = enum.auto()
    """WhatsApp refuses a paired link: it may accept it later."""
    KEYS_REJECTED = enum.auto()
    """A paired link is asked to scan: WhatsApp does not know its keys."""
    STREAM_FAILED = enum.auto()
    UNREACHABLE = enum.auto()
    UNREACHABLE_FOR_LONG = enum.auto()
    """More often than the limit allows: tried on, and published."""
    WORKER_DIED = enum.auto()
    WORKER_CRASHES = enum.auto()
    """Died more often than the limit allows, and not paired."""
    WORKER_KEEPS_DYING = enum.auto()
    """The same for a paired link, which goes on trying."""
    SESSION_CRASHES = enum.auto()
    """Its worker dies again and again, with no other session in it."""
    # commands
    START = enum.auto()
    LOGOUT = enum.auto()
    RESTORE = enum.auto()
    CHANGE = enum.auto()
    """A code of the other kind, or for another phone number."""
    # expired timers
    PAIRING_OVER = enum.auto()
    PATIENCE_OVER = enum.auto()
    """Nobody linked an account for so long that the pairing counts as abandoned."""
    LOGIN_LATE = enum.auto()
    PAIRING_INCOMPLETE = enum.auto()
    UNREACHED = enum.auto()
    """A start takes so long that the user has to be notified."""
    SILENT = enum.auto()
    """Pings were unanswered for so long that the connection counts as dead."""
    BAN_OVER = enum.auto()
    TRY_AGAIN = enum.auto()
    GRACE_OVER = enum.auto()
    CALM_ONLINE = enum.auto()
    CALM_OFFLINE = enum.auto()
    CALM_AILING = enum.auto()
    """Flapping ended, and pings are unanswered."""
    # results of a check
    WORKER_HUNG = enum.auto()
    STORE_MISSING = enum.auto()
    STORE_CORRUPT = enum.auto()
    FOUND_ONLINE = enum.auto()
    FOUND_OFFLINE = enum.auto()
    FLAPPING = enum.auto()
    # news from outside the link
    SHARED = enum.auto()
    """Another key began or ceased to have the same account."""
    DEVICE_REMOVED = enum.auto()
    DEVICE_KEPT = enum.auto()
    """It could not be removed from the account, and the attempts have ended."""


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
    SESSION_CRASHES = "session_crashes"
    PAIRING_INCOMPLETE = "pairing_incomplete"
    STORE_MISSING = "store_missing"
    STORE_CORRUPT = "store_corrupt"
    CORRECTED = "corrected"
    FLAPPING = "flapping"
    CALM = "calm"
    BAN_OVER = "ban_over"
    TRIED_AGAIN = "tried_again"


class Effect(enum.Enum):
    """What a transition does to the session."""

    KEEP = enum.auto()
    START = enum.auto()
    STOP = enum.auto()
    """End it, keep a paired account's keys: starting again needs no new scan."""
    LOGOUT = enum.auto()
    """The session was handed over to the device's removal, which deletes the keys."""
    FORGET = enum.auto()
    """End it and delete the keys, which are worthless."""
    RETRY = enum.auto()
    """End it and start a fresh process: at once when nothing had failed, else with backoff."""
    CHECK = enum.auto()
    """Ask the library soon whether it is connected."""


class Timer(enum.Enum):
    """Deadlines of a link. `/debug/links` shows the names of those that are armed."""

    PAIRING = enum.auto()
    """The expiry of the present code, and some slack for the next to come."""
    PATIENCE = enum.auto()
    """How long a pairing may take in all; armed across every state before an account is linked."""
    LOGIN = enum.auto()
    """WhatsApp is slow to let a new device in: connect again."""
    PAIRED = enum.auto()
    UNREACHED = enum.auto()
    GRACE = enum.auto()
    STUCK = enum.auto()
    """A session that neither connects nor fails."""
    SILENT = enum.auto()
    CALM = enum.auto()
    """A flapping connection did not change for so long that it counts as stable."""
    BAN = enum.auto()
    AGAIN = enum.auto()
    """The next look whether what keeps a paired account from connecting is over."""


class Transition(NamedTuple):
    """One row of the table: the state to enter and what goes with it.

    `event` is published, unless `if_changed` and its content equals what was published before; `arm` is a timer to set
    where it is not set yet, `disarm` one to cancel.
    """

    to: LinkState
    reason: Reason | None = None
    event: EventType | None = None
    effect: Effect = Effect.KEEP
    arm: Timer | None = None
    disarm: Timer | None = None
    if_changed: bool = False


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
"""The timers that entering a state arms. A code arms its own, and so does a lost connection; one that is up has none:
the library and `reconciliation.py` watch it."""
