"""What python-engineio would have let pass: each packet where it does not belong closes its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.sockets.engineio import socket as engine_socket
from roundtrip.sockets.engineio.socketio import ATTACHMENTS
from tests.sockets.raw import POLLING, connect, raw_polling, raw_socket
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage
from tests.support.wire import Wire, frame

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)

MISPLACED = ["0", '0{"sid":"x"}', "2", "2probe", "5", "6", "7", "9"]
"""Packets that only a server sends, or only an upgrade has, or nobody."""


@pytest.mark.parametrize("packet", MISPLACED)
async def test_a_packet_that_does_not_belong_there_closes_a_websocket(packet: str) -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(packet)
        await client.ended()
        await eventually(lambda: not s.server.engine.eio.sockets)
        assert s.notes.disconnects == ["transport error"]
        assert s.notes.refused in (["packet_type"], ["malformed"])
        assert client.ws.close_code == 1002


@pytest.mark.parametrize("packet", [*MISPLACED, "x", "4\x1e", "\x1e", "bnot base64", "d=40"])
async def test_a_packet_that_does_not_belong_there_closes_a_polling_session(packet: str) -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        await client.post(packet, "43", "5")
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["transport error"]
        assert (await client.post("3")) == 400
        assert not s.server.engine.eio.sockets


async def test_a_body_of_many_upgrades_queues_nothing() -> None:
    async with stage() as s, raw_polling(s.url) as client:
        [lane] = s.server.engine.lanes.values()
        assert await client.post(*["5"] * 30_000) == 400
        assert lane.queue.qsize() <= 2  # the end of the session


async def test_what_is_queued_for_a_client_that_never_polls_is_bounded() -> None:
    limit = 8192
    async with stage(send_queue_limit=limit) as s, raw_polling(s.url, connect()) as client:
        [lane] = s.server.engine.lanes.values()
        status = 200
        while status == 200:
            status = await client.post(*['420["status"]'] * 100)
            assert lane.backlog <= limit + 2000
        assert s.notes.disconnects == ["queue_full"]


@pytest.mark.slow
async def test_what_is_written_to_a_websocket_that_never_reads_is_bounded() -> None:
    async with stage(send_queue_limit=8192) as s:
        wire = await Wire(s.url).open()
        assert await wire.websocket() == 101
        wire.deaf()
        wire.writer.write(frame(connect()))
        requests = frame(b'420["auth",{"token":1}]') * 1000  # answered by python-socketio itself
        async with asyncio.timeout(20):
            while not s.notes.disconnects:
                wire.writer.write(requests)
                await asyncio.sleep(0.01)
                assert all(lane.backlog < 100_000 for lane in s.server.engine.lanes.values())
        assert s.notes.disconnects[0] in {"queue_full", "transport close"}
        wire.writer.transport.abort()


@pytest.mark.parametrize(
    ("packets", "what"),
    [
        ([f'45{ATTACHMENTS + 1}-["x"]'], "attachments"),
        (['45999999999-["x",{"_placeholder":true,"num":0}]'], "attachments"),
        (['452-["x"]', b"a" * 40_000, b"b" * 40_000], "attachments"),
        (['452-["x"]', '42["status"]'], "attachments"),
        (['451-["x",{"_placeholder":true,"num":7}]', b"a"], "malformed"),
        ([b"a"], "malformed"),
    ],
)
async def test_binary_attachments_are_limited_in_all(packets: list[str | bytes], what: str) -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        for packet in packets:
            await (client.ws.send_bytes(packet) if isinstance(packet, bytes) else client.ws.send_str(packet))
        await client.ended()
        assert s.notes.refused == [what]
        assert not s.server.engine._binary_packet


async def test_a_binary_acknowledgement_counts() -> None:
    async with stage(ack_timeout=60) as s, raw_socket(s.url, connect(acks=True)) as client:
        await client.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.until("421[")
        await client.ws.send_str('461-1[{"_placeholder":true,"num":0}]')
        await client.ws.send_bytes(b"thanks")
        await eventually(lambda: s.notes.settled_)
        assert s.notes.settled_[0].event.seq == 1
        await client.ws.send_str('461-7[{"_placeholder":true,"num":0}]')  # nobody's
        await client.ws.send_bytes(b"thanks")
        await client.send('420["status"]')
        await client.until("42")
        assert not s.notes.refused


async def test_acknowledgements_and_pongs_that_nobody_asked_for_come_to_an_end() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(*["3", "439[]"] * 600)
        await client.ended()
        assert s.notes.refused == ["unasked"]


async def test_one_websocket_at_a_time_may_claim_a_session() -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        url = f"{s.url}/socket.io/?EIO=4&transport=websocket&sid={client.sid}"
        async with client.session.ws_connect(url) as first:
            for _ in range(3):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await client.session.ws_connect(url)
                assert refused.value.status == 400
            await first.send_str("2probe")
            assert await first.receive_str() == "3probe"
            await first.send_str("5")
            await s.courier.publish(KEY, "link", CONNECTED)
            while not (await first.receive_str()).startswith("421["):
                pass
            assert [peer.transport for peer in s.registry.all()] == ["websocket"]
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.session.ws_connect(url)
        await eventually(lambda: s.notes.disconnects)


@pytest.mark.parametrize("said", [["3"], ["2probe", "3"], ["2probe"], ["431[]"], []])
async def test_polling_goes_on_after_a_failed_upgrade(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_socket, "UPGRADE_WITHIN", 0.3)
    async with stage(ack_timeout=60) as s, raw_polling(s.url, connect(acks=True)) as client:
        await client.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        url = f"{s.url}/socket.io/?EIO=4&transport=websocket&sid={client.sid}"
        async with client.session.ws_connect(url) as ws:
            for packet in said:
                await ws.send_str(packet)
            while (await ws.receive(timeout=5)).type is aiohttp.WSMsgType.TEXT:
                pass  # until the server gives it up
        assert not s.notes.settled_, "a websocket that proved nothing confirms nothing"
        await client.until("421[")
        assert await client.post("431[]") == 200
        await eventually(lambda: s.notes.settled_)
        assert [peer.transport for peer in s.registry.all()] == ["polling"]
        async with client.session.ws_connect(url) as again:  # and it may try again
            await again.send_str("2probe")
            assert await again.receive_str() == "3probe"


async def test_a_second_poll_or_post_at_a_time_ends_the_session() -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        [lane] = s.server.engine.lanes.values()
        waiting = asyncio.ensure_future(client.get())
        await eventually(lambda: lane._polling)
        assert (await client.get())[0] == 400
        assert (await waiting)[1][-1:] == ["1"]
        assert s.notes.disconnects == ["transport error"]


async def test_jsonp_is_not_served() -> None:
    async with stage() as s, aiohttp.ClientSession() as session:
        for query in ("&j=0", "&j=", "&j=x"):
            async with session.get(s.url + POLLING + query) as response:
                assert response.status == 400
                assert "JSONP" in await response.text()
        assert not s.server.engine.eio.sockets
        assert s.notes.refused == ["jsonp"] * 3


async def test_a_packet_over_the_limit_closes_its_websocket_with_the_reason() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.ws.send_str("42" + "x" * 70_000)
        await client.ended()
        assert client.ws.close_code == 1009
        await eventually(lambda: s.notes.disconnects)


async def test_a_body_over_the_limit_closes_its_session() -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        assert await client.post("42" + "x" * 70_000) == 400
        assert s.notes.disconnects == ["transport error"]


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


async def test_the_bystanders_of_a_refused_client_notice_nothing() -> None:
    async with stage() as s, py_client(s.url, acks=True) as bystander:
        for packet in ("5", "40/x,", "431", '45999-["x"]'):
            async with raw_socket(s.url, connect(bot="hostile"), packet) as client:
                await client.ended()
        await s.courier.publish(KEY, "link", CONNECTED)
        await bystander.count(1)
        assert len(s.registry) == 1


@pytest.mark.parametrize("end", ["write_eof", "close", "reset"])
@pytest.mark.parametrize("framing", ["Content-Length: 12", "Transfer-Encoding: chunked"])
async def test_a_body_that_is_cut_off_is_refused_as_a_whole(framing: str, end: str) -> None:
    """What came of it is a packet by itself: taken up, it would confirm what the client may never have said."""
    async with stage(ack_timeout=60) as s, raw_polling(s.url, connect(acks=True)) as client:
        await client.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.until("421[")
        [lane] = s.server.engine.lanes.values()
        wire = await Wire(s.url).open()
        head = f"POST {client.url.removeprefix(s.url)} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n"
        await wire.send(head.encode() + (b"5\r\n431[]\r\n" if "chunked" in framing else b"431[]"))
        await eventually(lambda: lane._posting)
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
        assert s.notes.disconnects == ["transport error"]
