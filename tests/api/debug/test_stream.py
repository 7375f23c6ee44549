"""The hub of server-sent events: what it sends, to whom, and how it bounds both."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from roundtrip.api.debug.stream import AT_ONCE, MOST_LISTENERS, QUEUE, Hub, message
from roundtrip.api.middleware import RequestGuard
from tests.support.api import serving


def application(hub: Hub) -> web.Application:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await hub.serve(request, lambda: {"all": True})

    app = web.Application()
    RequestGuard().install(app)
    app.router.add_get("/", handle)
    return app


async def until(hub: Hub, count: int) -> None:
    async with asyncio.timeout(5):
        while len(hub) != count:
            await asyncio.sleep(0.005)


async def test_only_what_changed_is_sent_and_misses_are_bounded_by_the_second() -> None:
    hub = Hub()
    async with serving(application(hub)) as url, aiohttp.ClientSession() as session, session.get(url) as response:
        await until(hub, 1)
        hub.tick({"one": 1, "two": 2})
        hub.tick({"one": 1, "two": 3})
        for number in range(3 * AT_ONCE):
            hub.miss({"number": number})
        hub.close()
        text = (await response.read()).decode()
    parts = [part for part in text.split("\n\n") if part and not part.startswith("retry")]
    assert parts[:3] == [
        'event: state\ndata: {"all":true}',
        'event: tick\ndata: {"one":1,"two":2}',
        'event: tick\ndata: {"two":3}',
    ]
    assert len(parts) == 3 + AT_ONCE
    await until(hub, 0)


async def test_listeners_are_bounded() -> None:
    hub = Hub()
    async with serving(application(hub)) as url, aiohttp.ClientSession() as session:
        open_ = [await session.get(url) for _ in range(MOST_LISTENERS)]
        await until(hub, MOST_LISTENERS)
        async with session.get(url) as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"]
        for response in open_:
            response.close()
        hub.tick({"gone": True})
        hub.close()
        await until(hub, 0)


async def test_one_that_does_not_read_is_dropped() -> None:
    hub = Hub()
    async with serving(application(hub)) as url, aiohttp.ClientSession() as session:
        response = await session.get(url)
        await until(hub, 1)
        for number in range(QUEUE + 1):  # without giving the stream a chance to write
            hub.tick({"number": number})
        assert len(hub) == 0
        assert hub.dropped == 1
        response.close()


def test_a_message_is_one_line_whatever_is_in_it() -> None:
    data = message("tick", {"text": "a\nb\r\n\ndata: evil\u2028"})
    assert data.count(b"\n") == 3
    assert data.startswith(b"event: tick\ndata: {")
