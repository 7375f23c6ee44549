"""python-engineio's server, queue and websocket, so that each of its sockets has a lane."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import engineio
import structlog
from aiohttp import WSMsgType, web
from engineio import payload
from engineio.async_drivers import aiohttp as driver

from backend.delivery.wire import websocket_frame
from backend.sockets.lane import Lane

log = structlog.get_logger(__name__)

_PACKET_TYPES: Final = frozenset("0123456")
"""First characters of a text message (Engine.IO protocol 4)."""


class CountingQueue(asyncio.Queue[Any]):
    """python-engineio's queue, which also tells whether a packet is still on its way to the transport."""

    @property
    def idle(self) -> bool:
        """No packet waits, nor was one taken that `task_done` has not been said of."""
        return self._unfinished_tasks == 0  # type: ignore[attr-defined, no-any-return]  # stdlib stubs hide it


class LaneWebSocket:
    """The websocket that python-engineio drives: aiohttp's, with the lane's messages taken out of its stream."""

    def __init__(self, handler: Any, server: Any) -> None:
        self._handler = handler
        self._socket = handler.__self__
        self._lane: Lane = self._socket.lane
        self._ws = web.WebSocketResponse(max_msg_size=server.max_http_buffer_size, compress=False)
        self._transport: asyncio.Transport | None = None

    async def __call__(self, environ: dict[str, Any]) -> web.StreamResponse:
        request: web.Request = environ["aiohttp.request"]
        await self._ws.prepare(request)
        self._transport = request.transport
        self._lane.open(self._transport)
        try:
            await self._handler(self)
        except ValueError:
            log.info("upgrade_malformed")  # python-engineio reads the first two packets of an upgrade unguarded
        finally:
            self._lane.open(None)
            if not self._socket.upgraded:
                self._socket.upgrading = False  # or its polls would get nothing any more
        return self._ws

    async def close(self) -> None:
        await self._ws.close()

    async def send(self, message: str | bytes) -> None:
        """Write one packet without a pause, so that no frame of the lane's comes between a batch."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise OSError("the websocket is closed")
        if isinstance(message, str):
            transport.write(websocket_frame(message.encode()))
        else:
            await self._ws.send_bytes(message)

    async def wait(self) -> str | bytes:
        receive, take = self._ws.receive, self._lane.take
        while True:
            message = await receive()
            data = message.data
            if message.type is WSMsgType.TEXT:
                if take(data):
                    continue
                if data[:1] not in _PACKET_TYPES:
                    # python-engineio would raise past its own clean-up, and keep the socket as a ghost
                    raise OSError("not an Engine.IO packet")
                return str(data)
            if message.type is WSMsgType.BINARY:
                return bytes(data)
            raise OSError("the websocket is closed")


class LaneServer(engineio.AsyncServer):  # type: ignore[misc]  # python-engineio publishes no types
    """An Engine.IO server whose sockets have lanes."""

    def __init__(self, *args: Any, send_queue_limit: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._send_queue_limit = send_queue_limit
        # A polling client answers a replay with hundreds of packets in one request; its size is what bounds it.
        payload.Payload.max_decode_packets = self.max_http_buffer_size
        self._async = {**driver._async, "websocket": LaneWebSocket}  # python-engineio's seam

    def create_queue(self, *args: Any, **kwargs: Any) -> CountingQueue:
        return CountingQueue(*args, **kwargs)

    async def disconnect(self, sid: str | None = None) -> None:
        """As python-engineio's, but nobody waits until a client that may be gone has polled its last packet."""
        for socket in list(self.sockets.values()) if sid is None else [self.sockets.get(sid)]:
            if socket is not None:
                await socket.close(wait=False, reason=self.reason.SERVER_DISCONNECT)
                self.sockets.pop(socket.sid, None)

    def lane(self, eio_sid: str) -> Lane:
        """Give a new socket its lane, before its first packet goes out."""
        return Lane(self.sockets[eio_sid], self._send_queue_limit)
