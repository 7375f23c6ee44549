"""The websocket between aiohttp and a connection: what it processes itself, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMessage, WSMsgType

from roundtrip.sockets.engineio.websocket import ConnectionWebSocket, QuietWebSocket

TEXT, BINARY, PING, PONG, CLOSE = (
    WSMsgType.TEXT,
    WSMsgType.BINARY,
    WSMsgType.PING,
    WSMsgType.PONG,
    WSMsgType.CLOSE,
)


class FakeConnection:
    """As much of one as its websocket looks at."""

    def __init__(self) -> None:
        self.upgraded = False
        self.dropped = False
        self.close_code: int | None = None
        self.answers: list[bytes] = []
        self.taken: list[str] = []
        self.refused: list[str] = []
        self.handled: list[Any] = []

    async def handle(self, websocket: Any) -> None:
        self.handled.append(websocket)

    def write_control(self, frame: bytes) -> None:
        self.answers.append(frame)

    def intercept(self, text: str) -> bool:
        self.taken.append(text)
        return text == "3"

    def refuse(self, what: str) -> None:
        self.refused.append(what)

    def too_large(self) -> None:
        self.refused.append("too large")


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.options: list[Any] = []
        self.closed = False

    def get_extra_info(self, name: str) -> Any:
        assert name == "socket"
        return SimpleNamespace(setsockopt=lambda *given: self.options.append(given))

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


def opened(*messages: tuple[WSMsgType, Any], code: int | None = None) -> tuple[FakeConnection, ConnectionWebSocket]:
    connection = FakeConnection()
    websocket = ConnectionWebSocket(connection.handle, SimpleNamespace(max_http_buffer_size=1_000))
    waiting = [WSMessage(kind, data, None) for kind, data in messages]

    async def receive() -> WSMessage:
        return waiting.pop(0)

    async def prepare(_request: Any) -> None:
        pass

    stream: Any = SimpleNamespace(queue=None, receive=receive, prepare=prepare, code=code)
    websocket._ws = stream
    return connection, websocket


async def test_pings_are_answered_and_pongs_ignored_on_the_way_to_a_message() -> None:
    connection, websocket = opened((PONG, b""), (PING, b"now"), (TEXT, "4a"), (BINARY, b"b"))
    assert await websocket.receive() == "4a"
    assert connection.answers == [b"\x8a\x03now"]
    assert await websocket.receive() == b"b"


@pytest.mark.parametrize(("known", "code", "said"), [(None, 1009, 1009), (1002, 1009, 1002), (None, None, None)])
async def test_the_end_of_a_stream_says_why_it_was_broken(
    known: int | None, code: int | None, said: int | None
) -> None:
    connection, websocket = opened((CLOSE, 1000), code=code)
    connection.close_code = known
    with pytest.raises(OSError, match="closed"):
        await websocket.receive()
    assert connection.close_code == said
    assert connection.refused == (["too large"] if said == 1009 else [])


async def test_what_a_dropped_client_sent_is_of_no_use() -> None:
    connection, websocket = opened((TEXT, "4a"))
    connection.dropped = True
    with pytest.raises(OSError, match="dropped"):
        await websocket.receive()


async def test_intercepted_messages_never_leave_the_websocket() -> None:
    connection, websocket = opened((TEXT, "3"), (TEXT, "3"), (TEXT, "42[]"), (BINARY, b"3"), (TEXT, "6"), (TEXT, "0"))
    assert [await websocket.wait() for _ in range(4)] == ["42[]", b"3", "6", "0"]
    assert connection.taken == ["3", "3", "42[]", "6", "0"]
    assert connection.refused == []


@pytest.mark.parametrize("text", ["", "7", "x", "b4"])
async def test_what_is_no_packet_ends_the_stream(text: str) -> None:
    connection, websocket = opened((TEXT, text))
    with pytest.raises(OSError, match="not an"):
        await websocket.wait()
    assert connection.refused == ["malformed"]


async def test_sixty_four_messages_are_read_before_others_have_their_turn() -> None:
    connection, websocket = opened(*[(TEXT, "3")] * 130, (TEXT, "42[]"))
    reading = asyncio.ensure_future(websocket.wait())
    counts = []
    while not reading.done():
        await asyncio.sleep(0)
        counts.append(len(connection.taken))
    assert counts[:3] == [63, 127, 131]


@pytest.mark.parametrize("upgraded", [False, True])
@pytest.mark.parametrize("gone", [False, True])
async def test_a_websocket_that_never_served_its_connection_writes_the_close_frame_itself(
    upgraded: bool, gone: bool
) -> None:
    connection, websocket = opened()
    transport = Transport()
    ended = await websocket({"aiohttp.request": SimpleNamespace(transport=transport)})
    assert ended is websocket._ws
    assert connection.handled == [websocket]
    assert websocket.transport is transport
    assert transport.options == [(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)]
    assert transport.written == [b"\x88\x02\x03\xe8"]
    assert transport.closed
    connection.upgraded = upgraded
    again = Transport()
    again.closed = gone
    await websocket({"aiohttp.request": SimpleNamespace(transport=again)})
    assert again.written == ([] if upgraded or gone else [b"\x88\x02\x03\xe8"])
    assert again.closed


async def test_a_connection_that_went_during_the_handshake_is_handled_by_nobody() -> None:
    connection, websocket = opened()
    assert await websocket({"aiohttp.request": SimpleNamespace(transport=None)}) is websocket._ws
    assert connection.handled == []


async def test_aiohttp_leaves_the_close_to_the_connection_and_reports_the_code() -> None:
    quiet = QuietWebSocket(1_000, lambda _text: False)
    assert await quiet.close(code=1009) is False
    assert quiet.code == 1009
    assert await quiet.close() is False
    assert quiet.code == 1009, "an ordinary close says nothing new"


def test_websockets_are_neither_compressed_nor_answered_by_aiohttp() -> None:
    connection = FakeConnection()
    made = ConnectionWebSocket(connection.handle, SimpleNamespace(max_http_buffer_size=1_000))._ws
    assert (made._compress, made._autoclose, made._autoping, made._max_msg_size) == (False, False, False, 1_000)
