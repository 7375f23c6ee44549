from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from backend.api.listener import Port, PortRules, listen
from backend.proxies import Proxies
from tests.support.py_client import eventually


@asynccontextmanager
async def listening(proxies: Proxies | None = None, **rules: Any) -> AsyncIterator[tuple[int, Port, list[str]]]:
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
    port = Port(PortRules(**rules), proxies, refused.append)
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
            assert response.status == 400
