"""One client's socket: its state, and what confirms an event to it.

The state is one `PeerState`, changed by `Peer._move` only.

What confirms an event, and how well. `received`: the client's engine has it. `acked`: its application has it.

| seen | handshaking | replaying, live | interrupted, closing, closed |
|---|---|---|---|
| PONG for the PING written behind the event | - | received | - |
| PONG of the heartbeat, or one that nobody asked for | - | - | - |
| acknowledgement of an event that was written to this very socket | - | acked | - |
| acknowledgement of another's event, of none, or not in this namespace | - | - | - |
| bytes taken by the kernel, a poll answered, a websocket PONG, any other message | - | - | - |

The transport makes no difference: over polling the PONG comes in a POST of its own, during an upgrade over the
websocket, and means the same.
"""

from __future__ import annotations

import asyncio
import enum
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.wire import Confirmable, Frame
from roundtrip.errors import IllegalTransitionError
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from roundtrip.sockets.engineio.connection import EngineConnection, WriteResult

log = structlog.get_logger(__name__)

ACK_WAIT: Final = 1.0
"""Seconds that a client which acknowledges by itself has before a receipt is requested."""

_REASON: Final = {WriteResult.FULL: MissReason.QUEUE_FULL, WriteResult.FAILED: MissReason.SEND_FAILED}


STRICT = False
"""Whether an illegal change of a state raises `IllegalTransitionError`, as in tests, or is counted and logged."""


class PeerState(enum.Enum):
    """Where a socket is between its handshake and its end."""

    HANDSHAKING = "handshaking"
    """Mapped; its client has no CONNECT packet yet."""
    REPLAYING = "replaying"
    """Connected: what it missed is being sent."""
    LIVE = "live"
    """Up to date: events are sent as they happen."""
    INTERRUPTED = "interrupted"
    """Still mapped, but its connection closed before the replay was over."""
    CLOSING = "closing"
    """Still mapped, but its connection closed after the replay."""
    CLOSED = "closed"
    """Unmapped."""


_NEXT: Final[dict[PeerState, tuple[PeerState, ...]]] = {
    PeerState.HANDSHAKING: (PeerState.REPLAYING, PeerState.INTERRUPTED, PeerState.CLOSED),
    PeerState.REPLAYING: (PeerState.LIVE, PeerState.INTERRUPTED, PeerState.CLOSED),
    PeerState.LIVE: (PeerState.CLOSING, PeerState.CLOSED),
    PeerState.INTERRUPTED: (PeerState.CLOSED,),
    PeerState.CLOSING: (PeerState.CLOSED,),
    PeerState.CLOSED: (),
}


class Confirmations(Protocol):
    """What receives the confirmations of clients: the courier, or the recorder of a test."""

    def acked(self, peer: Peer, seq: int) -> None:
        """The application of `peer` acknowledged `seq`, which may be any number at all."""

    def received(self, peer: Peer, sent: Sequence[Confirmable]) -> None:
        """The engine of `peer` has read these."""


