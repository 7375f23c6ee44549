"""The socket server with stock clients: handshakes, refusals, limits, slow and dead clients, hostile packets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import aiohttp
import pytest
from yarl import URL

from roundtrip.backoff import Backoff
from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from tests.support.node_client import node_client
from tests.support.py_client import eventually, py_client
from tests.support.sockets import Stage, stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


async def raw(
    s: Stage, auth: Any, query: str = ""
) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse, str]:
    """A websocket that speaks the protocol by hand; returns it with the answer to its CONNECT."""
    session = aiohttp.ClientSession()
    ws = await session.ws_connect(URL(f"{s.url}/socket.io/?EIO=4&transport=websocket&{query}", encoded=True))
    await ws.receive_str()
    await ws.send_str("40" + ("" if auth is None else json.dumps(auth)))
    return session, ws, await ws.receive_str()


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({"userId": "user"}, "bot_id_missing"),
        ({"userId": "user", "botId": ""}, "bot_id_missing"),
        ({"userId": "user", "botId": "x" * 10_240}, "bot_id_invalid"),
        ({"userId": "user", "botId": 7}, "bot_id_invalid"),
        ({"userId": "user", "botId": {"a": 1}}, "bot_id_invalid"),
        ({"userId": "user", "botId": "a\nb"}, "bot_id_invalid"),
        ({"userId": ["user"], "botId": "bot"}, "user_id_invalid"),
        ({"botId": "bot"}, "user_id_invalid"),
        ("not an object", "user_id_invalid"),
        (None, "user_id_invalid"),
    ],
)
async def test_a_bad_handshake_is_refused_with_its_code(auth: Any, code: str) -> None:
    async with stage() as s:
        session, ws, answer = await raw(s, auth)
        async with session:
            assert answer.startswith("44"), answer
            refusal = json.loads(answer[2:])
            assert refusal["data"] == {"code": code}
            assert refusal["message"].endswith(".")
            await ws.close()
        assert s.notes.connects == [code]
        assert len(s.registry) == 0


@pytest.mark.parametrize(
    ("query", "code"),
    [("userId=user&botId=%FF", "bot_id_invalid"), ("userId=%C3%28&botId=bot", "user_id_invalid")],
)
async def test_an_id_in_the_query_that_does_not_decode_is_refused(query: str, code: str) -> None:
    async with stage() as s:
        session, ws, answer = await raw(s, None, query)
        async with session:
            assert json.loads(answer.removeprefix("44"))["data"] == {"code": code}
            await ws.close()


async def test_the_stock_client_sees_a_refusal_as_connect_error() -> None:
    async with stage() as s, node_client(s.url, {"userId": "user"}, reconnection=False) as client:
        [error] = await client.heard("connect_error")
        assert error["data"] == {"code": "bot_id_missing"}
        assert "botId" in error["message"]


async def test_the_older_frontend_names_its_ids_in_the_query() -> None:
    async with stage() as s, node_client(s.url, query={"userId": "user", "botId": "bot"}) as client:
        await client.heard("status")
        assert [peer.key for peer in s.registry.all()] == [KEY]


async def test_a_key_holds_as_many_sockets_as_the_setting_says() -> None:
    async with stage(max_sockets_per_key=2) as s, py_client(s.url), py_client(s.url):
        session, ws, answer = await raw(s, {"userId": "user", "botId": "bot"})
        async with session:
            assert json.loads(answer[2:])["data"] == {"code": "too_many_sockets"}
            await ws.close()
        await s.courier.publish(KEY, "link", CONNECTED)
        await eventually(lambda: s.notes.settled_)
        assert s.notes.settled_[0].sockets == 2


async def test_the_snapshot_comes_at_connect_and_on_request() -> None:
    async with stage() as s, py_client(s.url) as client:
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.count(1)
        await client.io.emit("status")
        await client.until(lambda: len(client.snapshots) == 2)
        assert [snapshot["seq"] for snapshot in client.snapshots] == [0, 1]


async def test_a_client_that_declares_acks_is_held_to_it() -> None:
    async with (
        stage(ack_timeout=0.2, backoff=Backoff(0.1, 0.2)) as s,
        py_client(s.url, acking=False, acks=True) as client,
    ):
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.count(3)
        assert [event["attempt"] for event in client.events[:3]] == [1, 2, 3]
        assert len({event["id"] for event in client.events}) == 1
        assert {attempt.reason for attempt in s.notes.missed_} == {MissReason.ACK_TIMEOUT}
        assert all(attempt.receipt_at for attempt in s.notes.missed_), "the transport had it"
        await client.io._send_packet(client.io.packet_class(3, id=1, data=[]))  # the late ACK
        await eventually(lambda: s.notes.settled_)
        assert s.notes.settled_[0].outcome is Outcome.ACKED


async def test_a_late_ack_raises_the_grade_of_a_receipt() -> None:
    async with stage() as s, py_client(s.url, acking=False) as client:
        event = await s.courier.publish(KEY, "link", CONNECTED)
        await eventually(lambda: s.notes.settled_)
        assert s.notes.settled_[0].outcome is Outcome.RECEIVED
        await client.io._send_packet(client.io.packet_class(3, id=1, data=[]))
        await eventually(lambda: s.notes.upgrades)
        assert (await s.outbox.find(event.id)).outcome is Outcome.ACKED


async def test_unknown_and_repeated_acks_do_no_harm() -> None:
    async with stage() as s:
        session, ws, _ = await raw(s, {"userId": "user", "botId": "bot", "acks": True})
        async with session:
            assert (await ws.receive_str()).startswith("42")  # the snapshot
            for ack in ("430[]", "431[]", "43999999999999999[]", "43[]", '431["argument"]'):
                await ws.send_str(ack)
            await s.courier.publish(KEY, "link", CONNECTED)
            frame = await ws.receive_str()
            assert frame.startswith("421[")
            await ws.send_str("431[]")
            await ws.send_str("431[]")
            await eventually(lambda: s.notes.settled_)
            await s.courier.publish(KEY, "link", CONNECTED)
            while not (frame := await ws.receive_str()).startswith("422["):
                assert frame == "2", "nothing but PINGs comes between"
            assert len(s.notes.settled_) == 1
            await ws.close()


@pytest.mark.parametrize("ack", ["43-1[]", "43²[]", "431", "431{}", "431[", "431[}", '431"[]"', "431[]]", "43[1"])
async def test_an_ack_that_is_no_array_closes_its_socket(ack: str) -> None:
    async with stage() as s:
        session, ws, _ = await raw(s, {"userId": "user", "botId": "bot", "acks": True})
        async with session:
            await s.courier.publish(KEY, "link", CONNECTED)
            while not (await ws.receive_str()).startswith("421["):
                pass
            await ws.send_str(ack)
            await eventually(lambda: s.notes.disconnects)
            assert s.notes.disconnects == ["transport error"]
            assert not s.notes.settled_
            await ws.close()


async def test_binary_and_broken_packets_close_their_own_socket_only() -> None:
    async with stage() as s, py_client(s.url) as bystander:
        for packet in (b"\x04abc", "451-[{}]", "42[", "42{}", "4", "49", '42["status"', "461-1[]", "42" + "[" * 5000):
            session, ws, _ = await raw(s, {"userId": "hostile", "botId": "bot"})
            async with session:
                if isinstance(packet, bytes):
                    await ws.send_bytes(packet)
                else:
                    await ws.send_str(packet)
                await ws.close()
        await s.courier.publish(KEY, "link", CONNECTED)
        await bystander.count(1)
        await eventually(lambda: len(s.registry) == 1)


async def test_a_client_that_stops_reading_is_closed_and_loses_nothing() -> None:
    """Its socket's queue is bounded; the events stay pending and come when it is back."""
    auth = {"userId": "user", "botId": "bot", "acks": True}
    async with stage(send_queue_limit=64 * 1024, ack_timeout=30) as s, node_client(s.url, auth) as client:
        await client.heard("status")
        await eventually(lambda: s.registry.all()[0].transport == "websocket")
        os.kill(client.process.pid, signal.SIGSTOP)
        try:
            long = Connected("+15550100", "Ada" * 2000, True)
            sent = 0
            async with asyncio.timeout(30):
                while len(s.registry):
                    await s.courier.publish(KEY, "link", long)
                    sent += 1
        finally:
            os.kill(client.process.pid, signal.SIGCONT)
        await eventually(lambda: "queue_full" in s.notes.disconnects)
        assert MissReason.QUEUE_FULL in {attempt.reason for attempt in s.notes.missed_}
        await client.wait(lambda c: {event["seq"] for event in c.events} >= set(range(1, sent + 1)), within=20)
        await eventually(lambda: not s.outbox.totals().pending)


