"""Replaces how `engineio.async_socket.AsyncSocket` polls, reads POST requests and serves a websocket (python-engineio
4.15.1, over aiohttp 3.14.5).

Why:
- Polling: upstream lets a second poll take packets from the first, reads one segment of a body as if it were all,
  ignores bodies in chunks, processes what came of a body that was cut off, and builds every packet of a body at once.
- Upgrade: a failed one leaves the session between the transports, it has no time limit, and several may run.

Could be deleted when upstream has these fixed.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from aiohttp import StreamReader, web
from engineio import exceptions, packet

from roundtrip.delivery.wire import websocket_frame
from roundtrip.sockets.engineio.socket import EngineSocket, engine_frame

log = structlog.get_logger(__name__)

UPGRADE_TIMEOUT: Final = 10.0
"""Seconds that the handshake of an upgrade (`2probe`, `3probe`, `5`) may take."""

PACKETS_PER_TURN: Final = 64
"""Packets of one client that are processed before the event loop runs others."""


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
            self.too_large()
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
                    self.too_large()
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
