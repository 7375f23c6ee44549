"""A client's lane: complete packets out, acknowledgements and PONGs back, on the shortest way.

python-engineio keeps the handshake and polling. Once a websocket stands, frames are written straight to the
transport, and acknowledgements and receipts are taken out of the stream before a Packet is made of them. What it leans
on is guarded by tests/sockets/test_engineio_contract.py.

A receipt is a PONG: a client answers PINGs in order, and has read what was written before them.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any, Final, Protocol

import msgspec
from engineio import packet

from roundtrip.delivery.wire import Frame
from roundtrip.sockets.engineio.transports import TransportSocket

PING_FRAME: Final = b"\x81\x012"
"""The Engine.IO PING as a whole websocket frame."""

MAX_UNSOLICITED: Final = 1_000
"""PONGs and acknowledgements that nobody waits for, until a client is closed for them."""


JOIN_TIMEOUT: Final = 20.0
"""Seconds after which a connection without a socket is closed at its next heartbeat: it only holds memory."""


class WriteResult(enum.Enum):
    """What became of one write."""

    OK = "ok"
    FULL = "queue_full"
    FAILED = "send_failed"


class ConnectionListener(Protocol):
    """Who is told what came back on a lane."""

    def acked(self, seq: int) -> bool:
        """The application acknowledged the event sent with this id, which may be any number at all. Whether it was
        written to this client."""

    def received(self, marker: object) -> None:
        """The PONG came for the PING that was sent with this marker."""

    def closing(self) -> None:
        """The connection begins to close: nothing is written any more."""


class EngineConnection(TransportSocket):
    """One Engine.IO socket's way out and back."""

    def __init__(self, server: Any, sid: str, limit: int) -> None:
        super().__init__(server, sid, limit)
        self._pings: deque[object] = deque()
        self._unsolicited = 0
        self._opened_at = self._loop.time()
        self.refusal_sent_at = float("-inf")
        """When the client was last told that it asks too much, by the loop's clock."""
        self.connect_received = False
        """A CONNECT came: one connection carries one socket in its life."""
        self.listener: ConnectionListener | None = None

    # out

    def send_frame(self, frame: Frame) -> WriteResult:
        """Write one message behind everything written before it. Never waits."""
        if self.closed or self.closing:
            return WriteResult.FAILED
        transport = self._transport
        if transport is None:
            if self.backlog > self._limit:
                return WriteResult.FULL
            self._enqueue(packet.Packet(packet.MESSAGE, data=frame.message()), len(frame.payload))
            return WriteResult.OK
        if transport.is_closing():
            return WriteResult.FAILED
        if transport.get_write_buffer_size() > self._limit:
            return WriteResult.FULL
        transport.write(frame.wire)
        return WriteResult.OK

    def _ping_due(self) -> None:
        if self.listener is None and self._loop.time() - self._opened_at >= JOIN_TIMEOUT:
            self._timer = None
            self.refuse("not_joined")
            self._start_closing(self.server.reason.TRANSPORT_ERROR)
            return
        super()._ping_due()

    def ping(self, marker: object) -> None:
        """Ask for a receipt: `listener.received(marker)` follows when the client's engine has read all so far."""
        if self.closed or self.closing:
            return
        self._pings.append(marker)
        if self._transport is not None:
            self._write_frame(PING_FRAME)
        else:
            self._enqueue(packet.Packet(packet.PING), 1)

    def write(self, pkt: Any) -> None:
        if pkt.packet_type == packet.PING:
            self._pings.append(_HEARTBEAT)
        super().write(pkt)

    def on_closing(self) -> None:
        if self.listener is not None:
            self.listener.closing()

    # back

    def intercept(self, text: str) -> bool:
        """Handle a raw message that is a lane's own; False leaves it to python-engineio."""
        if text.startswith("43"):
            return self._intercept_ack(text)
        if text == "3":
            pings = self._pings
            if not pings:
                self._count_unsolicited()
            elif pings[0] is _HEARTBEAT:
                return False
            elif self.listener is not None:
                self.listener.received(pings.popleft())
            else:
                pings.popleft()
            return True
        return False

    def _intercept_ack(self, text: str) -> bool:
        end = text.find("[", 2, 20)
        if end <= 2:
            return False
        number = text[2:end]
        if not (number.isascii() and number.isdigit()) or (text[end:] != "[]" and not _is_array(text[end:])):
            return False
        self.acknowledge(int(number))
        return True

    def acknowledge(self, seq: int) -> None:
        """The application acknowledged `seq`."""
        if self.listener is None or not self.listener.acked(seq):
            self._count_unsolicited()

    def _count_unsolicited(self) -> None:
        self._unsolicited += 1
        if self._unsolicited == MAX_UNSOLICITED:
            self.refuse("unasked")
            self.drop(self.server.reason.TRANSPORT_ERROR)

    async def receive(self, pkt: Any) -> None:
        """What `take` left: python-engineio sees the PONGs of its own heartbeat only."""
        if pkt.packet_type == packet.PONG:
            if not self._pings:
                self._count_unsolicited()
                return
            if (marker := self._pings.popleft()) is not _HEARTBEAT:
                if self.listener is not None:
                    self.listener.received(marker)
                return
            self.schedule_ping()
            return
        await super().receive(pkt)


def _is_array(text: str) -> bool:
    """Whether an acknowledgement's arguments are a JSON array."""
    try:
        msgspec.json.decode(text, type=list)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


class _HeartbeatMarker:
    """The marker of the heartbeat's own PING."""


_HEARTBEAT: Final = _HeartbeatMarker()
