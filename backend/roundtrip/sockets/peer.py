"""One client's socket, from its handshake to its end.

What confirms an event, and how well. `received`: the client's engine has it. `acked`: its application has it.

| seen | handshaking | replaying, live | closing, closed |
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
from collections.abc import Sequence
from typing import Final, Protocol

from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.wire import Confirmable, Frame
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from roundtrip.sockets.engineio.connection import EngineConnection, IntegerRanges, WriteResult

PROMPT_WAIT: Final = 1.0
"""Seconds that a client which acknowledges by itself is given before a receipt is asked for."""

_REASON: Final = {WriteResult.FULL: MissReason.QUEUE_FULL, WriteResult.FAILED: MissReason.SEND_FAILED}


class PeerState(enum.Enum):
    """How far a socket's life is."""

    HANDSHAKING = "handshaking"
    """Mapped; its client has not been told."""
    REPLAYING = "replaying"
    """Joined: what it missed is being sent."""
    LIVE = "live"
    CLOSING = "closing"
    """Still mapped, but nothing reaches it any more."""
    CLOSED = "closed"


_JOINED: Final = frozenset({PeerState.REPLAYING, PeerState.LIVE})


class Confirmations(Protocol):
    """Who is told what a client confirmed."""

    def acked(self, peer: Peer, seq: int) -> None:
        """The application of `peer` acknowledged `seq`, which may be any number at all."""

    def received(self, peer: Peer, sent: Sequence[Confirmable]) -> None:
        """The engine of `peer` has read these."""


class Peer:
    """A mapped socket. Removed from the registry by its own `sid`, never by its key."""

    __slots__ = (
        "_batch",
        "_confirmations",
        "_held",
        "_loop",
        "_prompt",
        "_state",
        "_timer",
        "connect_parent",
        "connected_at",
        "eio_sid",
        "expires_at",
        "key",
        "lane",
        "must_ack",
        "sid",
    )

    def __init__(
        self,
        sid: str,
        eio_sid: str,
        key: BotKey,
        lane: EngineConnection,
        confirmations: Confirmations,
        *,
        must_ack: bool,
        connect_parent: str | None,
        expires_at: float | None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.sid = sid
        self.eio_sid = eio_sid
        self.key = key
        self.lane = lane
        self.must_ack = must_ack
        self._state = PeerState.HANDSHAKING
        self.connect_parent = connect_parent
        self.expires_at = expires_at
        """When its token runs out, in seconds since the epoch; None for never."""
        self.connected_at = clock.monotonic()
        """On the monotonic clock."""
        self._confirmations = confirmations
        self._loop = asyncio.get_running_loop()
        self._batch: list[Confirmable] = []
        self._timer: asyncio.Handle | None = None
        self._prompt = False
        self._held = IntegerRanges()
        lane.client = self

    @property
    def state(self) -> PeerState:
        if self._state is not PeerState.CLOSED and self.lane.gone:
            return PeerState.CLOSING
        return self._state

    @property
    def live(self) -> bool:
        return self._state is PeerState.LIVE

    @live.setter
    def live(self, live: bool) -> None:
        """Its replay is over, with nothing held back."""
        if live and self._state is PeerState.REPLAYING:
            self._state = PeerState.LIVE

    def joined(self) -> bool:
        """The client was told that it is in. False if it was before: a socket is brought up to date once."""
        if self._state is not PeerState.HANDSHAKING:
            return False
        self._state = PeerState.REPLAYING
        return True

    @property
    def closed(self) -> bool:
        return self.lane.gone

    @property
    def backlog(self) -> int:
        return self.lane.backlog

    @property
    def transport(self) -> str:
        return self.lane.transport

    def send(self, frame: Frame) -> MissReason | None:
        sent = self.lane.send_frame(frame)
        if sent is WriteResult.OK:
            if frame.seq is not None:
                self._held.add(frame.seq)
            return None
        if sent is WriteResult.FULL:
            self.lane.hang_up("queue_full")
        return _REASON[sent]

    def confirm(self, sent: Confirmable) -> None:
        """Ask for a receipt: one PING for all that goes out in this turn of the loop.

        A client that has shown that it acknowledges is given a moment to do so; then the PING is saved.
        """
        self._batch.append(sent)
        if self._timer is None:
            self._timer = (
                self._loop.call_later(PROMPT_WAIT, self._ask) if self._prompt else self._loop.call_soon(self._ask)
            )

    def _ask(self) -> None:
        self._timer = None
        batch = self._batch
        self._batch = []
        if self._prompt:
            batch = [sent for sent in batch if sent.waiting]
            if not batch:
                return
            self._prompt = False
        self.lane.ping(batch)

    def acked(self, seq: int) -> bool:
        if seq not in self._held or self.state not in _JOINED:
            return False
        self._prompt = True
        self._confirmations.acked(self, seq)
        return True

    def received(self, marker: object) -> None:
        if isinstance(marker, list) and self.state in _JOINED:
            self._confirmations.received(self, marker)

    def forget(self) -> None:
        """It is gone: let go of what it still waits for."""
        self._state = PeerState.CLOSED
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._batch = []
        self.lane.client = None
