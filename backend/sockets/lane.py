"""A client's lane: complete packets out, acknowledgements and PONGs back, on the shortest way.

python-engineio keeps the handshake, polling, the upgrade and its own heartbeat. Once a websocket stands and
python-engineio's queue is empty, the lane writes frames straight to the transport, and takes acknowledgements and
receipts out of the stream before a Packet is made of them. What it leans on (`AsyncSocket.send`, `.receive`,
`.poll` through its queue, the driver table) is guarded by tests/sockets/test_engineio_contract.py.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from engineio import packet

from backend.delivery.wire import Frame, websocket_frame

_closing: set[asyncio.Future[None]] = set()  # asyncio keeps no reference of its own

PING_FRAME: Final = b"\x81\x012"
"""The Engine.IO PING as a whole websocket frame."""


class Sent(enum.Enum):
    """What became of one write."""

    OK = "ok"
    FULL = "queue_full"
    FAILED = "send_failed"


class LaneClient(Protocol):
    """Who is told what came back on a lane."""

    def acked(self, seq: int) -> None:
        """The application acknowledged the event sent with this id. It may be any number at all."""

    def received(self, marker: object) -> None:
        """The PONG came for the PING that was sent with this marker."""


class Lane:
    """One Engine.IO socket's way out and back."""

    __slots__ = ("_limit", "_pings", "_polled", "_receive", "_send", "_socket", "_transport", "client", "close_reason")

    def __init__(self, socket: Any, limit: int) -> None:  # Any: python-engineio publishes no types
        self._socket = socket
        self._limit = limit
        self._transport: asyncio.Transport | None = None
        self._polled = 0
        self._pings: deque[object] = deque()
        self._send: Callable[[Any], Any] = socket.send
        self._receive: Callable[[Any], Any] = socket.receive
        self.client: LaneClient | None = None
        self.close_reason: str | None = None
        socket.lane = self
        socket.send = self._engine_send
        socket.receive = self._engine_receive

    @property
    def transport(self) -> str:
        """`websocket` or `polling`."""
        return "websocket" if self._socket.upgraded else "polling"

    @property
    def closed(self) -> bool:
        return bool(self._socket.closed or self._socket.closing)

    @property
    def silent(self) -> bool:
        """Whether the client has left python-engineio's newest heartbeat unanswered for about as long as it may."""
        asked = self._socket.last_ping
        return bool(asked) and time.time() - asked > 0.9 * self._socket.server.ping_timeout

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client to read them."""
        if self._transport is not None:
            return self._transport.get_write_buffer_size()
        return 0 if self._socket.queue.empty() else self._polled

    def open(self, transport: asyncio.Transport | None) -> None:
        """A websocket stands, from now on or after an upgrade."""
        self._transport = transport

    # out

    def send(self, frame: Frame) -> Sent:
        """Write one message behind everything written before it. Never waits."""
        if self.closed:
            return Sent.FAILED
        if self.backlog > self._limit:
            return Sent.FULL
        transport = self._direct()
        if transport is not None:
            transport.write(frame.wire)
        else:
            self._enqueue(packet.Packet(packet.MESSAGE, data=frame.message()), len(frame.payload))
        return Sent.OK

    def ping(self, marker: object) -> None:
        """Ask for a receipt: `client.received(marker)` follows when the client's engine has read all so far."""
        if self.closed:
            return
        self._pings.append(marker)
        transport = self._direct()
        if transport is not None:
            transport.write(PING_FRAME)
        else:
            self._enqueue(packet.Packet(packet.PING), 1)

    def abort(self, reason: str) -> None:
        """Drop the connection without waiting for a client that does not read."""
        self.close_reason = self.close_reason or reason
        if self._transport is not None:
            self._transport.abort()
        elif not self.closed:
            closing = asyncio.ensure_future(self._socket.close(wait=False, abort=True, reason=reason))
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)

    def release_poll(self) -> None:
        """The socket closed: let a request that waits for packets go, once the last one is queued."""
        if self._transport is None:
            asyncio.get_running_loop().call_soon(self._socket.queue.put_nowait, None)

    async def close(self, reason: str) -> None:
        """Say goodbye with an Engine.IO CLOSE, after which a stock client reconnects by itself."""
        self.close_reason = self.close_reason or reason
        await self._socket.close(wait=False, reason=reason)
        if self._transport is not None:
            self._transport.close()

    def _direct(self) -> asyncio.Transport | None:
        """The transport, if nothing older is on its way through python-engineio's queue."""
        transport = self._transport
        if transport is not None and self._socket.upgraded and self._socket.queue.idle and not transport.is_closing():
            return transport
        return None

    def _enqueue(self, pkt: Any, size: int) -> None:
        queue = self._socket.queue
        self._polled = size if queue.empty() else self._polled + size
        queue.put_nowait(pkt)

    async def _engine_send(self, pkt: Any) -> None:
        """In place of `AsyncSocket.send`: python-engineio's and python-socketio's own packets."""
        if pkt.packet_type == packet.PING:
            self._pings.append(_REGULAR)
        transport = self._direct()
        if transport is not None and not pkt.binary:
            transport.write(websocket_frame(pkt.encode().encode()))
        else:
            await self._send(pkt)

    # back

    def take(self, data: str) -> bool:
        """Handle a raw websocket message that is a lane's own; False leaves it to python-engineio."""
        if data.startswith("43"):
            return self._take_ack(data, 2)
        if data == "3" and self._pings and self._pings[0] is not _REGULAR:
            self._pong()
            return True
        return False

    def _take_ack(self, data: str, start: int) -> bool:
        end = data.find("[", start, start + 18)
        if end <= start:
            return False
        try:
            seq = int(data[start:end])
        except ValueError:
            return False
        if self.client is not None:
            self.client.acked(seq)
        return True

    def _pong(self) -> bool:
        """Match a PONG with the oldest PING; whether python-engineio is to see it."""
        if not self._pings:
            return False  # nobody asked
        marker = self._pings.popleft()
        if marker is _REGULAR:
            return True
        if self.client is not None:
            self.client.received(marker)
        return False

    async def _engine_receive(self, pkt: Any) -> None:
        """In place of `AsyncSocket.receive`: what polling brings, and what `take` left."""
        if pkt.packet_type == packet.PONG:
            if not self._pong():
                return
        elif (
            pkt.packet_type == packet.MESSAGE
            and isinstance(pkt.data, str)
            and pkt.data.startswith("3")
            and self._take_ack(pkt.data, 1)
        ):
            return
        await self._receive(pkt)


class _Regular:
    """The marker of python-engineio's own heartbeat."""


_REGULAR: Final = _Regular()
