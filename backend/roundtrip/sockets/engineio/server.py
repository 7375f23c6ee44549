"""python-engineio's and python-socketio's servers, overridden in the few places where this program differs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import engineio
import msgspec
import socketio
import structlog
from aiohttp import web
from engineio import packet
from engineio.async_drivers import aiohttp as driver
from engineio.exceptions import EngineIOError

from roundtrip.sockets.engineio.connection import EngineConnection
from roundtrip.sockets.engineio.transports import ConnectionWebSocket

log = structlog.get_logger(__name__)

ATTACHMENTS: Final = 8
"""Binary attachments of one packet: clients send none but in acknowledgements, and need none there."""

_ROOT: Final = frozenset({None, "/"})


class ForbiddenPacket(ValueError):  # noqa: N818  # it is a refusal, not a fault
    """A packet that closes its connection without an answer; `what` is a label of `packets_refused_total`."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class ClientErrorFilter(logging.Filter):
    """What a client sent wrong is no error of this program, and no traceback: python-engineio logs it as both."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.ERROR:
            return True
        error = record.exc_info[0] if record.exc_info else None
        log.info("engineio_refused", what=str(record.msg), error=None if error is None else error.__name__)
        return False


def engineio_logger() -> logging.Logger:
    """The logger to hand to python-engineio."""
    logger = logging.getLogger("engineio.server")
    if not any(isinstance(known, ClientErrorFilter) for known in logger.filters):
        logger.addFilter(ClientErrorFilter())
    return logger


class Json:
    """What python-socketio is given for the standard library's `json`."""

    @staticmethod
    def dumps(value: Any, **_options: object) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_options: object) -> Any:
        """Raises `ValueError` for what is not JSON, as the standard library does, and for what is nested too deeply."""
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError("not JSON") from error


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
        connection = self.sockets[sid] = EngineConnection(self, sid, self._send_queue_limit)
        opening = {
            "sid": sid,
            "upgrades": self._upgrades(sid, transport),
            "pingTimeout": int(self.ping_timeout * 1000),
            "pingInterval": int(self.ping_interval * 1000),
            "maxPayload": self.max_http_buffer_size,
        }
        connection.write(packet.Packet(packet.OPEN, opening))
        await self._trigger_event("connect", sid, environ, run_async=False)
        connection.schedule_ping()
        if transport == "websocket":
            try:
                return await connection.handle_get_request(environ)
            finally:  # also when there was no websocket in the end
                await connection.close(abort=True, reason=self.reason.TRANSPORT_CLOSE)
        connection.connected = True
        return self._ok(await connection.poll())

    async def disconnect(self, sid: str | None = None) -> None:
        """As python-engineio's, but nobody waits until a client that may be gone has polled its last packet."""
        for connection in list(self.sockets.values()) if sid is None else [self.sockets.get(sid)]:
            if connection is not None:
                await connection.close(reason=self.reason.SERVER_DISCONNECT)


class SocketEngine(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio publishes no types
    """Tells when a client can be sent events, and when its engine is gone, however it went.

    python-socketio answers CONNECT after the connect handler, so that an event sent from the handler would come
    first; and it drops a disconnect of a socket whose connect handler was slow. It lets one connection carry many
    sockets, one after the other and one per namespace: here it carries one, of `/`, in its life.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.connections: dict[str, EngineConnection] = {}
        self.on_connected: Callable[[str], None] = lambda _eio_sid: None
        self.on_closed: Callable[[str, str], None] = lambda _eio_sid, _reason: None
        self.allow_message: Callable[[str], Awaitable[bool]] | None = None
        """Asked before each message of a client; False drops it."""
        self.on_message_refused: Callable[[EngineConnection, str | bytes], None] = lambda _connection, _data: None
        """Told of each message that was dropped."""

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        self.connections[eio_sid] = self.eio.sockets[eio_sid]
        await super()._handle_eio_connect(eio_sid, environ)

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        connection = self.connections.get(eio_sid)
        if connection is None or connection.gone:
            return
        if self.allow_message is not None and not await self.allow_message(eio_sid):
            self._binary_packet.pop(eio_sid, None)
            self.on_message_refused(connection, data)
            return
        try:
            self._check_attachment(eio_sid, data)
            await super()._handle_eio_message(eio_sid, data)
            self._check_attachment_count(eio_sid)
        except EngineIOError:
            raise
        except ForbiddenPacket as forbidden:
            connection.refuse(forbidden.what)
            await connection.end("transport error")
        except Exception as error:  # noqa: BLE001  # whatever a hostile packet made the parser raise
            log.info("packet_malformed", error=type(error).__name__, size=len(data))
            connection.refuse("malformed")
            await connection.end("transport error")

    def _check_attachment(self, eio_sid: str, data: str | bytes) -> None:
        """Attachments of one packet are no larger together than a packet may be. Raises `Forbidden`."""
        awaiting = self._binary_packet.get(eio_sid)
        if awaiting is None:
            return
        size = len(data) + sum(len(known) for known in awaiting.attachments)
        if not isinstance(data, bytes) or size > self.eio.max_http_buffer_size:
            raise ForbiddenPacket("attachments")

    def _check_attachment_count(self, eio_sid: str) -> None:
        awaiting = self._binary_packet.get(eio_sid)
        if awaiting is not None and awaiting.attachment_count > ATTACHMENTS:
            raise ForbiddenPacket("attachments")

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: object) -> None:
        _only_root(namespace)
        connection = self.connections[eio_sid]
        if connection.connect_received:
            raise ForbiddenPacket("second_connect")
        connection.connect_received = True
        await super()._handle_connect(eio_sid, namespace, data)
        if self.manager.is_connected(self.manager.sid_from_eio_sid(eio_sid, "/"), "/"):
            self.on_connected(eio_sid)

    async def _handle_disconnect(self, eio_sid: str, namespace: str | None, reason: str | None = None) -> None:
        """The socket's end is its connection's, and the other way round."""
        _only_root(namespace)
        connection = self.connections.get(eio_sid)
        if connection is not None:  # the client leaves: what follows comes back here by way of the connection's end
            await connection.end(self.reason.CLIENT_DISCONNECT)
            return
        await super()._handle_disconnect(eio_sid, namespace, reason)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: object) -> None:  # noqa: A002
        _only_root(namespace)
        await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: object) -> None:  # noqa: A002
        """Acknowledgements that the lane did not take: binary ones. There are no callbacks, so nothing else is due."""
        _only_root(namespace)
        connection = self.connections.get(eio_sid)
        if not isinstance(data, list):
            raise ForbiddenPacket("ack")
        if connection is not None:
            connection.acknowledge(-1 if id is None else id)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self.connections.pop(eio_sid, None)
        self.on_closed(eio_sid, reason)
        self._binary_packet.pop(eio_sid, None)
        await super()._handle_eio_disconnect(eio_sid, reason)


def _only_root(namespace: str | None) -> None:
    if namespace not in _ROOT:
        raise ForbiddenPacket("namespace")
