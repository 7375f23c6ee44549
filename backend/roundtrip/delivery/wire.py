"""The bytes of an event on the wire, and what delivery needs of sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Protocol

import msgspec

from roundtrip.events import CONNECTION_EVENT, STATUS_UPDATE
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Mode, Outcome, StoredEvent

_EVENT: Final = b'["' + CONNECTION_EVENT.encode() + b'",'
_REPLAYED: Final = {Mode.LIVE: b',"replayed":false,"attempt":', Mode.REPLAY: b',"replayed":true,"attempt":'}

_SHORT, _LONG, _LONGEST = (struct.Struct(form).pack for form in (">BB", ">BBH", ">BBQ"))
"""The heads of websocket frames."""


class Frame:
    """One Engine.IO message, encoded once for all the sockets that get it."""

    __slots__ = ("payload", "seq", "wire")

    def __init__(self, payload: bytes, seq: int | None = None) -> None:
        """`payload` is the whole packet, `4…`, as UTF-8; `seq` is the number that its acknowledgement names."""
        self.payload = payload
        self.seq = seq
        self.wire = websocket_frame(payload)

    def message(self) -> str:
        """The packet without its type, as python-engineio wants it."""
        return self.payload[1:].decode()


def websocket_frame(payload: bytes, *, text: bool = True) -> bytes:
    """An unmasked, final frame (RFC 6455 §5.2), as a server sends it."""
    kind = 0x81 if text else 0x82
    length = len(payload)
    if length < 126:
        return _SHORT(kind, length) + payload
    if length < 1 << 16:
        return _LONG(kind, 0x7E, length) + payload
    return _LONGEST(kind, 0x7F, length) + payload


def websocket_close(code: int) -> bytes:
    """A close frame with a status code (RFC 6455 §7.4)."""
    return b"\x88\x02" + code.to_bytes(2, "big")


def websocket_pong(payload: bytes) -> bytes:
    """The answer to a websocket PING; at most 125 bytes, as the protocol wants."""
    return b"\x8a" + len(payload).to_bytes(1, "big") + payload


def event_frame(event: StoredEvent, mode: Mode, attempt: int) -> Frame:
    """An Engine.IO message with a Socket.IO event. Its ack id is the event's `seq`, so that any socket's ack names
    the event, and all sockets of a key get the same bytes. `attempt` counts from 1."""
    return Frame(b"42%d%b%b%b%d}]" % (event.seq, _EVENT, event.body[:-1], _REPLAYED[mode], attempt), event.seq)


def packet_frame(event: str, data: msgspec.Struct) -> Frame:
    """An Engine.IO message with a Socket.IO event of another name, without an ack id."""
    return Frame(b'42["%b",%b]' % (event.encode(), msgspec.json.encode(data)))


def status_frame(snapshot: msgspec.Struct) -> Frame:
    """An Engine.IO message with a snapshot."""
    return packet_frame(STATUS_UPDATE, snapshot)


class Miss(NamedTuple):
    """Why an attempt reached nobody. `keys` are the bot ids of the same user that have sockets."""

    reason: MissReason
    keys: tuple[str, ...] = ()


class Whereabouts(NamedTuple):
    """What other nodes have of a key: those that have sockets of it; if none does, the bot ids under which they have
    sockets of the same user, and for how many seconds the key has had no socket there, None if it never had one."""

    nodes: tuple[str, ...] = ()
    bots: tuple[str, ...] = ()
    left: float | None = None


NOWHERE: Final = Whereabouts()


class Ending(NamedTuple):
    """How an event ended; `here` if it was this node that confirmed it."""

    outcome: Outcome
    here: bool


class Elsewhere(Protocol):
    """The other nodes of a shared store. `cluster/routing.py` implements it."""

    @property
    def others(self) -> bool:
        """Whether there were any when the newest event was committed."""

    @property
    def remembers(self) -> bool:
        """Whether a key may have had sockets on another node within a day, or has."""

    def announce(self, key: BotKey, here: bool, told: Callable[[Whereabouts], None]) -> None:
        """Something was committed for a key, which has sockets on this node or not: the nodes that have some look.
        `told` receives which these are, nowhere if the store does not answer."""

    def ask(self, key: BotKey, seq: int, told: Callable[[Ending | None], None]) -> None:
        """How an event ended; None while it is pending, or if the store does not answer."""

    def seen(self, key: BotKey) -> bool:
        """Whether another node may have sockets of a key, as far as is known: True if it is not."""


class Confirmable(Protocol):
    """What a receipt is asked for."""

    @property
    def waiting(self) -> bool:
        """Whether a confirmation is still of use."""


class Socket(Protocol):
    """One connected client, as delivery sees it. `sockets/peer.py` implements it."""

    sid: str
    key: BotKey
    must_ack: bool
    """The client declared that it acknowledges, and is held to it."""
    live: bool
    """False while what it missed is still being replayed to it."""

    @property
    def closed(self) -> bool: ...

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client to read them."""

    def send(self, frame: Frame) -> MissReason | None:
        """Write a frame behind all written before it, without waiting; the reason if it could not be."""

    def has(self, seq: int) -> bool:
        """Whether an event was written to it."""

    def confirm(self, sent: Confirmable) -> None:
        """Ask for a receipt of what was just sent; it comes as a call of `Confirmations.received`."""


class Sockets(Protocol):
    """The socket map: which sockets a key has, and why it has none. `sockets/registry.py` implements it."""

    def of(self, key: BotKey) -> Collection[Socket]:
        """The key's sockets now; empty when it has none."""

    def why_missing(self, key: BotKey) -> Miss:
        """Why the key has no socket."""

    def missed(self, key: BotKey, event: str, event_id: str, miss: Miss) -> None:
        """Remember a missed attempt, for the page of the last misses."""
