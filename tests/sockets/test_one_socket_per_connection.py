"""One connection carries one socket in its life, and is replayed to once."""

from __future__ import annotations

import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from tests.sockets.raw import connect, raw_polling, raw_socket
from tests.support.node_client import node_client
from tests.support.py_client import eventually
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


async def test_leaving_the_namespace_disconnects_and_confirms_nothing_any_more() -> None:
    async with stage(ack_timeout=0.3) as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send("41")
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["client disconnect"]
        assert len(s.registry) == 0
        event = await s.courier.publish(KEY, "link", CONNECTED)
        await client.send("3", "3", "431[]")
        assert [attempt.reason for attempt in s.notes.missed_] == [MissReason.JUST_DISCONNECTED]
        assert not [packet for packet in await client.ended() if packet.startswith("42")]
        assert (await s.outbox.find(event.id)).outcome is Outcome.PENDING


async def test_a_connection_cannot_reconnect_under_another_key() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send("41", connect(bot="other"))
        rest = await client.ended()
        assert not [packet for packet in rest if packet.startswith(("40", "44", "42"))]
        assert s.notes.connects == ["accepted"]
        await eventually(lambda: not s.server.engine.eio.sockets and not s.server.engine.connections)
        assert len(s.registry) == 0
        assert not s.server._peers


@pytest.mark.parametrize("first", [connect(), '40{"userId":"user"}'], ids=["accepted", "refused"])
async def test_a_second_connect_closes_the_connection(first: str) -> None:
    async with stage() as s, raw_socket(s.url, first) as client:
        await client.until("4")
        await client.send(connect(bot="other"))
        rest = await client.ended()
        assert not [packet for packet in rest if packet.startswith(("40", "44"))]
        assert s.notes.refused == ["second_connect"]
        assert len(s.notes.connects) == 1
        await eventually(lambda: len(s.registry) == 0)


@pytest.mark.parametrize("packet", ["40/z,", "40/" + "a" * 60_000 + ",", "41/z", '42/z,["status"]', "43/z,1[]", "40/z"])
async def test_another_namespace_closes_the_connection_without_an_echo(packet: str) -> None:
    async with stage() as s:
        for _ in range(3):
            await s.courier.publish(KEY, "link", CONNECTED)
        async with raw_socket(s.url, connect(acks=True)) as client:
            await client.until("423[")
            await client.send(packet)
            assert [it for it in await client.ended() if it not in {"1", "2"}] == []
        assert s.notes.refused == ["namespace"]
        assert s.notes.replays == [3]


async def test_a_refused_connect_replays_nothing() -> None:
    async with stage() as s:
        await s.courier.publish(KEY, "link", CONNECTED)
        async with raw_socket(s.url, '40{"userId":"user"}') as client:
            assert "bot_id_missing" in await client.until("44")
        async with raw_polling(s.url, connect(), connect()) as polling:
            await eventually(lambda: s.notes.refused)
            del polling
        await eventually(lambda: len(s.registry) == 0)
        await eventually(lambda: len(s.notes.replays) == 1)


async def test_a_hundred_disconnects_and_reconnects_leave_nothing_mapped() -> None:
    async with stage() as s:
        for number in range(100):
            async with raw_socket(s.url, connect(), "41", connect(bot=str(number))) as client:
                await client.ended()
        await eventually(lambda: len(s.registry) == 0)
        assert s.registry.view().totals.mapped_keys == 0
        assert not s.server._peers


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]])
async def test_the_stock_client_disconnects_and_connects_again(transports: list[str]) -> None:
    auth = {"userId": "user", "botId": "bot", "acks": True}
    async with stage() as s, node_client(s.url, auth, transports=transports) as client:
        for round_ in range(1, 4):
            await client.heard("status", round_)
            await s.courier.publish(KEY, "link", CONNECTED)
            await client.heard("event", round_)
            await eventually(lambda round_=round_: len(s.notes.settled_) == round_)  # type: ignore[misc]  # bound at once
            await client.do(do="disconnect")
            await client.heard("disconnect", round_)
            await client.do(do="connect")
        await client.heard("status", 4)
        await eventually(lambda: len(s.notes.disconnects) == 3 and len(s.registry) == 1)
        assert [event["seq"] for event in client.events] == [1, 2, 3]
        assert set(s.notes.disconnects) <= {"client disconnect", "transport close"}
        assert not [line for line in client.said if line["on"] == "connect_error"]
        assert not s.notes.refused
