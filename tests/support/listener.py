"""An application on a guarded listener, and raw connections to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from roundtrip.api.listener import listen
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.connections import ConnectionLimits, ConnectionRules


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


async def ended(reader: asyncio.StreamReader, within: float = 10) -> bytes:
    async with asyncio.timeout(within):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
