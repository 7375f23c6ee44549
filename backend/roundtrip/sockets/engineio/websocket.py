"""Replaces the class `engineio.async_drivers.aiohttp.WebSocket` (python-engineio 4.15.1; the websocket that it wraps is
aiohttp 3.14.5's).

Why: upstream makes a task per message to read it with a timeout, builds a `Packet` for each acknowledgement, and keeps
reference cycles for each websocket that a client closed.

Could be deleted when upstream has these fixed, and a hook that sees a message before a `Packet` is made of it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

from aiohttp import WSCloseCode, WSMsgType, web

from roundtrip.delivery.wire import websocket_close, websocket_pong
from roundtrip.sockets.engineio.frames import InterceptingQueue, attach
from roundtrip.sockets.engineio.transports import PACKETS_PER_TURN, TransportSocket

RECEIVE_BUFFER: Final = 16_384
"""Bytes of a websocket's receive buffer in the kernel (SO_RCVBUF). One read may hold thousands of tiny frames, each of
which becomes an object."""

_PACKET_TYPES: Final = frozenset("0123456")
"""The first characters of a text packet (Engine.IO protocol 4)."""


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
                if self._connection.close_code is None:
                    self._connection.close_code = self._ws.code
                    if self._ws.code == WSCloseCode.MESSAGE_TOO_BIG:
                        self._connection.too_large()
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
