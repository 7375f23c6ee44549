"""Polling sessions over real connections: their end, their bodies in pieces, in chunks and cut off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from tests.sockets.raw import POLLING, connect, raw_polling
from tests.support import sockets as support
from tests.support.py_client import eventually
from tests.support.sockets import stage
from tests.support.wire import Wire

CONNECT = '40{"userId":"user","botId":"bot","acks":true}'
KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)
AT_ONCE = 10.0
"""Seconds: less than the heartbeat's interval and timeout, after which a request would be answered anyway."""


async def polling(s: support.Stage, session: aiohttp.ClientSession) -> str:
    """A polling client that is connected and up to date; the address of its session."""
    url = f"{s.url}/socket.io/?EIO=4&transport=polling"
    async with session.get(url) as response:
        opened = json.loads((await response.text())[1:])
    url = f"{url}&sid={opened['sid']}"
    async with session.post(url, data=CONNECT) as response:
        assert await response.text() == "OK"
    await eventually(lambda: any(peer.live for peer in s.registry.all()))
    async with session.get(url) as response:
        assert (await response.text()).startswith("40")
    return url


async def test_a_polling_client_that_says_goodbye_is_let_go_at_once() -> None:
    """python-engineio leaves its waiting request open until a heartbeat would have been due."""
    async with stage() as s, aiohttp.ClientSession() as session:
        url = await polling(s, session)
        async with asyncio.timeout(AT_ONCE):
            waiting = asyncio.ensure_future(session.get(url))
            await asyncio.sleep(0)
            async with session.post(url, data="1") as response:
                assert response.status == 200
            (await waiting).close()
        await eventually(lambda: len(s.registry) == 0 and not s.server.engine.connections)


async def test_a_polling_client_that_posts_nonsense_is_answered_at_once() -> None:
    """python-engineio closes its session and then waits, in that very request, for a poll that may never come."""
    async with stage() as s, aiohttp.ClientSession() as session:
        url = await polling(s, session)
        async with asyncio.timeout(AT_ONCE), session.post(url, data="6") as response:
            assert response.status in {200, 400}
        await eventually(lambda: len(s.registry) == 0)


async def test_a_drained_polling_client_gets_a_close() -> None:
    async with stage() as s, aiohttp.ClientSession() as session:
        url = await polling(s, session)
        waiting = asyncio.ensure_future(session.get(url))
        await asyncio.sleep(0.05)
        await s.server.drain(0.0)
        async with asyncio.timeout(AT_ONCE), await waiting as response:
            assert await response.text() == "1"


async def test_a_second_poll_or_post_at_a_time_ends_the_session() -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        [connection] = s.server.engine.connections.values()
        waiting = asyncio.ensure_future(client.get())
        await eventually(lambda: connection._polling)
        assert (await client.get())[0] == 400
        assert (await waiting)[1][-1:] == ["1"]
        assert s.notes.disconnects == ["transport error"]


async def test_a_body_over_the_limit_closes_its_session() -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        assert await client.post("42" + "x" * 70_000) == 400
        assert s.notes.disconnects == ["protocol_error"]


async def test_a_body_in_pieces_is_read_to_its_end() -> None:
    """A request's first segment is not its whole body."""
    async with stage(ack_timeout=60) as s, raw_polling(s.url, connect(acks=True)) as client:
        await client.until("42")
        await asyncio.gather(*(s.courier.publish(KEY, "link", CONNECTED) for _ in range(300)))
        await client.until("4230")

        async def body() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(s.url.rsplit(":", 1)[1]))
            data = "\x1e".join(f"43{seq}[]" for seq in range(1, 301)).encode()
            path = client.url.removeprefix(s.url)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode())
            for start in range(0, len(data), 1000):
                writer.write(data[start : start + 1000])
                await writer.drain()
                await asyncio.sleep(0.01)
            assert b" 200 " in await reader.readline()
            writer.close()

        await body()
        await eventually(lambda: len(s.notes.settled_) == 300)


@pytest.mark.parametrize("end", ["write_eof", "close", "reset"])
@pytest.mark.parametrize("framing", ["Content-Length: 12", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_cut_off_is_refused_as_a_whole(framing: str, end: str) -> None:
    """What came of it is a packet by itself: taken up, it would confirm what the client may never have said."""
    async with stage(ack_timeout=60) as s, raw_polling(s.url, connect(acks=True)) as client:
        await client.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.until("421[")
        [connection] = s.server.engine.connections.values()
        wire = await Wire(s.url).open()
        head = f"POST {client.url.removeprefix(s.url)} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"
        await wire.send(head.encode() + (b"5\r\n431[]\r\n" if "chunked" in framing else b"431[]"))
        await eventually(lambda: connection._posting)
        (wire.writer.write_eof if end == "write_eof" else getattr(wire, end))()
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["transport error"]
        assert not s.notes.settled_
        assert (await client.post("431[]")) == 400, "the session is over"
        wire.close()


async def test_a_body_in_chunks_is_a_body() -> None:
    """Proxies pass a request on in chunks; an "OK" for what was not read would lose acknowledgements."""
    async with stage(ack_timeout=60) as s, raw_polling(s.url, connect(acks=True)) as client:
        await client.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.until("421[")

        async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        async with client.session.post(client.url, data=pieces(b"431", b"[]")) as answer:
            assert (answer.status, await answer.text()) == (200, "OK")
        await eventually(lambda: s.notes.settled_)
        async with client.session.post(client.url, data=pieces(*[b"x" * 10_000] * 7)) as answer:
            assert answer.status == 400, "no larger than a body with a length may be"
        assert s.notes.disconnects == ["protocol_error"]


async def test_answers_are_not_compressed() -> None:
    """What a client sends and a secret of the server in one compressed answer would give the secret away."""
    async with stage() as s, aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(s.url + POLLING) as opened:
            sid = json.loads((await opened.text())[1:])["sid"]
        [connection] = s.server.engine.connections.values()
        for _ in range(100):
            await s.server.engine.eio.send(sid, "x" * 100)
        async with session.get(f"{s.url}{POLLING}&sid={sid}", headers={"Accept-Encoding": "gzip, deflate"}) as answer:
            assert "Content-Encoding" not in answer.headers
            assert len(await answer.read()) > 10_000
        assert connection.backlog == 0
