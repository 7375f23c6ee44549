"""python-engineio's server and websocket, so that each of its sockets is a lane."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

import engineio
from aiohttp import WSMsgType, web
from engineio import packet
from engineio.async_drivers import aiohttp as driver

from roundtrip.delivery.wire import websocket_close, websocket_pong
from roundtrip.sockets.engineio.connection import EngineConnection
from roundtrip.sockets.engineio.socket import AT_ONCE

RECEIVE_BUFFER: Final = 16_384
"""Bytes that the kernel keeps for a websocket: clients send acknowledgements, and a read's worth of tiny frames becomes
as many objects at once."""

_PACKET_TYPES: Final = frozenset("0123456")
"""First characters of a text message (Engine.IO protocol 4)."""


class QuietWebSocket(web.WebSocketResponse):
    """aiohttp's websocket, which leaves its end to the lane.

    Its own close keeps whatever error it meets at a connection that is gone, and with the error the frames that keep
    the connection: a cycle for each websocket that a client ended.
    """

    code: int | None = None
    """Why the stream was broken, as a close frame says it (RFC 6455 §7.4)."""

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        if code != 1000:
            self.code = code
        return False

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing follows a close frame."""


class ConnectionWebSocket:
    """The websocket that python-engineio drives: aiohttp's, with the lane's messages taken out of its stream."""

    def __init__(self, handler: Any, server: Any) -> None:
        self._handler = handler
        self._lane: EngineConnection = handler.__self__
        self._ws = QuietWebSocket(
            max_msg_size=server.max_http_buffer_size, compress=False, autoclose=False, autoping=False
        )
        self._count = 0
        self.transport: Any = None
        """The connection's, from the handshake on."""

    async def __call__(self, environ: dict[str, Any]) -> web.StreamResponse:
        request: web.Request = environ["aiohttp.request"]
        await self._ws.prepare(request)
        transport = self.transport = request.transport
        if transport is None:  # it went during the handshake
            return self._ws
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        try:
            await self._handler(self)
        finally:
            if not transport.is_closing():
                if not self._lane.upgraded:
                    transport.write(websocket_close(1000))
                transport.close()
        return self._ws

    async def receive(self) -> str | bytes:
        """The next message as it is. Raises `OSError` when the websocket is closed or broken."""
        while True:
            message = await self._ws.receive()
            if self._lane.dropped:
                raise OSError("the client was dropped; what it sent before is of no use")
            self._count += 1
            if self._count % AT_ONCE == 0:
                await asyncio.sleep(0)
            if message.type is WSMsgType.TEXT or message.type is WSMsgType.BINARY:
                return message.data  # type: ignore[no-any-return]
            if message.type is WSMsgType.PING:
                self._lane.answer(websocket_pong(message.data))
            elif message.type is not WSMsgType.PONG:
                self._lane.close_code = self._lane.close_code or self._ws.code
                raise OSError("the websocket is closed")

    async def wait(self) -> str | bytes:
        """The next message that is not the lane's own. Raises `OSError` like `receive`."""
        take = self._lane.take
        while True:
            data = await self.receive()
            if isinstance(data, str):
                if take(data):
                    continue
                if data[:1] not in _PACKET_TYPES:
                    self._lane.refuse("malformed")
                    raise OSError("not an Engine.IO packet")
            return data


class EngineServer(engineio.AsyncServer):  # type: ignore[misc]  # python-engineio publishes no types
    """An Engine.IO server whose sockets are lanes."""

    def __init__(self, *args: Any, send_queue_limit: int, **kwargs: Any) -> None:
        # each socket notices its own client's silence: nobody needs to go round and look
        super().__init__(*args, monitor_clients=False, **kwargs)
        self._send_queue_limit = send_queue_limit
        self._async = {**driver._async, "websocket": ConnectionWebSocket}  # python-engineio's seam
        self.on_refused: Callable[[str], None] = lambda _what: None
        """Told of each packet or request that broke the protocol."""

    def create_queue(self, *args: Any, **kwargs: Any) -> asyncio.Queue[Any]:
        return asyncio.Queue(*args, **kwargs)

    async def handle_request(self, request: web.Request) -> Any:
        """As python-engineio's, without JSONP: it is for browsers of another age, and runs what it is answered."""
        if "j" in request.query:
            self.on_refused("jsonp")
            return web.json_response("JSONP is not served; use XHR polling or a websocket.", status=400)
        return await super().handle_request(request)

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        """A client opens a session: as python-engineio's, with a lane for its socket."""
        sid = self.generate_id()
        lane = self.sockets[sid] = EngineConnection(self, sid, self._send_queue_limit)
        opening = {
            "sid": sid,
            "upgrades": self._upgrades(sid, transport),
            "pingTimeout": int(self.ping_timeout * 1000),
            "pingInterval": int(self.ping_interval * 1000),
            "maxPayload": self.max_http_buffer_size,
        }
        lane.write(packet.Packet(packet.OPEN, opening))
        await self._trigger_event("connect", sid, environ, run_async=False)
        lane.schedule_ping()
        if transport == "websocket":
            try:
                return await lane.handle_get_request(environ)
            finally:  # also when there was no websocket in the end
                await lane.close(abort=True, reason=self.reason.TRANSPORT_CLOSE)
        lane.connected = True
        return self._ok(await lane.poll())

    async def disconnect(self, sid: str | None = None) -> None:
        """As python-engineio's, but nobody waits until a client that may be gone has polled its last packet."""
        for lane in list(self.sockets.values()) if sid is None else [self.sockets.get(sid)]:
            if lane is not None:
                await lane.close(reason=self.reason.SERVER_DISCONNECT)
