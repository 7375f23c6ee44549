"""The event contract: every type that reaches a frontend, its own fields, and what supersedes what.

To add an event type, touch:

- here: a member of `EventType` with the next number, a `Payload` with its fields, its row in `PAYLOADS`, and its place
  in `SUPERSEDES_UNSEEN` and `SECRET_TYPES` if it has one;
- `links/`: the state that it announces (`machine.py`) and its payload (`payloads.py`);
- `web/words.js`: what the demo page shows for it; `docs/`: when it is sent and what a frontend does with it;
- generated: `python -m roundtrip.api.spec.openapi` (docs/asyncapi.json) and `python -m dashboards`.

Labels of metrics follow from the enum.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

import msgspec

CONNECTION_EVENT: Final = "whatsapp_connection_event"
"""Socket.IO event name of everything stored, emitted, acknowledged and replayed."""

STATUS_UPDATE: Final = "whatsapp_status_update"
"""Socket.IO event name of the snapshot: not stored, not retried."""


class EventType(enum.IntEnum):
    """Event types. The number is what the outbox stores, so it never changes; `wire` is the public name."""

    CONNECTING = 0
    QR = 1
    PAIRING_CODE = 2
    QR_EXPIRED = 3
    PAIRED = 4
    CONNECTED = 5
    DEGRADED = 6
    DISCONNECTED = 7
    LOGGED_OUT = 8
    REPLACED = 9
    BANNED = 10
    CLIENT_OUTDATED = 11
    FAILED = 12
    CANARY = 13
    """What a node sends to itself to see that events arrive (`canary/`); no frontend gets it."""

    wire: str

    def __init__(self, _number: int) -> None:
        self.wire = f"whatsapp_{self.name.lower()}"


class LinkRow(NamedTuple):
    """A link's record as a store of both, events and records, commits it with the event that says so. `version` grows
    with each record of a link: an older one never replaces a newer."""

    link_id: str
    state: str
    paired: bool
    record: str
    """JSON."""
    version: int


class Payload(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The fields that one event type adds to the common ones."""


class Connecting(Payload, frozen=True):
    """`also_linked_elsewhere`: the phone number that was asked for is linked under another bot of this user already."""

    also_linked_elsewhere: bool = False


class Qr(Payload, frozen=True, omit_defaults=False):
    """`qr` is a secret: the text to draw. `expires_at` is RFC 3339 UTC."""

    qr: str
    index: int
    total: int
    expires_at: str


class PairingCode(Payload, frozen=True):
    """`pairing_code` is a secret: what the person types into the phone."""

    pairing_code: str
    expires_at: str


class QrExpired(Payload, frozen=True):
    pass


class Paired(Payload, frozen=True):
    phone_number: str


class Connected(Payload, frozen=True):
    """`also_linked_elsewhere`: the same account is linked under another bot too."""

    phone_number: str
    display_name: str
    first: bool
    also_linked_elsewhere: bool = False


class Failure(Payload, frozen=True, omit_defaults=False):
    """What every failure says: a code for programs, whether trying again can help, and what a person should do."""

    reason_code: str
    retryable: bool
    user_action: str


class Degraded(Failure, frozen=True):
    """The connection stands and does not answer, or comes and goes. It is seen to by itself."""

    reason_code: str = "keepalive_lost"
    retryable: bool = True
    user_action: str = "Nothing to do: the connection to WhatsApp does not answer; it is being restored automatically."


class Disconnected(Failure, frozen=True):
    pass


class LoggedOut(Failure, frozen=True, omit_defaults=True):
    """`device_removed`: whether the account no longer lists this device; absent where that was not the question."""

    device_removed: bool | None = None


class Replaced(Failure, frozen=True):
    pass


class Banned(Failure, frozen=True, omit_defaults=True):
    """Both are RFC 3339 UTC. `until` is None when WhatsApp names no end; `retry_at` is when the account is tried again
    by itself.
    """

    until: str | None
    retry_at: str | None = None


class ClientOutdated(Failure, frozen=True):
    pass


class Failed(Failure, frozen=True):
    pass


class Canary(Payload, frozen=True):
    pass


PAYLOADS: Final[dict[EventType, type[Payload]]] = {
    EventType.CONNECTING: Connecting,
    EventType.QR: Qr,
    EventType.PAIRING_CODE: PairingCode,
    EventType.QR_EXPIRED: QrExpired,
    EventType.PAIRED: Paired,
    EventType.CONNECTED: Connected,
    EventType.DEGRADED: Degraded,
    EventType.DISCONNECTED: Disconnected,
    EventType.LOGGED_OUT: LoggedOut,
    EventType.REPLACED: Replaced,
    EventType.BANNED: Banned,
    EventType.CLIENT_OUTDATED: ClientOutdated,
    EventType.FAILED: Failed,
    EventType.CANARY: Canary,
}

PUBLIC_TYPES: Final = tuple(type_ for type_ in EventType if type_ is not EventType.CANARY)
"""Those of the contract with the frontend, which are also those of labels: a type's place is its number."""

TYPE_OF: Final[dict[type[Payload], EventType]] = {payload: type_ for type_, payload in PAYLOADS.items()}

SECRET_TYPES: Final = frozenset({EventType.QR, EventType.PAIRING_CODE})
"""Their payload is the key to somebody's account: wiped when it is resolved, never replayed once expired."""

_T = EventType
_PAIRING_CODES: Final = frozenset({_T.QR, _T.PAIRING_CODE})
_TRANSIENT: Final = frozenset({_T.CONNECTING, _T.DEGRADED, _T.DISCONNECTED})
_BEFORE_CONNECTED: Final = _TRANSIENT | {_T.QR_EXPIRED}

SUPERSEDES_ALWAYS: Final[dict[EventType, frozenset[EventType]]] = {
    type_: _PAIRING_CODES for type_ in PUBLIC_TYPES if type_ is not _T.DEGRADED
} | {_T.CANARY: frozenset({_T.CANARY})}
"""A secret is superseded by its link's next event, delivered or not: only the newest code works. So is a canary: what
one round left is of no use to the next."""

SUPERSEDES_UNSEEN: Final[dict[EventType, frozenset[EventType]]] = {
    _T.QR: frozenset({_T.CONNECTING, _T.QR_EXPIRED}),
    _T.PAIRING_CODE: frozenset({_T.CONNECTING, _T.QR_EXPIRED}),
    _T.PAIRED: _TRANSIENT | {_T.QR_EXPIRED},
    _T.CONNECTED: _BEFORE_CONNECTED,
    _T.DEGRADED: frozenset({_T.CONNECTING, _T.DEGRADED}),
    _T.DISCONNECTED: _TRANSIENT,
}
"""Transient states that a newer event makes obsolete while no socket is connected. Results are never superseded so."""
