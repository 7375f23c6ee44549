"""Replaces parts of `engineio.AsyncServer` (python-engineio 4.15.1) and `socketio.AsyncServer` (python-socketio
5.18.1), over aiohttp 3.14.5.

Why:
- `EngineServer` makes sockets of our own class, and refuses JSONP. Upstream's `disconnect` waits for clients that are
  gone, and its monitor task looks at all sockets, each of which has a timer here.
- `SocketEngine` reports when a client has its CONNECT packet and may be sent events: upstream sends that packet after
  the connect handler, so that an event of the handler would come first. It reports each disconnect, of which upstream
  drops those during a connect handler. It refuses what upstream allows: several sockets a connection, several
  namespaces, attachments without a limit. A packet that cannot be parsed closes its connection. It lets go of the
  handshake's headers, which upstream keeps as long as the socket.

Could be deleted when upstream has a class setting for its sockets, hooks after CONNECT and for each disconnect, and
limits on attachments and sockets a connection.
"""

from __future__ import annotations

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
from multidict import CIMultiDict, CIMultiDictProxy

from roundtrip.limits.loop_turns import LoopTurns
from roundtrip.sockets.engineio.connection import EngineConnection
from roundtrip.sockets.engineio.packets import PacketQueue
from roundtrip.sockets.engineio.websocket import ConnectionWebSocket

log = structlog.get_logger(__name__)

ATTACHMENTS: Final = 8
"""The most binary attachments of one packet. No client of ours sends any."""

CONNECTS_PER_TURN: Final = 16
"""Sockets that are connected in one turn of the event loop: some 200 µs each."""

_ROOT: Final = frozenset({None, "/"})


class ForbiddenPacket(ValueError):  # noqa: N818  # it is a refusal, not a fault
    """A packet that closes its connection without a reply; `what` is a label of `packets_refused_total`."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class ClientErrorFilter(logging.Filter):
    """Logs at level info, without a traceback, what python-engineio logs as an error: what a client did wrong."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.ERROR:
            return True
        error = record.exc_info[0] if record.exc_info else None
        log.info("engineio_refused", what=str(record.msg), error=None if error is None else error.__name__)
        return False


def engineio_logger() -> logging.Logger:
    """The logger for python-engineio, with the filter on it."""
    logger = logging.getLogger("engineio.server")
    if not any(isinstance(known, ClientErrorFilter) for known in logger.filters):
        logger.addFilter(ClientErrorFilter())
    return logger


class Json:
    """What python-socketio uses in the place of the module `json`. msgspec is faster, and bounds the nesting."""

    @staticmethod
    def dumps(value: Any, **_options: object) -> str:
        return msgspec.json.encode(value).decode()

    @staticmethod
    def loads(text: str | bytes, **_options: object) -> Any:
        """Raises `ValueError` for what is not JSON, as the standard library does, or is nested too deeply."""
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError("not JSON") from error


_NO_HEADERS: Final = CIMultiDictProxy(CIMultiDict[str]())


class EngineServer(engineio.AsyncServer):  # type: ignore[misc]  # python-engineio publishes no types
    """An Engine.IO server whose sockets are `EngineConnection`s. `send_queue_limit` is in bytes a socket."""

    def __init__(self, *args: Any, send_queue_limit: int, **kwargs: Any) -> None:
        # each socket has a timer of its own, so that no task needs to look at all of them
        super().__init__(*args, monitor_clients=False, **kwargs)
        self._send_queue_limit = send_queue_limit
        self._async = {**driver._async, "websocket": ConnectionWebSocket}  # where python-engineio looks up its driver
        self.on_refused: Callable[[str], None] = lambda _what: None
        """Called with the label of each packet or request that broke the protocol."""
        self.on_too_large: Callable[[], None] = lambda: None
        """Called for each packet or body over the limit."""

    def create_queue(self, *args: Any, **kwargs: Any) -> PacketQueue:
        return PacketQueue()

    async def handle_request(self, request: web.Request) -> Any:
        """As upstream's, but JSONP is refused: it runs the response as a script, and only old browsers need it."""
        if "j" in request.query:
            self.on_refused("jsonp")
            return web.json_response("JSONP is not served; use XHR polling or a websocket.", status=400)
        return await super().handle_request(request)

    async def _handle_connect(self, environ: dict[str, Any], transport: str, jsonp_index: int | None = None) -> Any:
        """Open a session: as upstream's, with an `EngineConnection` for its socket."""
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
            finally:  # also when the websocket's handshake failed
                await connection.close(abort=True, reason=self.reason.TRANSPORT_CLOSE)
        connection.connected = True
        return self._ok(await connection.poll())

    async def disconnect(self, sid: str | None = None) -> None:
        """As upstream's, without waiting until each client has polled its last packet."""
        for connection in list(self.sockets.values()) if sid is None else [self.sockets.get(sid)]:
            if connection is not None:
                await connection.close(reason=self.reason.SERVER_DISCONNECT)


