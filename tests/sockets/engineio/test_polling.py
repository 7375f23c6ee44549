"""Polls and POST bodies of one engine socket."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import StreamReader, web
from engineio import exceptions, packet

from roundtrip.sockets.engineio.connection import EngineConnection
from tests.sockets.fakes import FakeEngine, make_connection
from tests.support.stepped_loop import SteppedLoop

LIMIT = FakeEngine.max_http_buffer_size


def test_a_second_poll_raises_and_a_closed_queue_ends_polls(loop: SteppedLoop) -> None:
    async def run() -> None:
        server = FakeEngine()
        connection = await make_connection(server, None)
        waiting = asyncio.ensure_future(connection.poll())
        await asyncio.sleep(0)
        with pytest.raises(exceptions.QueueEmpty):
            await connection.poll()
        await connection.end("server disconnect")
        assert [it.packet_type for it in await waiting] == [packet.CLOSE]
        assert [it.packet_type for it in await connection.poll()] == [packet.NOOP], "and nobody waits at a closed one"

    loop.run(run())


def posted(loop: SteppedLoop, body: bytes, *, length: int | None, broken: BaseException | None = None) -> Any:
    """What becomes of a request's body: the connection, and the error."""

    async def run() -> Any:
        connection = await make_connection(FakeEngine(), None)
        connection._disarm()
        connection.server.reason.CLIENT_DISCONNECT = "client disconnect"
        content = StreamReader(
            cast("Any", SimpleNamespace(_reading_paused=False, connected=True, resume_reading=lambda **_: None)),
            1 << 20,
            loop=loop,
        )
        content.feed_data(body)
        content.feed_eof() if broken is None else content.set_exception(broken)
        environ = {"wsgi.input": content} | ({} if length is None else {"CONTENT_LENGTH": str(length)})
        try:
            await connection.handle_post_request(environ)
        except exceptions.EngineIOError as error:
            return connection, type(error)
        finally:
            assert not connection._posting
        return connection, None

    return loop.run(run())


@pytest.mark.parametrize("length", [LIMIT, None])
def test_a_body_may_be_as_large_as_a_packet(loop: SteppedLoop, length: int | None) -> None:
    connection, error = posted(loop, b"4" + b"x" * (LIMIT - 1), length=length)
    assert error is None
    assert connection.close_reason is None


@pytest.mark.parametrize("length", [LIMIT + 1, None])
def test_a_body_may_be_no_larger(loop: SteppedLoop, length: int | None) -> None:
    connection, error = posted(loop, b"4" + b"x" * LIMIT, length=length)
    assert error in {exceptions.ContentTooLongError, exceptions.EngineIOError}
    assert connection.close_reason == "protocol_error"
    assert connection.server.refused == ["too large"]


@pytest.mark.parametrize("length", [6, None])
@pytest.mark.parametrize("broken", [ConnectionResetError(), web.RequestPayloadError()], ids=repr)
def test_a_body_that_breaks_is_an_error_of_the_transport(
    loop: SteppedLoop, length: int | None, broken: BaseException
) -> None:
    connection, error = posted(loop, b"3", length=length, broken=broken)
    assert error is exceptions.EngineIOError
    assert connection.close_reason == "transport error"
    assert connection.server.refused == [], "it broke no protocol"


@pytest.mark.parametrize("body", [b"4\xff", b"bnot base64", b"x"])
def test_a_body_that_is_no_packets_is_counted_as_malformed(loop: SteppedLoop, body: bytes) -> None:
    connection, error = posted(loop, body, length=len(body))
    assert error is exceptions.EngineIOError
    assert connection.close_reason == "protocol_error"
    assert connection.server.refused == ["malformed"]


def test_an_empty_body_is_no_error(loop: SteppedLoop) -> None:
    connection, error = posted(loop, b"", length=None)
    assert error is None
    assert not connection.gone


def test_a_body_is_processed_up_to_a_close_packet(loop: SteppedLoop) -> None:
    connection, error = posted(loop, b"1\x1e6\x1e2", length=5)
    assert error is None
    assert connection.server.refused == []
    assert connection.server.ended == ["client disconnect"]


def test_sixty_four_packets_are_taken_up_before_others_have_their_turn(loop: SteppedLoop) -> None:
    """A websocket's as well as a body's."""

    async def run() -> tuple[int, int]:
        connection = await make_connection(FakeEngine(), None)
        connection._disarm()
        taken: list[str] = []
        connection.intercept = lambda text: taken.append(text) or True  # type: ignore[method-assign, func-returns-value]  # it counts
        posting = asyncio.ensure_future(connection._receive_payload("\x1e".join(["3"] * 200)))
        await asyncio.sleep(0)
        first = len(taken)
        await posting
        return first, len(taken)

    assert loop.run(run()) == (64, 200)


def test_a_body_that_takes_too_long_ends_its_session_and_is_not_answered(loop: SteppedLoop) -> None:
    """Upstream would swallow the cancellation, and answer "OK"."""

    async def run() -> EngineConnection:
        connection = await make_connection(FakeEngine(), None)
        connection._disarm()
        content = StreamReader(cast("Any", SimpleNamespace(_reading_paused=False, connected=True)), 1 << 20, loop=loop)
        posting = asyncio.ensure_future(connection.handle_post_request({"wsgi.input": content, "CONTENT_LENGTH": "5"}))
        await asyncio.sleep(0)
        with pytest.raises(exceptions.UnknownPacketError):
            await connection.handle_post_request({"wsgi.input": content, "CONTENT_LENGTH": "5"})
        assert connection._posting, "the second one takes nothing of the first"
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        assert not connection._posting
        return connection

    connection = loop.run(run())
    loop.settle()
    assert connection.server.refused == ["second_request"], "counted once"
    assert connection.server.ended == ["protocol_error"]
