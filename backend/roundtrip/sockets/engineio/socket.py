"""Replaces the heartbeat, the queue and the close of `engineio.async_socket.AsyncSocket` (python-engineio 4.15.1).

Why:
- Its heartbeat compares wall clock times, which may step. Here it is one timer of the event loop.
- Its queue has no limit. Here each packet counts, whoever wrote it, and a client with too much unread is dropped.
- A websocket has a writer task, which gives up when the queue was empty for an interval and a timeout. Here a websocket
  is written to directly, so that there is neither a task nor a queue.
- Its `close` waits until the client has polled its last packet. Here nothing waits for a client that may be gone.

No attribute may hold a bound method of its own object: the cycle would keep a closed socket in memory until a garbage
collection.

Could be deleted when upstream has a monotonic heartbeat, a bounded queue and a close that does not wait.
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
"""Seconds: a timer that is later than this shows that the process was suspended, and that input may be unread."""

LATE_TIMER_GRACE: Final = 1.0
"""Seconds after a suspension in which input is read, before a client counts as silent."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a client has to answer a close frame."""

PACKET_COST: Final = 200
"""Bytes in memory of a queued packet, besides its text."""

GOING_AWAY: Final = "draining"
"""The close reason whose websocket close code is 1001 (RFC 6455 §7.4.1)."""

PROTOCOL_ERROR: Final = "protocol_error"
"""The close reason of a client that broke the protocol: it is the server that closes, not the transport."""

_FROM_CLIENTS: Final = frozenset({packet.MESSAGE, packet.PONG, packet.CLOSE})

_closing: set[asyncio.Future[None]] = set()  # asyncio itself keeps weak references only


def engine_frame(pkt: Any) -> bytes:
    """A packet as a websocket frame."""
    data = pkt.encode()
    return websocket_frame(data.encode()) if isinstance(data, str) else websocket_frame(bytes(data), text=False)


class EngineSocket(AsyncSocket):  # type: ignore[misc]  # python-engineio publishes no types
    """One Engine.IO session. `limit` is how many bytes may wait for the client; with more, it is dropped.

    `connected`, `upgrading`, `upgraded`, `closing` and `closed` are upstream's, which reads and sets them itself.
    """

    connected: bool
    """It may be polled, or has its websocket."""
    upgrading: bool
    upgraded: bool

    def __init__(self, server: Any, sid: str, limit: int) -> None:  # Any: python-engineio publishes no types
        super().__init__(server, sid)
        self.last_ping = None  # upstream's heartbeat, on the wall clock: not used
        self.close_reason: str | None = None
        self.dropped = False
        """Nothing that the client has sent is processed any more."""
        self.close_code: int | None = None
        """The websocket's close code, where it is not the default one."""
        self._refused = False
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        """The websocket's, as soon as packets are written to it; None while they go into the queue."""
        self._queued = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def gone(self) -> bool:
        """Whether it is closing or closed: nothing can be written any more."""
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
        """The session is new, or a PONG came: send the next PING after an interval."""
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
        """No PONG came in time. After a suspension of this process it may be unread: then it has `LATE_TIMER_GRACE`."""
        self._timer = None
        if self._loop.time() - self._due > LATE_TIMER:
            self._arm(LATE_TIMER_GRACE, self._pong_overdue)
            return
        self._start_closing(self.server.reason.PING_TIMEOUT)

    async def check_ping_timeout(self) -> bool:
        """Called by upstream before it sends. Whether the session is open: a silent one was closed by the timer."""
        return not self.closed

    # out

    async def send(self, pkt: Any) -> None:
        """Called by python-engineio and python-socketio."""
        self.write(pkt)

    def write(self, pkt: Any) -> None:
        """Write a packet behind all others. A client with too much unread is dropped."""
        if self.closed:
            return
        if self.backlog > self._limit:
            self.drop("queue_full")
        elif self._transport is not None:
            self._write_frame(engine_frame(pkt))
        else:
            self._enqueue(pkt, len(pkt.encode()))

    def _write_frame(self, frame: bytes) -> None:
        """Write to the websocket unless its transport is closing, for which uvloop would raise. The reader notices the
        end and closes the session."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(frame)

    def write_control(self, frame: bytes) -> None:
        """Write a websocket control frame; it is left out if the client has too much unread."""
        if self._transport is not None and self._transport.get_write_buffer_size() <= self._limit:
            self._write_frame(frame)

    def _enqueue(self, pkt: Any, size: int) -> None:
        size += PACKET_COST
        self._queued = size if self.queue.empty() else self._queued + size
        self.queue.put_nowait(pkt)

    # the end

    async def close(self, wait: bool = True, abort: bool = False, reason: str | None = None) -> None:
        """Close the session and trigger upstream's `disconnect` event. Never waits for the client, whatever
        `wait` is.

        `abort` leaves out the Engine.IO CLOSE. A `close_reason` that was set before wins over `reason`.
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
        """A hook: the close begins. Runs before the `disconnect` event."""

    async def end(self, reason: str) -> None:
        """Close with an Engine.IO CLOSE, after which a stock client reconnects by itself."""
        await self.close(reason=reason)

    def drop(self, reason: str) -> None:
        """End the connection of a client that does not read, or misbehaves: nothing more is written or processed."""
        self.close_reason = self.close_reason or reason
        self.dropped = True
        if self._transport is not None:
            self._transport.abort()  # the reader notices, and closes
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
            self.queue.put_nowait(None)  # ends a waiting poll
            return
        if transport.is_closing():
            return
        if not abort:
            transport.write(websocket_frame(b"1"))
        code = self.close_code or (1002 if self._refused else 1001 if self.close_reason == GOING_AWAY else 1000)
        transport.write(websocket_close(code))
        if transport.get_write_buffer_size():
            self.dropped = True
            transport.abort()  # the client reads nothing: it would not read the close frame either
        elif self._refused:
            self.dropped = True
            transport.close()
        else:
            self._timer = self._loop.call_later(CLOSE_TIMEOUT, transport.abort)

    # in

    async def receive(self, pkt: Any) -> None:
        """Process a MESSAGE, PONG or CLOSE. Raises `UnknownPacketError` for the types that only a server sends."""
        if pkt.packet_type not in _FROM_CLIENTS:
            self.refuse("packet_type")
            raise exceptions.UnknownPacketError
        await super().receive(pkt)

    def refuse(self, what: str) -> None:
        """Count a breach of the protocol, once a connection, under this label. The caller closes the connection."""
        self.close_reason = self.close_reason or PROTOCOL_ERROR
        if not self._refused:
            self._refused = True
            self.server.on_refused(what)
            log.info("packet_refused", what=what)

    def too_large(self) -> None:
        """Count a packet or a body that is over the limit. The caller closes the connection."""
        self.close_reason = self.close_reason or PROTOCOL_ERROR
        self.server.on_too_large()
        log.info("packet_too_large", transport=self.transport, limit=self.server.max_http_buffer_size)
