from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from roundtrip.api.http_handler import HttpHandler
from roundtrip.api.listener import MAX_HEAD, ConnectionGuard, listen
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.connections import ConnectionLimits, ConnectionRules
from tests.support.py_client import eventually


@asynccontextmanager
async def listening(
    proxies: Proxies | None = None, **rules: Any
) -> AsyncIterator[tuple[int, ConnectionLimits, list[str]]]:
    """A port that answers with the length of what it was sent, or echoes over a websocket."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade"):
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            async for message in ws:
                await ws.send_str(message.data)
            return ws
        return web.Response(text=str(len(await request.read())))

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{rest:.*}", answer)
    refused: list[str] = []
    port = ConnectionLimits(
        ConnectionRules(**rules), proxies, refused.append, lambda reason: refused.append(f"malformed: {reason}")
    )
    runner = await listen(app, "127.0.0.1", 0, port, 0.1)
    try:
        yield runner.addresses[0][1], port, refused
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(number: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ended(reader: asyncio.StreamReader, within: float = 5) -> bytes:
    async with asyncio.timeout(within):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_requests_and_websockets_go_through() -> None:
    async with listening() as (number, port, refused), aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{number}/"
        for size in (0, 1, 900_000):
            async with session.post(url, data=b"x" * size) as response:
                assert await response.text() == str(size)
        async with session.ws_connect(url) as ws:
            big = "y" * 900_000  # enough for the writer to be paused
            for text in ("a", big):
                await ws.send_str(text)
                assert await ws.receive_str() == text
        assert refused == []
        await session.close()
        await eventually(lambda: port.open == 0)


@pytest.mark.parametrize("said", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_come_is_given_up(said: bytes) -> None:
    async with listening(head_seconds=0.2) as (number, port, refused), connected(number) as (reader, writer):
        writer.write(said)
        await ended(reader)
        assert refused == ["slow_request"]
        await eventually(lambda: port.open == 0)


async def test_a_head_may_come_in_pieces_and_an_idle_connection_is_kept() -> None:
    async with listening(head_seconds=0.3) as (number, _, refused), connected(number) as (reader, writer):
        for piece in (b"GET / HTTP/1.1\r\nHo", b"st: x\r\n\r", b"\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert b" 200 " in await reader.readline()
        await asyncio.sleep(0.4)  # longer than the head's time: this connection has shown that it means it
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await ended(reader)
        assert refused == []


async def test_one_connection_too_many_from_an_address_is_told_so() -> None:
    async with listening(per_address=2) as (number, port, refused):
        async with connected(number), connected(number):
            await eventually(lambda: port.open == 2)
            async with connected(number) as (reader, _):
                answer = await ended(reader)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"Retry-After: 5" in answer
            assert b'"code":"rate_limited"' in answer
            assert refused == ["connections_per_address"]
        await eventually(lambda: port.open == 0)
        async with connected(number):
            await eventually(lambda: port.open == 1)


async def test_one_connection_too_many_in_all() -> None:
    async with listening(connections=1) as (number, port, refused), connected(number):
        await eventually(lambda: port.open == 1)
        async with connected(number) as (reader, _):
            assert b" 429 " in await ended(reader)
        assert refused == ["connections"]


async def test_a_proxy_of_ours_speaks_for_many() -> None:
    async with listening(Proxies(["127.0.0.1"]), per_address=1) as (number, port, refused):
        async with connected(number), connected(number), connected(number):
            await eventually(lambda: port.open == 3)
        await eventually(lambda: port.open == 0)
        assert refused == []


async def test_a_long_line_reaches_the_handlers() -> None:
    async with listening() as (number, _, _refused), aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{number}/{'x' * 10_000}") as response:
            assert response.status == 200
        async with session.get(f"http://127.0.0.1:{number}/{'x' * 20_000}") as response:
            assert response.status == 414


async def test_an_empty_line_is_no_request() -> None:
    async with listening(head_seconds=0.3) as (number, port, refused), connected(number) as (reader, writer):
        began = asyncio.get_running_loop().time()
        writer.write(b"\r\n\r\n")
        assert await ended(reader) == b""
        assert asyncio.get_running_loop().time() - began < 3
        assert refused == ["slow_request"]
        await eventually(lambda: port.open == 0)


@pytest.mark.parametrize("drip", [b"\r\n", b"X: y\r\n", b"G"])
async def test_a_head_that_drips_is_given_up(drip: bytes) -> None:
    async with listening(head_seconds=0.3) as (number, _, refused), connected(number) as (reader, writer):
        reading = asyncio.create_task(ended(reader))
        if drip.startswith(b"X"):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        while not reading.done():
            writer.write(drip)
            await asyncio.sleep(0.02)
        assert b" 200 " not in await reading
        assert refused == ["slow_request"] or refused == ["malformed: malformed"]


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HT"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"GET / HT"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT", b""),  # begun in the same packet
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3, b"\r\nG"),
    ],
)
async def test_a_later_head_has_its_deadline_too(first: bytes, rest: bytes) -> None:
    async with listening(head_seconds=0.3) as (number, port, refused), connected(number) as (reader, writer):
        writer.write(first)
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        if rest:
            await asyncio.sleep(0.4)  # idle for longer than a head may take
            assert refused == []
            writer.write(rest)
        await ended(reader)
        assert refused == ["slow_request"]
        await eventually(lambda: port.open == 0)


async def test_a_body_in_pieces_and_a_split_head_leave_no_deadline_behind() -> None:
    async with listening(head_seconds=0.3) as (number, _, refused), connected(number) as (reader, writer):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        for request in ((head[:-1], head[-1:], b"ab", b"cd"), (head + b"ab", b"cd"), (head + b"abcd",)):
            for piece in request:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in answer
            assert await reader.readexactly(1) == b"4"
            await asyncio.sleep(0.4)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r")
        await asyncio.sleep(0.02)
        writer.write(b"\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.4)
        writer.write(b"\r\n")  # as some old browsers end a body
        await asyncio.sleep(0.4)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await ended(reader)
        assert refused == []


async def test_a_websocket_outlives_the_deadline_of_heads() -> None:
    async with (
        listening(head_seconds=0.2) as (number, _, refused),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{number}/") as ws,
    ):
        for text in "abc":
            await asyncio.sleep(0.15)
            await ws.send_str(text)
            assert await ws.receive_str() == text
        assert refused == []


SECRET = b"s3cr3t-of-the-sender"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"rubbish " + SECRET + b"\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + SECRET + b"\x00\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization\x01" + SECRET + b": x\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: " + SECRET + b"\r\n\r\n", 400, "request_malformed"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400, "request_malformed"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "request_malformed",
        ),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 400, "request_malformed"),
        (b"GET http://[" + SECRET + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400, "request_malformed"),
        (b"GET /" + SECRET * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "line_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: " + SECRET * 1000 + b"\r\n\r\n", 431, "header_too_long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + SECRET * 1000 + b": x\r\n\r\n", 431, "header_too_long"),
        (b"GET / HTTP/0.9\r\nHost: x\r\n\r\n", 400, "http_version"),
        (b"GET /\r\n\r\n", 400, None),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "http_version"),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 400, "request_malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, None),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + SECRET, 400, "request_malformed"),  # TLS
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: " + SECRET + b"\r\n\r\n", 417, "expectation_failed"),
    ],
)
async def test_what_is_no_request_gets_a_problem_document_that_repeats_nothing(
    sent: bytes, status: int, code: str | None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with listening() as (number, port, refused), connected(number) as (reader, writer):
        writer.write(sent)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = await reader.readexactly(int(answer.lower().partition("content-length: ")[2].partition("\r")[0]))
        assert answer.startswith((f"HTTP/1.1 {status} ", f"HTTP/1.0 {status} ")), answer
        assert "\r\nContent-Type: application/problem+json" in answer
        assert "\r\nserver:" not in answer.lower()
        problem = msgspec.json.decode(body)
        assert problem["status"] == status
        assert problem["code"] == code or code is None
        seen = answer + body.decode() + caplog.text + "".join(capsys.readouterr())
        assert SECRET.decode() not in seen
        assert not [version for version in ("aiohttp", "Python/") if version in answer + body.decode()]
        if code != "expectation_failed":
            await ended(reader)
            assert refused == [f"malformed: {'malformed' if code in (None, 'request_malformed') else code}"] or (
                code is None and refused == ["malformed: http_version"]
            )
            await eventually(lambda: port.open == 0)


async def test_malformed_requests_are_each_counted_and_seldom_logged(capsys: pytest.CaptureFixture[str]) -> None:
    async with listening() as (number, _, refused):

        async def send() -> bytes:
            async with connected(number) as (reader, writer):
                writer.write(b"rubbish\r\n\r\n")
                return await ended(reader)

        answers = await asyncio.gather(*(send() for _ in range(50)))
        assert all(b" 400 " in answer for answer in answers)
        assert refused == ["malformed: malformed"] * 50
        assert "".join(capsys.readouterr()).count("request_malformed") == 1


def test_connections_of_one_ipv6_network_are_counted_together() -> None:
    port = ConnectionLimits(ConnectionRules(per_address=2))
    assert [port.acquire(f"2001:db8::{number}") for number in range(3)] == [True, True, False]
    assert port.acquire("2001:db8:0:1::1")
    port.release("2001:db8::1")
    assert port.acquire("2001:db8::9")
    assert port.open == 3


async def test_a_closed_connection_is_freed_by_counting_alone() -> None:
    """The collector runs seldom: what a connection leaves in a cycle stays for minutes."""

    def there() -> int:
        return sum(isinstance(one, ConnectionGuard | HttpHandler) for one in gc.get_objects())

    async with listening() as (number, port, _):
        gc.collect()
        gc.disable()
        try:
            for sent in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"rubbish\r\n\r\n", b"GET / HT", b""):
                for _ in range(5):
                    async with connected(number) as (reader, writer):
                        writer.write(sent)
                        if len(sent) > 10:
                            await reader.readline()
                await eventually(lambda: port.open == 0)
            async with aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{number}/") as ws:
                await ws.send_str("a")
                await ws.receive_str()
            await eventually(lambda: port.open == 0)
            await eventually(lambda: there() == 0)
        finally:
            gc.enable()


@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["first", "later"])
async def test_a_head_without_end_is_cut_off(before: bytes) -> None:
    """Each header is within its bound, and so is their number; together they are not."""
    async with listening() as (number, port, refused), connected(number) as (reader, writer):
        if before:
            writer.write(before)
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        answered = asyncio.ensure_future(reader.readuntil(b"}"))
        sent = 0
        async with asyncio.timeout(10):
            while not answered.done():
                line = b"X-%d: " % sent + b"y" * 12_000 + b"\r\n"
                writer.write(line)
                await asyncio.sleep(0.005)
                sent += len(line)
        answer = await answered
        assert sent < 10 * MAX_HEAD
        assert b" 431 " in answer
        assert b'"head_too_large"' in answer
        assert refused == ["malformed: head_too_large"]
        await eventually(lambda: port.open == 0)


async def test_a_long_body_is_no_head() -> None:
    async with listening() as (number, _, _), connected(number) as (reader, writer):
        length = 4 * MAX_HEAD
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length)
        for _ in range(8):
            writer.write(b"x" * (length // 8))
            await asyncio.sleep(0.01)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert b" 431 " not in answer
