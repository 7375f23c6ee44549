"""Replaces how aiohttp 3.14.5 hands a websocket's messages to the task that reads it, for those of each event.

Why: aiohttp puts every message into a queue and wakes the task, which costs more than an acknowledgement does. Here a
message that the connection can process at once is processed while its bytes are read; all others go through the queue,
and with them whatever comes behind them, so that the order stays. And what is read goes to the parser directly, past
the protocols of the HTTP connection, which keep everything else, but for the parser of requests and what that holds of
the handshake (4 KB): aiohttp would keep it as long as the websocket.

Could be deleted when aiohttp has a hook for a message. Where its parts have other names, messages take the ordinary
way, and the log says so once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader

log = structlog.get_logger(__name__)

_TEXT: Final = WSMsgType.TEXT
_QUEUE_LIMIT: Final = 1 << 16
"""Bytes in the queue above which aiohttp stops to read."""

_NO_MESSAGES: Final[deque[Any]] = deque()
"""Shared, for an empty queue takes 760 bytes: no request follows a websocket's."""

_said: list[bool] = []


class InterceptingQueue(WebSocketDataQueue):
    """aiohttp's queue between its parser and the task that reads a websocket."""

    __slots__ = ("intercept", "left", "waiting")

    def __init__(self, protocol: Any, loop: asyncio.AbstractEventLoop, intercept: Callable[[str], bool]) -> None:
        """`intercept` processes a text message, or leaves it to the queue by returning False."""
        super().__init__(protocol, _QUEUE_LIMIT, loop=loop)
        self.intercept = intercept
        self.waiting = False
        """The task waits for a message, and is not busy with an earlier one. Set by the task."""
        self.left = 0
        """Messages that may be processed before the event loop runs others."""

    def feed_data(self, data: Any, size: int) -> None:
        """Called by the parser with a message, `(type, text or bytes, extra)`, and its size in bytes."""
        if self.waiting and self.left > 0 and data[0] is _TEXT:
            self.left -= 1
            try:
                if self.intercept(data[1]):
                    return
            except Exception as error:
                log.exception("packet_failed", error=type(error).__name__)
                return
        self.waiting = False
        super().feed_data(data, size)


class FrameParser:
    """aiohttp's parser of one websocket, as its protocol calls it."""

    __slots__ = ("_per_turn", "_queue", "_reader")

    def __init__(self, queue: InterceptingQueue, max_message: int, per_turn: int) -> None:
        """`max_message` is in bytes; `per_turn` bounds the messages of one read that are processed at once."""
        self._queue = queue
        self._per_turn = per_turn
        self._reader = WebSocketReader(queue, max_message, compress=False, decode_text=True)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._queue.left = self._per_turn
        result: tuple[bool, bytes] = self._reader.feed_data(data)
        return result

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class FrameProtocol(asyncio.Protocol):
    """The protocol of a connection that has become a websocket: what is read is parsed here, all else is up to the
    protocol before it."""

    __slots__ = ("_before", "_handler", "_parser")

    def __init__(self, parser: FrameParser, handler: Any, before: Any) -> None:
        self._parser = parser
        self._handler = handler
        self._before = before

    def data_received(self, data: bytes) -> None:
        broken, _ = self._parser.feed_data(data)
        if broken:
            self._handler.close()

    def eof_received(self) -> bool | None:
        eof: bool | None = self._before.eof_received()
        return eof

    def connection_lost(self, error: Exception | None) -> None:
        self._before.connection_lost(error)

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()


def attach(ws: Any, handler: Any, intercept: Callable[[str], bool], per_turn: int) -> InterceptingQueue | None:
    """Have a websocket that is starting read through an `InterceptingQueue`.

    `ws` is the `WebSocketResponse`, `handler` its connection's. None if aiohttp's parts are not those that are known
    here: then nothing has changed.
    """
    try:
        queue = InterceptingQueue(handler, asyncio.get_running_loop(), intercept)
        parser = FrameParser(queue, ws._max_msg_size, per_turn)
        if None in (ws._reader, ws._parser, handler._payload_parser, handler._parser) or handler._messages:
            raise AttributeError("the websocket has no reader")  # noqa: TRY301  # as if the name were not there
    except (AttributeError, TypeError) as error:
        if not _said:
            _said.append(True)
            log.warning("websocket_reader_unknown", error=str(error))
        return None
    ws._reader, ws._parser, handler._payload_parser = queue, parser, parser
    handler._parser, handler._messages = None, _NO_MESSAGES
    transport = handler.transport
    if transport is not None:  # else it was closed during the handshake
        transport.set_protocol(FrameProtocol(parser, handler, transport.get_protocol()))
    return queue
