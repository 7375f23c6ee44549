"""The records that an outbox takes and returns, and the JSON body of a stored event.

In order: the fixed sets of the public contract (outcome, mode, miss reason), attempts, events, results, and what makes
an event's id, timestamp and body. All times are integers in milliseconds since the epoch.
"""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from roundtrip.events import TYPE_OF, EventType, LinkRow, Payload
from roundtrip.identity import BotKey


class Outcome(enum.IntEnum):
    """State of an event. The number is what is stored; `wire` is the public name.

    The transitions, all others being refused:

    - PENDING to any other, by `Outbox.resolve`, a newer event that supersedes it, or expiry
    - RECEIVED to ACKED, by `Outbox.upgrade`
    """

    PENDING = 0
    ACKED = 1
    RECEIVED = 2
    SUPERSEDED = 3
    EXPIRED = 4
    DISCARDED = 5

    wire: str

    def __init__(self, _number: int) -> None:
        self.wire = self.name.lower()


class Mode(enum.StrEnum):
    """Whether an attempt is the first sending, or sends what was missed."""

    LIVE = "live"
    REPLAY = "replay"


class MissReason(enum.StrEnum):
    """Why an attempt reached nobody."""

    NEVER_CONNECTED = "never_connected"
    KEY_MISMATCH = "key_mismatch"
    OTHER_BOT_CONNECTED = "other_bot_connected"
    JUST_DISCONNECTED = "just_disconnected"
    DISCONNECTED = "disconnected"
    ACK_TIMEOUT = "ack_timeout"
    QUEUE_FULL = "queue_full"
    SEND_FAILED = "send_failed"


class Attempt(msgspec.Struct, omit_defaults=True):
    """One attempt to emit an event, as the ledger stores it.

    `reason` is None for a sent attempt, which `receipt_at` or `ack_at` confirm. `sids` are the sockets it was written
    to, of many only the first. `omitted` is how many attempts between this one and the next are not stored.

    Where no socket was found, `looked_for` is the hash of the key that had none, and `connected` the hashes of the
    user's keys that had some, of many only the first; `keys` names their bot ids. The hashes are those of the attempt's
    span, which a later process may be unable to make.

    `node` is the node that made it, where several share a store: set by the store when it is written.
    """

    at: int
    mode: Mode
    sockets: int = 0
    reason: MissReason | None = None
    receipt_at: int | None = None
    ack_at: int | None = None
    keys: tuple[str, ...] = ()
    sids: tuple[str, ...] = ()
    trace_id: str | None = None
    omitted: int = 0
    looked_for: str | None = None
    looked_for_is_user: bool = False
    connected: tuple[str, ...] = ()
    connected_is_user: bool = False
    node: str | None = None

    def move(self, ms: int) -> None:
        """The clock was set by `ms`: convert the times to the new one."""
        self.at += ms
        if self.receipt_at is not None:
            self.receipt_at += ms
        if self.ack_at is not None:
            self.ack_at += ms


FIRST_ATTEMPTS: Final = 3
LAST_ATTEMPTS: Final = 7
"""Attempts of one event that are stored: what went wrong first, what is wrong now. A client that reconnects all day
makes thousands between."""


def shorten(attempts: list[Attempt]) -> None:
    """Remove the middle of too many attempts, in place, and count what was removed in `omitted`."""
    while len(attempts) > FIRST_ATTEMPTS + LAST_ATTEMPTS:
        removed = attempts.pop(FIRST_ATTEMPTS)
        attempts[FIRST_ATTEMPTS - 1].omitted += 1 + removed.omitted


def omitted(attempts: Iterable[Attempt]) -> int:
    """How many attempts were removed from a list."""
    return sum(attempt.omitted for attempt in attempts)


class Draft(msgspec.Struct, frozen=True):
    """An event before it is stored. `supersedes` are the types whose pending events of the same key end with it;
    `state` is what becomes of the link with it, for a store that holds both."""

    key: BotKey
    link_id: str
    payload: Payload
    created_at: int
    expires_at: int
    traceparent: str
    supersedes: frozenset[EventType] = frozenset()
    state: LinkRow | None = None


class StoredEvent(msgspec.Struct, frozen=True):
    """A committed event. `body` is a JSON object: all the public fields but `replayed` and `attempt`."""

    key: BotKey
    seq: int
    id: str
    type: EventType
    link_id: str
    created_at: int
    expires_at: int
    traceparent: str
    body: bytes
    attempts: tuple[Attempt, ...] = ()
    """What was recorded before the process started, or since."""

    def moved(self, ms: int) -> StoredEvent:
        """The same event by a clock that was set by `ms`. The timestamp in its body stays."""
        times = {"created_at": self.created_at + ms, "expires_at": self.expires_at + ms}
        return msgspec.structs.replace(self, **times)