def release_request(environ: dict[str, Any]) -> None:
    """Let go what a connection's first request said: nobody asks after the handshake, and a websocket's request lives
    as long as it does."""
    request = environ.get("aiohttp.request")
    environ.clear()
    if request is not None:
        request._message = request._message._replace(headers=_NO_HEADERS, raw_headers=())
        request._headers = _NO_HEADERS


class SocketEngine(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio publishes no types
    """A Socket.IO server that reports connects and disconnects reliably. A connection carries one socket, of `/`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._turns = LoopTurns(CONNECTS_PER_TURN)
        self.connections: dict[str, EngineConnection] = {}
        """By Engine.IO sid."""
        self.on_connected: Callable[[str], None] = lambda _eio_sid: None
        """Called with the Engine.IO sid when a client has its CONNECT packet."""
        self.on_closed: Callable[[str, str], None] = lambda _eio_sid, _reason: None
        """Called with the Engine.IO sid and the reason when a connection closed, whether it had a socket or not."""
        self.allow_message: Callable[[str], Awaitable[bool]] | None = None
        """Called with the Engine.IO sid before each message; False drops the message."""
        self.on_message_refused: Callable[[EngineConnection, str | bytes], None] = lambda _connection, _data: None
        """Called with each message that was dropped."""

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
        except Exception as error:  # noqa: BLE001  # a parser may raise anything for a hostile packet
            log.info("packet_malformed", error=type(error).__name__, size=len(data))
            connection.refuse("malformed")
            await connection.end("transport error")

    def _check_attachment(self, eio_sid: str, data: str | bytes) -> None:
        """Bound the attachments of one packet, in sum, by the size of a packet. Raises `ForbiddenPacket`."""
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
        _require_root(namespace)
        connection = self.connections[eio_sid]
        if connection.connect_received:
            raise ForbiddenPacket("second_connect")
        connection.connect_received = True
        await self._turns.take()
        await super()._handle_connect(eio_sid, namespace, data)
        if self.manager.is_connected(self.manager.sid_from_eio_sid(eio_sid, "/"), "/"):
            release_request(self.environ[eio_sid])
            self.on_connected(eio_sid)

    async def _handle_disconnect(self, eio_sid: str, namespace: str | None, reason: str | None = None) -> None:
        """Leaving the namespace closes the connection, as closing the connection ends the socket."""
        _require_root(namespace)
        connection = self.connections.get(eio_sid)
        if connection is not None:  # the client left; closing the connection calls this again, without one
            await connection.end(self.reason.CLIENT_DISCONNECT)
            return
        await super()._handle_disconnect(eio_sid, namespace, reason)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: object) -> None:  # noqa: A002
        _require_root(namespace)
        await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: object) -> None:  # noqa: A002
        """Acknowledgements that `intercept` left: binary ones. Upstream's callbacks are not used."""
        _require_root(namespace)
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


def _require_root(namespace: str | None) -> None:
    if namespace not in _ROOT:
        raise ForbiddenPacket("namespace")
