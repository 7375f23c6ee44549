"""One Engine.IO connection: python-engineio's socket with its own heartbeat, queue and websocket.

What is replaced, and why. Upstream's websocket writer gives up when its *queue* was empty for an interval and a
timeout, but here frames pass the queue by: a websocket is written to directly, and has no writer. Its heartbeat
measures with the wall clock, which may step: here one timer of the event loop asks, and one notices the silence. Its
queue has no limit: here every packet counts, whoever made it. And an attribute that holds a method of its own object
would keep a closed socket in memory until a collection, so there is none: behaviour is overridden, not patched in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from engineio import exceptions, packet
from engineio.async_socket import AsyncSocket

from roundtrip.delivery.wire import websocket_close, websocket_frame

log = structlog.get_logger(__name__)

LATE_TIMER: Final = 0.1
"""Seconds by which a timer is late when the whole process stood still: what came meanwhile is still unread."""

LATE_TIMER_GRACE: Final = 1.0
"""Seconds in which a late loop reads what waits, before it calls a client silent."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a client has to answer a close frame."""

PACKET_COST: Final = 200
"""Bytes that a queued packet takes beside its text."""

GOING_AWAY: Final = "draining"
"""The reason of a close that tells the websocket 1001: the server goes, the client did nothing wrong."""

_FROM_CLIENTS: Final = frozenset({packet.MESSAGE, packet.PONG, packet.CLOSE})

_closing: set[asyncio.Future[None]] = set()  # asyncio keeps no reference of its own


def engine_frame(pkt: Any) -> bytes:
    """A packet as a websocket frame."""
    data = pkt.encode()
    return websocket_frame(data.encode()) if isinstance(data, str) else websocket_frame(bytes(data), text=False)


class EngineSocket(AsyncSocket):  # type: ignore[misc]  # python-engineio publishes no types
    """`limit` is the bytes that may wait for the client; past it the connection is closed."""

    connected: bool
    """It may be polled, or has its websocket."""
    upgrading: bool
    upgraded: bool

    def __init__(self, server: Any, sid: str, limit: int) -> None:  # Any: python-engineio publishes no types
        super().__init__(server, sid)
        self.last_ping = None  # upstream's heartbeat, on the wall clock: not used
        self.close_reason: str | None = None
        self.dropped = False
        """It was hung up on: nothing that it sent is taken up any more."""
        self.close_code: int | None = None
        """What the websocket's close frame says, if not the ordinary."""
        self._refused = False
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        """The websocket's, from the moment at which everything is written to it directly."""
        self._queued = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def gone(self) -> bool:
        """Whether it is closed, or about to be."""
        return bool(self.closed or self.closing)

    @property
    def transport(self) -> str:
        """`websocket` or `polling`."""
        return "websocket" if self.upgraded else "polling"

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client to read them."""
        if self._transport is not None:
            return self._transport.get_write_buffer_size()
        return 0 if self.queue.empty() else self._queued

    # heartbeat

    def schedule_ping(self) -> None:
        """The client is new, or answered: ask again after an interval."""
        if not self.gone:
            self._arm(self.server.ping_interval, self._ping_due)

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._due, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ping_due(self) -> None:
        self._timer = None
        self.write(packet.Packet(packet.PING))
        if not self.gone:
            self._arm(self.server.ping_timeout, self._pong_overdue)

    def _pong_overdue(self) -> None:
        """No PONG came in time; unless this process slept itself, and the PONG waits to be read."""
        self._timer = None
        if self._loop.time() - self._due > LATE_TIMER:
            self._arm(LATE_TIMER_GRACE, self._pong_overdue)
            return
        self._start_closing(self.server.reason.PING_TIMEOUT)

    async def check_ping_timeout(self) -> bool:
        """Upstream asks before it sends; the heartbeat's own timer has closed a silent socket."""
        return not self.closed

    # out

    async def send(self, pkt: Any) -> None:
        """python-engineio's and python-socketio's way to send a packet."""
        self.write(pkt)

    def write(self, pkt: Any) -> None:
        """Write a packet behind all others. A client that has too much unread is closed."""
        if self.closed:
            return
        if self.backlog > self._limit:
            self.drop("queue_full")
        elif self._transport is not None:
            self._write_frame(engine_frame(pkt))
        else:
            self._enqueue(pkt, len(pkt.encode()))

    def _write_frame(self, frame: bytes) -> None:
        """Write to the websocket, unless its connection is gone: the reader sees that, and closes. uvloop raises for
        a transport that is closed."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(frame)

    def write_control(self, frame: bytes) -> None:
        """Write a frame of the websocket's own, unless the client does not read."""
        if self._transport is not None and self._transport.get_write_buffer_size() <= self._limit:
            self._write_frame(frame)

    def _enqueue(self, pkt: Any, size: int) -> None:
        size += PACKET_COST
        self._queued = size if self.queue.empty() else self._queued + size
        self.queue.put_nowait(pkt)

    # the end

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """As upstream's: `abort` says nothing more to the client. It never waits for a client that may be gone.

        `close_reason` holds if it was set before.
        """
        if self.gone:
            return
        self.closing = True
        self.on_closing()
        self._disarm()
        self.close_reason = self.close_reason or reason or self.server.reason.SERVER_DISCONNECT
        try:
            await self.server._trigger_event("disconnect", self.sid, self.close_reason, run_async=False)
        finally:
            self._write_close(abort)
            self.closed = True
            self.server.sockets.pop(self.sid, None)

    def on_closing(self) -> None:
        """Called when the close begins, before upstream's disconnect event."""

    async def end(self, reason: str) -> None:
        """Say goodbye with an Engine.IO CLOSE, after which a stock client reconnects by itself."""
        await self.close(reason=reason)

    def drop(self, reason: str) -> None:
        """Drop the connection without waiting for a client that does not read."""
        self.close_reason = self.close_reason or reason
        self.dropped = True
        if self._transport is not None:
            self._transport.abort()  # the reader sees it, and closes
        else:
            self._start_closing(reason)

    def _start_closing(self, reason: str) -> None:
        if self.gone:
            return
        task = asyncio.ensure_future(self.close(reason=reason))
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    def _write_close(self, abort: bool) -> None:
        transport = self._transport
        if transport is None:
            if not abort:
                self._enqueue(packet.Packet(packet.CLOSE), 1)
            self.queue.put_nowait(None)  # lets a waiting poll go
            return
        if transport.is_closing():
            return
        if not abort:
            transport.write(websocket_frame(b"1"))
        code = self.close_code or (1002 if self._refused else 1001 if self.close_reason == GOING_AWAY else 1000)
        transport.write(websocket_close(code))
        if transport.get_write_buffer_size():
            self.dropped = True
            transport.abort()  # it does not read: this would not be read either
        elif self._refused:
            self.dropped = True
            transport.close()
        else:
            self._timer = self._loop.call_later(CLOSE_TIMEOUT, transport.abort)

    # in

    async def receive(self, pkt: Any) -> None:
        """A client sends messages, answers PINGs and says goodbye. Raises `UnknownPacketError` for all else."""
        if pkt.packet_type not in _FROM_CLIENTS:
            self.refuse("packet_type")
            raise exceptions.UnknownPacketError
        await super().receive(pkt)

    def refuse(self, what: str) -> None:
        """A client broke the protocol: it is counted, and closed for it by whoever noticed."""
        self.close_reason = self.close_reason or self.server.reason.TRANSPORT_ERROR
        if not self._refused:
            self._refused = True
            self.server.on_refused(what)
            log.info("packet_refused", what=what)