class LedgerEntry(msgspec.Struct, frozen=True):
    """One event, pending or resolved, as its history shows it: without its payload."""

    key: BotKey
    seq: int
    id: str
    type: EventType
    link_id: str
    created_at: int
    expires_at: int
    traceparent: str
    outcome: Outcome
    resolved_at: int | None
    attempts: tuple[Attempt, ...]


class Resolution(msgspec.Struct, frozen=True):
    """The end of one event. Only one is applied, the first; for receipt and ack see `Outbox.upgrade`."""

    key: BotKey
    seq: int
    outcome: Outcome
    at: int
    attempts: Sequence[Attempt]


class Ended(NamedTuple):
    """An event that the outbox itself ended: superseded or expired."""

    key: BotKey
    seq: int
    outcome: Outcome


class Totals(NamedTuple):
    """The sums of all events ever stored, read at one moment: created = resolved + pending, for each type."""

    created: Mapping[EventType, int]
    resolved: Mapping[tuple[EventType, Outcome], int]
    """By first outcome: an upgrade from received to acked changes no sum, for counters never fall."""
    pending: Mapping[EventType, int]
    oldest_pending_at: int | None
    size_bytes: int
    exported: bool = True
    """Whether this node tells them to Prometheus: of the nodes of a shared store exactly one does."""


_encode = msgspec.json.Encoder().encode
decode_attempts: Final = msgspec.json.Decoder(tuple[Attempt, ...]).decode
"""Attempts from the text that a store keeps of them."""


def encode_attempts(attempts: Sequence[Attempt]) -> str:
    """Attempts as the text that a store keeps of them."""
    return _encode(attempts).decode()


_TYPES = {type_: b'"type":' + _encode(type_.wire) for type_ in EventType}
_POOL = 1024
"""Ids for which random bytes are fetched at once."""
_ID_DIGITS: Final = 20
"""Hexadecimal digits fetched for an id, of which it needs 19."""
_VARIANTS: Final = {f"{digit:x}": f"{digit & 3 | 8:x}" for digit in range(16)}
"""The digit that holds the variant: its two upper bits are 1 and 0."""


class EventIds:
    """Makes UUIDv7s (RFC 9562), in lower case. Not safe for several threads."""

    def __init__(self) -> None:
        self._at = -1
        self._start = ""
        self._random = ""
        self._used = 0

    def make(self, at: int) -> str:
        """A new id with the time `at`."""
        if at != self._at:
            text = f"{at & 0xFFFF_FFFF_FFFF:012x}"
            self._start = f"{text[:8]}-{text[8:]}-7"
            self._at = at
        if self._used == len(self._random):
            self._random = os.urandom(_ID_DIGITS // 2 * _POOL).hex()
            self._used = 0
        start = self._used
        self._used = start + _ID_DIGITS
        digits = self._random[start : start + _ID_DIGITS]
        return f"{self._start}{digits[:3]}-{_VARIANTS[digits[3]]}{digits[4:7]}-{digits[7:19]}"


class Timestamps:
    """RFC 3339 in UTC with milliseconds. Caches the text of the newest second, for events come in bursts."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, at: int) -> str:
        """The timestamp of `at`."""
        second, milli = divmod(at, 1000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = second
        return f"{self._text}{milli:03d}Z"


def key_part(key: BotKey) -> bytes:
    """The part of a body that all events of a key share."""
    return b'"userId":%b,"botId":%b' % (_encode(key.user_id), _encode(key.bot_id))


def body(draft: Draft, seq: int, event_id: str, timestamp: str, key_json: bytes) -> bytes:
    """The public JSON of an event but for `replayed` and `attempt`. `key_json` is `key_part` of its key. Raises
    `ValueError`, `TypeError` or `OverflowError` for what JSON cannot hold, such as half a surrogate pair."""
    return whole_body(event_id, seq, body_tail(draft, timestamp, key_json))


def whole_body(event_id: str, seq: int, tail: bytes) -> bytes:
    """The body of an event whose `seq` was not known when its tail was made."""
    return b'{"id":"%b","seq":%d,%b' % (event_id.encode(), seq, tail)


def body_tail(draft: Draft, timestamp: str, key_json: bytes) -> bytes:
    """What follows the `seq` in a body. Raises as `body`."""
    payload = _encode(draft.payload)
    return b"".join(
        (
            _TYPES[TYPE_OF[type(draft.payload)]],
            b",",
            key_json,
            b',"linkId":',
            _encode(draft.link_id),
            b',"timestamp":"',
            timestamp.encode(),
            b'","traceparent":',
            _encode(draft.traceparent),
            b"" if payload == b"{}" else b",",
            payload[1:],
        )
    )
