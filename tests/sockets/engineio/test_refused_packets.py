"""What python-engineio and python-socketio would accept: each packet where it does not belong closes its connection."""

from __future__ import annotations

import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from tests.sockets.raw import connect, raw_handshake, raw_polling, raw_socket
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage

MISPLACED = ["0", '0{"sid":"x"}', "2", "2probe", "5", "6", "7", "9"]
"""Packets that only a server sends, or only an upgrade has, or nobody."""
KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


@pytest.mark.parametrize("packet", MISPLACED)
async def test_a_misplaced_packet_closes_a_websocket(packet: str) -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(packet)
        await client.ended()
        await eventually(lambda: not s.server.engine.eio.sockets)
        assert s.notes.disconnects == ["protocol_error"]
        assert s.notes.refused in (["packet_type"], ["malformed"])
        assert client.ws.close_code == 1002


@pytest.mark.parametrize("packet", [*MISPLACED, "x", "4\x1e", "\x1e", "bnot base64", "d=40"])
async def test_a_misplaced_packet_closes_a_polling_session(packet: str) -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        await client.post(packet, "43", "5")
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["protocol_error"]
        assert (await client.post("3")) == 400
        assert not s.server.engine.eio.sockets


async def test_a_body_of_many_upgrades_queues_nothing() -> None:
    async with stage() as s, raw_polling(s.url) as client:
        [connection] = s.server.engine.connections.values()
        assert await client.post(*["5"] * 30_000) == 400
        assert connection.queue.qsize() <= 2  # the end of the session


async def test_a_thousand_unsolicited_acknowledgements_and_pongs_close_a_client() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(*["3", "439[]"] * 600)
        await client.ended()
        assert s.notes.refused == ["unasked"]


async def test_a_packet_over_the_limit_closes_its_websocket_with_the_reason() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.ws.send_str("42" + "x" * 70_000)
        await client.ended()
        assert client.ws.close_code == 1009
        await eventually(lambda: s.notes.disconnects)
        assert (s.notes.disconnects, s.notes.refused) == (["protocol_error"], ["too large"])


async def test_the_bystanders_of_a_refused_client_notice_nothing() -> None:
    async with stage() as s, py_client(s.url, acks=True) as bystander:
        for packet in ("5", "40/x,", "431", '45999-["x"]'):
            async with raw_socket(s.url, connect(bot="hostile"), packet) as client:
                await client.ended()
        await s.courier.publish(KEY, "link", CONNECTED)
        await bystander.count(1)
        assert len(s.registry) == 1


async def test_binary_and_broken_packets_close_their_own_socket_only() -> None:
    async with stage() as s, py_client(s.url) as bystander:
        for packet in (b"\x04abc", "451-[{}]", "42[", "42{}", "4", "49", '42["status"', "461-1[]", "42" + "[" * 5000):
            session, ws, _ = await raw_handshake(s, {"userId": "hostile", "botId": "bot"})
            async with session:
                if isinstance(packet, bytes):
                    await ws.send_bytes(packet)
                else:
                    await ws.send_str(packet)
                await ws.close()
        await s.courier.publish(KEY, "link", CONNECTED)
        await bystander.count(1)
        await eventually(lambda: len(s.registry) == 1)
