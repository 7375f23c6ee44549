"""Replaces how `engineio.async_socket.AsyncSocket` polls, reads POST requests and serves a websocket, and the class
`engineio.async_drivers.aiohttp.WebSocket` (python-engineio 4.15.1; its websocket is aiohttp 3.14.5's).

Why:
- Polling: upstream lets a second poll take packets from the first, reads one segment of a body as if it were all,
  ignores bodies in chunks, processes what came of a body that was cut off, and builds every packet of a body at once.
- Upgrade: a failed one leaves the session between the transports, it has no time limit, and several may run.
- Websocket: upstream makes a task per message to read it with a timeout, builds a `Packet` for each acknowledgement,
  and keeps reference cycles for each websocket that a client closed.

Could be deleted when upstream has these fixed, and a hook that sees a message before a `Packet` is made of it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import StreamReader, WSMsgType, web
from engineio import exceptions, packet

from roundtrip.delivery.wire import websocket_close, websocket_frame, websocket_pong
from roundtrip.sockets.engineio.frames import InterceptingQueue, attach
from roundtrip.sockets.engineio.socket import EngineSocket, engine_frame

log = structlog.get_logger(__name__)

UPGRADE_TIMEOUT: Final = 10.0
"""Seconds that the handshake of an upgrade (`2probe`, `3probe`, `5`) may take."""

PACKETS_PER_TURN: Final = 64
"""Packets of one client that are processed before the event loop runs others."""

RECEIVE_BUFFER: Final = 16_384
"""Bytes of a websocket's receive buffer in the kernel (SO_RCVBUF). One read may hold thousands of tiny frames, each of
which becomes an object."""

_PACKET_TYPES: Final = frozenset("0123456")
"""The first characters of a text packet (Engine.IO protocol 4)."""


class TransportSocket(EngineSocket):
    """Reads packets from a client, over polling or a websocket. At most one poll and one POST run at a time."""

    def __init__(self, server: Any, sid: str, limit: int) -> None:
        super().__init__(server, sid, limit)
        self._polling = self._posting = False

    def intercept(self, text: str) -> bool:
        """A hook: process a message before a `Packet` is made of it. False leaves it to `receive`, as it must be when
        the client was dropped. Called while bytes are read: it must not wait."""
        return False

    # polling

    async def poll(self) -> list[Any]:
        """Wait for packets, for one request at a time.

        Raises `QueueEmpty` for a second one, upon which upstream closes the session, as the protocol demands.
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
        """Process the packets of a request, for one request at a time. A malformed one closes the session.

        Raises `EngineIOError`. One packet is made after the other, so that a body takes no more memory than its size.
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
            body = await self._read_body(environ["wsgi.input"], None if length is None else int(length))
            await self._receive_payload(body.decode())
        except asyncio.CancelledError:  # it took too long; upstream swallows this, and answers "OK"
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

    async def _read_body(self, content: StreamReader, length: int | None) -> bytes:
        """The whole body of a request. Without `length` (in bytes) it is in chunks, as some proxies send it on.

        Raises `ContentTooLongError`, and `EngineIOError` for a body that was cut off: nothing of it is processed, as a
        part of a packet may be a packet by itself.
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

    async def _receive_payload(self, body: str) -> None:
        """Process packets that are separated by the record separator (0x1e)."""
        start = count = 0
        while start < len(body):
            end = body.find("\x1e", start)
            end = len(body) if end < 0 else end
            text = body[start:end]
            if not self.intercept(text):
                await self.receive(packet.Packet(encoded_packet=text))
            if self.gone:
                return
            start = end + 1
            count += 1
            if count % PACKETS_PER_TURN == 0:
                await asyncio.sleep(0)

    # websocket

    async def _upgrade_websocket(self, environ: dict[str, Any]) -> Any:
        """Serve a websocket: a new session, or the upgrade of a polling one, of which one may run at a time."""
        if self.upgrading or self.upgraded:
            return self.server._bad_request("Already upgrading")
        self.upgrading = self.connected
        try:
            return await self.server._async["websocket"](self._websocket_handler, self.server)(environ)
        finally:
            self.upgrading = False

    async def _websocket_handler(self, ws: Any) -> None:
        """Read a websocket until it ends. What was queued before is written first."""
        if self.connected and not await self._upgrade_confirmed(ws):
            return
        if self.gone:
            return
        self.connected = self.upgraded = True
        self._transport = ws.transport
        while not self.queue.empty():
            self._write_frame(engine_frame(self.queue.get_nowait()))
        try:
            await self._read(ws)
        finally:
            await self.close(abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
            self._disarm()

    async def _upgrade_confirmed(self, ws: Any) -> bool:
        """Whether the client completed the handshake of an upgrade in time."""
        try:
            async with asyncio.timeout(UPGRADE_TIMEOUT):
                if await ws.receive() != "2probe":
                    return False
                if ws.transport.is_closing():
                    return False
                ws.transport.write(websocket_frame(b"3probe"))
                self._enqueue(packet.Packet(packet.NOOP), 1)  # ends a waiting poll
                return bool(await ws.receive() == "5")
        except (OSError, TimeoutError):
            return False

    async def _read(self, ws: Any) -> None:
        """Process messages until the websocket ends. Once the session is closing they are read and dropped."""
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


class QuietWebSocket(web.WebSocketResponse):
    """aiohttp's websocket without its own close: the socket writes the close frame.

    aiohttp's close keeps the error that it meets at a closed connection, and with it the stack frames that hold the
    connection: a reference cycle for each websocket that a client closed.
    """

    code: int | None = None
    """The close code for a stream that aiohttp found broken (RFC 6455 §7.4)."""
    queue: InterceptingQueue | None = None

    def __init__(self, max_message: int, intercept: Callable[[str], bool]) -> None:
        """`max_message` is in bytes; `intercept` is offered each text message while nothing is queued before it."""
        super().__init__(max_msg_size=max_message, compress=False, autoclose=False, autoping=False)
        self._intercept = intercept

    def _post_start(self, request: web.BaseRequest, protocol: str | None, writer: Any) -> None:
        handler: Any = request.protocol
        early, handler._message_tail = handler._message_tail, b""  # sent together with the handshake
        super()._post_start(request, protocol, writer)
        self.queue = attach(self, handler, self._intercept, PACKETS_PER_TURN)
        if early:
            handler._payload_parser.feed_data(early)

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        if code != 1000:
            self.code = code
        return False

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing follows a close frame."""


class ConnectionWebSocket:
    """What python-engineio calls for a websocket request. Messages that `intercept` processes never leave it.

    `handler` is the bound method `TransportSocket._websocket_handler`.
    """

    def __init__(self, handler: Any, server: Any) -> None:
        self._handler = handler
        self._connection: TransportSocket = handler.__self__
        self._ws = QuietWebSocket(server.max_http_buffer_size, self._connection.intercept)
        self._count = 0
        self.transport: Any = None
        """The TCP connection's, after the websocket handshake."""

    async def __call__(self, environ: dict[str, Any]) -> web.StreamResponse:
        request: web.Request = environ["aiohttp.request"]
        await self._ws.prepare(request)
        transport = self.transport = request.transport
        if transport is None:  # closed during the handshake
            return self._ws
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        try:
            await self._handler(self)
        finally:
            if not transport.is_closing():
                if not self._connection.upgraded:
                    transport.write(websocket_close(1000))
                transport.close()
        return self._ws

    async def receive(self, *, intercepting: bool = False) -> str | bytes:
        """The next message. Raises `OSError` when the websocket is closed or broken, or the client was dropped.

        With `intercepting`, those that `intercept` processes as they are read do not come.
        """
        queue = self._ws.queue
        while True:
            if queue is not None:
                queue.waiting = intercepting
            message = await self._ws.receive()
            if self._connection.dropped:
                raise OSError("the client was dropped; what it sent before is of no use")
            self._count += 1
            if self._count % PACKETS_PER_TURN == 0:
                await asyncio.sleep(0)
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                return message.data  # type: ignore[no-any-return]
            if message.type is WSMsgType.PING:
                self._connection.write_control(websocket_pong(message.data))
            elif message.type is not WSMsgType.PONG:
                self._connection.close_code = self._connection.close_code or self._ws.code
                raise OSError("the websocket is closed")

    async def wait(self) -> str | bytes:
        """The next message that `intercept` leaves. Raises `OSError` as `receive` does, and for what is no packet."""
        intercept = self._connection.intercept
        while True:
            data = await self.receive(intercepting=True)
            if isinstance(data, str):
                if intercept(data):
                    continue
                if data[:1] not in _PACKET_TYPES:
                    self._connection.refuse("malformed")
                    raise OSError("not an Engine.IO packet")
            return data
