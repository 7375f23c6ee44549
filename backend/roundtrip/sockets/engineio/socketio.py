"""python-socketio with lanes: its server, with the few places overridden where this program needs to know more."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import socketio
import structlog
from engineio.exceptions import EngineIOError

from roundtrip.sockets.engineio.connection import EngineConnection
from roundtrip.sockets.engineio.server import EngineServer

log = structlog.get_logger(__name__)


ATTACHMENTS: Final = 8
"""Binary attachments of one packet: clients send none but in acknowledgements, and need none there."""

_ROOT: Final = frozenset({None, "/"})


class Forbidden(ValueError):  # noqa: N818  # it is a refusal, not a fault
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


class SocketEngine(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio publishes no types
    """Tells when a client can be sent events, and when its engine is gone, however it went.

    python-socketio answers CONNECT after the connect handler, so that an event sent from the handler would come
    first; and it drops a disconnect of a socket whose connect handler was slow. It lets one connection carry many
    sockets, one after the other and one per namespace: here it carries one, of `/`, in its life.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lanes: dict[str, EngineConnection] = {}
        self.on_open: Callable[[str], None] = lambda _eio_sid: None
        self.on_gone: Callable[[str, str], None] = lambda _eio_sid, _reason: None
        self.on_message: Callable[[str], Awaitable[bool]] | None = None
        """Asked before each message of a client; False drops it."""
        self.on_dropped: Callable[[EngineConnection, str | bytes], None] = lambda _lane, _data: None
        """Told of each message that was dropped."""

    def _engineio_server_class(self) -> type[EngineServer]:
        return EngineServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        self.lanes[eio_sid] = self.eio.sockets[eio_sid]
        await super()._handle_eio_connect(eio_sid, environ)

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        lane = self.lanes.get(eio_sid)
        if lane is None or lane.gone:
            return
        if self.on_message is not None and not await self.on_message(eio_sid):
            self._binary_packet.pop(eio_sid, None)
            self.on_dropped(lane, data)
            return
        try:
            self._check_attachment(eio_sid, data)
            await super()._handle_eio_message(eio_sid, data)
            self._check_attachment_count(eio_sid)
        except EngineIOError:
            raise
        except Forbidden as forbidden:
            lane.refuse(forbidden.what)
            await lane.end("transport error")
        except Exception as error:  # noqa: BLE001  # whatever a hostile packet made the parser raise
            log.info("packet_malformed", error=type(error).__name__, size=len(data))
            lane.refuse("malformed")
            await lane.end("transport error")

    def _check_attachment(self, eio_sid: str, data: str | bytes) -> None:
        """Attachments of one packet are no larger together than a packet may be. Raises `Forbidden`."""
        awaiting = self._binary_packet.get(eio_sid)
        if awaiting is None:
            return
        size = len(data) + sum(len(known) for known in awaiting.attachments)
        if not isinstance(data, bytes) or size > self.eio.max_http_buffer_size:
            raise Forbidden("attachments")

    def _check_attachment_count(self, eio_sid: str) -> None:
        awaiting = self._binary_packet.get(eio_sid)
        if awaiting is not None and awaiting.attachment_count > ATTACHMENTS:
            raise Forbidden("attachments")

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: object) -> None:
        _only_root(namespace)
        lane = self.lanes[eio_sid]
        if lane.asked_to_connect:
            raise Forbidden("second_connect")
        lane.asked_to_connect = True
        await super()._handle_connect(eio_sid, namespace, data)
        if self.manager.is_connected(self.manager.sid_from_eio_sid(eio_sid, "/"), "/"):
            self.on_open(eio_sid)

    async def _handle_disconnect(self, eio_sid: str, namespace: str | None, reason: str | None = None) -> None:
        """The socket's end is its connection's, and the other way round."""
        _only_root(namespace)
        lane = self.lanes.get(eio_sid)
        if lane is not None:  # the client leaves: what follows comes back here by way of the connection's end
            await lane.end(self.reason.CLIENT_DISCONNECT)
            return
        await super()._handle_disconnect(eio_sid, namespace, reason)

    async def _handle_event(self, eio_sid: str, namespace: str | None, id: int | None, data: object) -> None:  # noqa: A002
        _only_root(namespace)
        await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: object) -> None:  # noqa: A002
        """Acknowledgements that the lane did not take: binary ones. There are no callbacks, so nothing else is due."""
        _only_root(namespace)
        lane = self.lanes.get(eio_sid)
        if not isinstance(data, list):
            raise Forbidden("ack")
        if lane is not None:
            lane.acknowledge(-1 if id is None else id)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self.lanes.pop(eio_sid, None)
        self.on_gone(eio_sid, reason)
        self._binary_packet.pop(eio_sid, None)
        await super()._handle_eio_disconnect(eio_sid, reason)


def _only_root(namespace: str | None) -> None:
    if namespace not in _ROOT:
        raise Forbidden("namespace")


def dumps(value: Any, **_options: object) -> str:
    return msgspec.json.encode(value).decode()


def loads(text: str | bytes, **_options: object) -> Any:
    """Raises `ValueError` for what is not JSON, as the standard library does, and for what is nested too deeply."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
