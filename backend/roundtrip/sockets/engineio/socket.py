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
from aiohttp import StreamReader, web
from engineio import exceptions, packet
from engineio.async_socket import AsyncSocket

from roundtrip.delivery.wire import websocket_close, websocket_frame

log = structlog.get_logger(__name__)

UPGRADE_WITHIN: Final = 10.0
"""Seconds that a websocket may take to prove itself before it replaces polling."""

LATE: Final = 0.1
"""Seconds by which a timer is late when the whole process stood still: what came meanwhile is still unread."""

READ_FIRST: Final = 1.0
"""Seconds in which a late loop reads what waits, before it calls a client silent."""

CLOSE_WITHIN: Final = 2.0
"""Seconds that a client has to answer a close frame."""

AT_ONCE: Final = 64
"""Packets of one client that are taken up before others have their turn."""

PACKET_COST: Final = 200
"""Bytes that a queued packet takes beside its text."""

GOING_AWAY: Final = "draining"
"""The reason of a close that tells the websocket 1001: the server goes, the client did nothing wrong."""

_closing: set[asyncio.Future[None]] = set()  # asyncio keeps no reference of its own


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
        self._polling = self._posting = False

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
            self._arm(self.server.ping_timeout, self._silent)

    def _silent(self) -> None:
        """No PONG came in time; unless this process slept itself, and the PONG waits to be read."""
        self._timer = None
        if self._loop.time() - self._due > LATE:
            self._arm(READ_FIRST, self._silent)
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
            self.hang_up("queue_full")
        elif self._transport is not None:
            self._put(_framed(pkt))
        else:
            self._enqueue(pkt, len(pkt.encode()))

    def _put(self, frame: bytes) -> None:
        """Write to the websocket, unless its connection is gone: the reader sees that, and closes. uvloop raises for
        a transport that is closed."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(frame)

    def answer(self, frame: bytes) -> None:
        """Write a frame of the websocket's own, unless the client does not read."""
        if self._transport is not None and self._transport.get_write_buffer_size() <= self._limit:
            self._put(frame)

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
        self._disarm()
        self.close_reason = self.close_reason or reason or self.server.reason.SERVER_DISCONNECT
        try:
            await self.server._trigger_event("disconnect", self.sid, self.close_reason, run_async=False)
        finally:
            self._say_goodbye(abort)
            self.closed = True
            self.server.sockets.pop(self.sid, None)

    async def end(self, reason: str) -> None:
        """Say goodbye with an Engine.IO CLOSE, after which a stock client reconnects by itself."""
        await self.close(reason=reason)

    def hang_up(self, reason: str) -> None:
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

    def _say_goodbye(self, abort: bool) -> None:
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
            self._timer = self._loop.call_later(CLOSE_WITHIN, transport.abort)

    # polling

    async def poll(self) -> list[Any]:
        """Packets for the one request that may wait for them at a time.

        Raises `QueueEmpty` for a second one, upon which upstream closes the session, as the protocol wants.
        """
        if self._polling:
            raise exceptions.QueueEmpty
        self._polling = True
        try:
            packets = [await self.queue.get()]
        finally:
            self._polling = False
        while not self.queue.empty():
            packets.append(self.queue.get_nowait())
        if packets[-1] is None:
            self.queue.put_nowait(packets.pop())
        return packets or [packet.Packet(packet.NOOP)]

    async def handle_post_request(self, environ: dict[str, Any]) -> None:
        """Take up the packets of one request, one request at a time; what is wrong with it closes the session.

        Raises `EngineIOError`. Packets are cut off one after the other, so that a body costs no more than its size.
        """
        length = environ.get("CONTENT_LENGTH")
        if length is not None and int(length) > self.server.max_http_buffer_size:
            self.close_reason = self.server.reason.TRANSPORT_ERROR
            raise exceptions.ContentTooLongError
        if self._posting:
            self.refuse("second_request")
            raise exceptions.UnknownPacketError
        self._posting = True
        try:
            body = await self._body(environ["wsgi.input"], None if length is None else int(length))
            await self._take_up(body.decode())
        except asyncio.CancelledError:  # it took too long; upstream would swallow that, and answer "OK"
            self.refuse("slow_request")
            self._start_closing(self.server.reason.TRANSPORT_ERROR)
            raise
        except (ValueError, EOFError, exceptions.EngineIOError) as error:
            if self.gone:
                return
            if not isinstance(error, exceptions.EngineIOError):
                self.refuse("malformed")
            raise exceptions.EngineIOError from None
        finally:
            self._posting = False

    async def _body(self, content: StreamReader, length: int | None) -> bytes:
        """A request's whole body; without a `length` it comes in chunks, as some proxies pass it on.

        Raises `ContentTooLongError`, and `EngineIOError` for a body that is cut off, of which nothing is taken up: the
        client's own transport has failed with it.
        """
        try:
            if length is not None:
                return await content.readexactly(length)
            body = bytearray()
            while piece := await content.read(self.server.max_http_buffer_size + 1 - len(body)):
                body += piece
                if len(body) > self.server.max_http_buffer_size:
                    self.close_reason = self.server.reason.TRANSPORT_ERROR
                    raise exceptions.ContentTooLongError
            return bytes(body)
        except (OSError, web.RequestPayloadError) as error:
            log.info("request_cut_off", error=type(error).__name__)
            self.close_reason = self.close_reason or self.server.reason.TRANSPORT_ERROR
            raise exceptions.EngineIOError from None

    async def _take_up(self, body: str) -> None:
        start = count = 0
        while start < len(body):
            end = body.find("\x1e", start)
            end = len(body) if end < 0 else end
            text = body[start:end]
            if not self.take(text):
                await self.receive(packet.Packet(encoded_packet=text))
            if self.gone:
                return
            start = end + 1
            count += 1
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)

    # websocket

    async def _upgrade_websocket(self, environ: dict[str, Any]) -> Any:
        """One websocket at a time may try to replace polling."""
        if self.upgrading or self.upgraded:
            return self.server._bad_request("Already upgrading")
        self.upgrading = self.connected
        try:
            return await self.server._async["websocket"](self._websocket_handler, self.server)(environ)
        finally:
            self.upgrading = False

    async def _websocket_handler(self, ws: Any) -> None:
        if self.connected and not await self._proven(ws):
            return
        if self.gone:
            return
        self.connected = self.upgraded = True
        self._transport = ws.transport
        while not self.queue.empty():
            self._put(_framed(self.queue.get_nowait()))
        try:
            await self._read(ws)
        finally:
            await self.close(abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
            self._disarm()

    async def _proven(self, ws: Any) -> bool:
        """Whether the client showed that the websocket works, and wants it."""
        try:
            async with asyncio.timeout(UPGRADE_WITHIN):
                if await ws.receive() != "2probe":
                    return False
                if ws.transport.is_closing():
                    return False
                ws.transport.write(websocket_frame(b"3probe"))
                self._enqueue(packet.Packet(packet.NOOP), 1)  # ends the poll that waits
                return bool(await ws.receive() == "5")
        except (OSError, TimeoutError):
            return False

    async def _read(self, ws: Any) -> None:
        """Until the websocket ends; after a goodbye of ours what still comes is read and dropped."""
        while True:
            try:
                data = await ws.wait()
            except OSError:
                return
            if self.gone:
                continue
            try:
                await self.receive(packet.Packet(encoded_packet=data))
            except exceptions.SocketIsClosedError:
                return
            except (exceptions.EngineIOError, ValueError):
                await self.end(self.close_reason or self.server.reason.TRANSPORT_ERROR)
            except Exception as error:
                log.exception("packet_failed", error=type(error).__name__)

    # in

    def take(self, text: str) -> bool:
        """Handle a raw message on the shortest way; False leaves it to `receive`."""
        return False

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


_FROM_CLIENTS: Final = frozenset({packet.MESSAGE, packet.PONG, packet.CLOSE})


def _framed(pkt: Any) -> bytes:
    """A packet as a websocket frame."""
    data = pkt.encode()
    return websocket_frame(data.encode()) if isinstance(data, str) else websocket_frame(bytes(data), text=False)