class Peer:
    """A mapped socket. Removed from the registry by its own `sid`, never by its key."""

    __slots__ = (
        "_acks_promptly",
        "_batch",
        "_confirmations",
        "_loop",
        "_on_illegal",
        "_sent_seqs",
        "_state",
        "_timer",
        "connect_parent",
        "connected_at",
        "connection",
        "eio_sid",
        "expires_at",
        "key",
        "must_ack",
        "sid",
    )

    def __init__(
        self,
        sid: str,
        eio_sid: str,
        key: BotKey,
        connection: EngineConnection,
        confirmations: Confirmations,
        *,
        must_ack: bool,
        connect_parent: str | None,
        expires_at: float | None,
        clock: Clock = SYSTEM,
        on_illegal: Callable[[], None] | None = None,
    ) -> None:
        """`connect_parent` is the traceparent of the handshake. `on_illegal` is called when an illegal change of the
        state was refused."""
        self.sid = sid
        self.eio_sid = eio_sid
        self.key = key
        self.connection = connection
        self.must_ack = must_ack
        self._state = PeerState.HANDSHAKING
        self.connect_parent = connect_parent
        self.expires_at = expires_at
        """When its token expires, in seconds since the epoch; None for never."""
        self.connected_at = clock.monotonic()
        """On the monotonic clock."""
        self._confirmations = confirmations
        self._on_illegal = on_illegal
        self._loop = asyncio.get_running_loop()
        self._batch: list[Confirmable] = []
        self._timer: asyncio.Handle | None = None
        self._acks_promptly = False
        self._sent_seqs = IntegerRanges()
        connection.listener = self

    @property
    def state(self) -> PeerState:
        return self._state

    def _move(self, to: PeerState) -> None:
        """Change the state. An illegal change is refused: it raises `IllegalTransitionError` if `STRICT`, else it is
        counted and logged."""
        if to in _NEXT[self._state]:
            self._state = to
            return
        if STRICT:
            raise IllegalTransitionError("socket", self._state.value, to.value)
        log.error("socket_state_refused", sid=self.sid, state=self._state.value, to=to.value)
        if self._on_illegal is not None:
            self._on_illegal()

    def begin_replay(self) -> bool:
        """The client has its CONNECT packet. False if it had it before, or is gone: a socket is replayed to once."""
        if self._state is not PeerState.HANDSHAKING:
            return False
        self._move(PeerState.REPLAYING)
        return True

    @property
    def live(self) -> bool:
        """Whether its replay is over, with nothing held back; until it is unmapped."""
        return self._state is PeerState.LIVE or self._state is PeerState.CLOSING

    @live.setter
    def live(self, live: bool) -> None:
        if live is not self.live:
            self._move(PeerState.LIVE if live else PeerState.REPLAYING)

    def closing(self) -> None:
        """Its connection begins to close."""
        self._move(PeerState.CLOSING if self._state is PeerState.LIVE else PeerState.INTERRUPTED)

    def close(self) -> None:
        """It is unmapped: nothing confirms an event any more, and no receipt is asked for."""
        if self._state is not PeerState.CLOSED:
            self._move(PeerState.CLOSED)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._batch = []
        self.connection.listener = None

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more. That is up to the connection, as for `send`: the fault
        `stale_cleanup` unmaps sockets whose connection is open."""
        return self.connection.gone

    @property
    def backlog(self) -> int:
        return self.connection.backlog

    @property
    def transport(self) -> str:
        return self.connection.transport

    def send(self, frame: Frame) -> MissReason | None:
        """Write a frame behind all written before it, without waiting; the reason if it could not be. A client that
        has too much unread is dropped."""
        sent = self.connection.send_frame(frame)
        if sent is WriteResult.OK:
            if frame.seq is not None:
                self._sent_seqs.add(frame.seq)
            return None
        if sent is WriteResult.FULL:
            self.connection.drop("queue_full")
        return _REASON[sent]

    def has(self, seq: int) -> bool:
        """Whether an event was written to it."""
        return seq in self._sent_seqs

    def confirm(self, sent: Confirmable) -> None:
        """Ask for a receipt: one PING for all that is sent in this turn of the loop.

        A client that acknowledges by itself has `ACK_WAIT` to do so, which saves the PING.
        """
        self._batch.append(sent)
        if self._timer is None and self._acks_promptly:
            self._timer = self._loop.call_later(ACK_WAIT, self._request_receipt)
        elif self._timer is None:
            self._timer = self._loop.call_soon(self._request_receipt)

    def _request_receipt(self) -> None:
        self._timer = None
        batch = self._batch
        self._batch = []
        if self._acks_promptly:
            batch = [sent for sent in batch if sent.waiting]
            if not batch:
                return
            self._acks_promptly = False
        self.connection.ping(batch)

    def acked(self, seq: int) -> bool:
        """The application acknowledged `seq`. Whether that number was sent to this socket, and still counts."""
        state = self._state
        if seq not in self._sent_seqs or (state is not PeerState.LIVE and state is not PeerState.REPLAYING):
            return False
        self._acks_promptly = True
        self._confirmations.acked(self, seq)
        batch = self._batch
        while batch and not batch[0].waiting:  # kept until the timer, they would crowd the processor's caches
            del batch[0]
        return True

    def received(self, marker: object) -> None:
        """The engine has read everything that was sent before the PING with this marker: the batch of `confirm`s."""
        state = self._state
        if (state is PeerState.LIVE or state is PeerState.REPLAYING) and isinstance(marker, list):
            self._confirmations.received(self, marker)


class IntegerRanges:
    """A set of integers that mostly grows by one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")
        """Behind the last number of each range."""

    def add(self, number: int) -> None:
        ends = self._ends
        if ends and ends[-1] == number:
            ends[-1] = number + 1
        elif not ends or number > ends[-1]:
            self._starts.append(number)
            ends.append(number + 1)
        elif number not in self:  # out of order: rare, and a range of its own is as true as a merged one
            at = bisect_right(self._starts, number)
            self._starts.insert(at, number)
            ends.insert(at, number + 1)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._starts)
