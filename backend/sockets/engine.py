"""python-socketio with lanes: its server, with the few places overridden where this program needs to know more."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import socketio
import structlog
from engineio.exceptions import EngineIOError

from backend.sockets.lane import Lane
from backend.sockets.lane_server import LaneServer

log = structlog.get_logger(__name__)


class Blame(logging.Filter):
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
    if not any(isinstance(known, Blame) for known in logger.filters):
        logger.addFilter(Blame())
    return logger


class SocketEngine(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio publishes no types
    """Tells when a client can be sent events, and when its engine is gone, however it went.

    python-socketio answers CONNECT after the connect handler, so that an event sent from the handler would come
    first; and it drops a disconnect of a socket whose connect handler was slow.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.lanes: dict[str, Lane] = {}
        self.on_open: Callable[[str], None] = lambda _eio_sid: None
        self.on_gone: Callable[[str, str], None] = lambda _eio_sid, _reason: None
        self.on_message: Callable[[str], Awaitable[bool]] | None = None
        """Asked before each message of a client; False drops it."""

    def _engineio_server_class(self) -> type[LaneServer]:
        return LaneServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        self.lanes[eio_sid] = self.eio.lane(eio_sid)
        await super()._handle_eio_connect(eio_sid, environ)

    async def _handle_connect(self, eio_sid: str, namespace: str | None, data: object) -> None:
        await super()._handle_connect(eio_sid, namespace, data)
        self.on_open(eio_sid)

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        if self.on_message is not None and not await self.on_message(eio_sid):
            return
        try:
            await super()._handle_eio_message(eio_sid, data)
        except EngineIOError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a hostile packet made the parser raise
            log.info("packet_malformed", error=type(error).__name__, size=len(data))
            lane = self.lanes.get(eio_sid)
            if lane is not None:
                await lane.close("transport error")

    async def _handle_ack(self, eio_sid: str, namespace: str | None, id: int | None, data: object) -> None:  # noqa: A002
        """Acknowledgements that the lane did not take: binary ones. There are no callbacks, so nothing else is due."""
        lane = self.lanes.get(eio_sid)
        if lane is not None and lane.client is not None and id is not None and namespace in {None, "/"}:
            lane.client.acked(id)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        lane = self.lanes.pop(eio_sid, None)
        if lane is not None and lane.close_reason is not None:
            reason = lane.close_reason
        elif lane is not None and reason == self.reason.TRANSPORT_CLOSE and lane.silent:
            reason = self.reason.PING_TIMEOUT  # python-engineio's two deadlines for it are equal, and race
        self.on_gone(eio_sid, reason)
        await super()._handle_eio_disconnect(eio_sid, reason)
        if lane is not None:
            lane.release_poll()
