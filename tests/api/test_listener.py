from __future__ import annotations

import asyncio

import aiohttp
import pytest

from roundtrip.api.listener import MAX_HEAD
from roundtrip.limits.addresses import Proxies
from tests.support.listener import connected, ended, listening
from tests.support.py_client import eventually


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