async def test_a_half_open_socket_is_noticed_and_its_event_stays() -> None:
    async with stage(ping_interval=1, ping_timeout=1, ack_timeout=0.5) as s:
        session, ws, _ = await raw(s, {"userId": "user", "botId": "bot"})
        await ws.receive_str()
        await s.courier.publish(KEY, "link", CONNECTED)  # no PONG ever comes
        await eventually(lambda: s.notes.disconnects, within=6)
        assert s.notes.disconnects == ["ping timeout"]
        assert [attempt.reason for attempt in s.notes.missed_] == [MissReason.ACK_TIMEOUT]
        await session.close()
        async with py_client(s.url) as client:
            await client.count(1)


async def test_early_disconnects_are_played_on_request() -> None:
    async with stage() as s:
        s.faults.early_disconnect = 20.0
        async with py_client(s.url):
            await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["server disconnect"]


async def test_a_drain_closes_everybody_and_refuses_newcomers() -> None:
    async with stage() as s, node_client(s.url, {"userId": "user", "botId": "bot"}) as client:
        await client.heard("status")
        await s.server.drain(0.2)
        await client.heard("disconnect")
        [error, *_] = await client.heard("connect_error")
        assert error["data"] == {"code": "unavailable"}
        assert len(s.registry) == 0
