"""Replaces `AsyncSocket.send` and `receive` (python-engineio 4.15.1) for events, acknowledgements and PONGs.

Why: this is the path of each event. A frame that was encoded once is written to each websocket's transport, and an
acknowledgement is read without a `Packet`, a Socket.IO packet and a callback (python-socketio 5.18.1). And a PONG is a
receipt, for which upstream has no hook: clients answer PINGs in order, and have read what was written before them.

Could be deleted when upstream sends encoded frames, and reports PONGs and acknowledgements to a hook.
"""

from __future__ import annotations

import enum
from typing import Any, Final, Protocol

import msgspec
from engineio import packet

from roundtrip.delivery.wire import Frame
from roundtrip.sockets.engineio.transports import TransportSocket

PING_FRAME: Final = b"\x81\x012"
"""The Engine.IO PING as a whole websocket frame."""

MAX_UNSOLICITED: Final = 1_000
"""PONGs and acknowledgements without a PING or an event, after which a client is closed."""

JOIN_TIMEOUT: Final = 20.0
"""Seconds after which a connection that has no Socket.IO socket is closed, at its next heartbeat."""


class WriteResult(enum.Enum):
    """How one write ended."""

    OK = "ok"
    FULL = "queue_full"
    FAILED = "send_failed"


class ConnectionListener(Protocol):
    """What receives the confirmations of a connection: its `Peer`, or the recorder of a test."""

    def acked(self, seq: int) -> bool:
        """The client acknowledged this id, which may be any number. Whether an event of that id was sent to it."""

    def received(self, marker: object) -> None:
        """The PONG came for the PING with this marker."""

    def closing(self) -> None:
        """The connection begins to close: nothing can be written any more."""


class EngineConnection(TransportSocket):
    """An Engine.IO session with receipts. Messages are written and confirmed without python-socketio."""

    def __init__(self, server: Any, sid: str, limit: int) -> None:
        super().__init__(server, sid, limit)
        self._pings: list[object] = []
        """The markers of the PINGs that were not answered, few at most times: an empty deque takes 760 bytes."""
        self._unsolicited = 0
        self._opened_at = self._loop.time()
        self.refusal_sent_at = float("-inf")
        """When `request_refused` was last sent, by the loop's clock."""
        self.connect_received = False
        """A Socket.IO CONNECT came. A connection carries one socket, so that a second is refused."""
        self.listener: ConnectionListener | None = None

    # out

    def send_frame(self, frame: Frame) -> WriteResult:
        """Write one message behind all written before it, without waiting."""
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
        """Send a PING: `listener.received(marker)` is called when the client has read all that was written so far."""
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
        """Process an acknowledgement, or the PONG of a receipt. False leaves any other message to python-engineio."""
        if self.dropped:
            return False
        if text.startswith("43"):
            return self._intercept_ack(text)
        if text == "3":
            pings = self._pings
            if not pings:
                self._count_unsolicited()
            elif pings[0] is _HEARTBEAT:
                return False
            elif self.listener is not None:
                self.listener.received(pings.pop(0))
            else:
                pings.pop(0)
            return True
        return False

    def _intercept_ack(self, text: str) -> bool:
        """`43<id>[…]` in the namespace `/`; False for anything else, which python-socketio parses and refuses."""
        end = text.find("[", 2, 20)
        if end <= 2:
            return False
        number = text[2:end]
        if not (number.isascii() and number.isdigit()) or (text[end:] != "[]" and not _is_array(text[end:])):
            return False
        self.acknowledge(int(number))
        return True

    def acknowledge(self, seq: int) -> None:
        """The client acknowledged `seq`."""
        if self.listener is None or not self.listener.acked(seq):
            self._count_unsolicited()

    def _count_unsolicited(self) -> None:
        self._unsolicited += 1
        if self._unsolicited == MAX_UNSOLICITED:
            self.refuse("unasked")
            self.drop(self.server.reason.TRANSPORT_ERROR)

    async def receive(self, pkt: Any) -> None:
        """Process a packet that `intercept` left. Upstream sees no PONG but those of the heartbeat."""
        if pkt.packet_type == packet.PONG:
            if not self._pings:
                self._count_unsolicited()
                return
            if (marker := self._pings.pop(0)) is not _HEARTBEAT:
                if self.listener is not None:
                    self.listener.received(marker)
                return
            self.schedule_ping()
            return
        await super().receive(pkt)


def _is_array(text: str) -> bool:
    """Whether a text is a JSON array."""
    try:
        msgspec.json.decode(text, type=list)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


class _HeartbeatMarker:
    """The marker of a PING of the heartbeat."""


_HEARTBEAT: Final = _HeartbeatMarker()
