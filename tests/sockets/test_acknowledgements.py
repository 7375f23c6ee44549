"""Which acknowledgements of real clients count, and which close their socket."""

from __future__ import annotations

import aiohttp
import pytest

from roundtrip.backoff import Backoff
from roundtrip.events import Connected, Degraded
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from tests.sockets.raw import connect, raw_handshake, raw_socket
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)
CONNECT = '40{"userId":"user","botId":"bot","acks":true}'
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"


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
        session, ws, _ = await raw_handshake(s, {"userId": "user", "botId": "bot", "acks": True})
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
        session, ws, _ = await raw_handshake(s, {"userId": "user", "botId": "bot", "acks": True})
        async with session:
            await s.courier.publish(KEY, "link", CONNECTED)
            while not (await ws.receive_str()).startswith("421["):
                pass
            await ws.send_str(ack)
            await eventually(lambda: s.notes.disconnects)
            assert s.notes.disconnects == ["protocol_error"]
            assert not s.notes.settled_
            await ws.close()


async def test_an_acknowledgement_counts_only_for_a_socket_that_holds_the_event() -> None:
    async with (
        stage(ack_timeout=60) as s,
        raw_socket(s.url, connect(acks=True)) as holder,
    ):
        await holder.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        await holder.until("421[")
        async with raw_socket(s.url, connect(acks=True), "431[]", "432[]") as guesser:
            # before its replay reached it, and for a number that is nobody's yet
            await guesser.until("421[")
            assert not s.notes.settled_
            await s.courier.publish(KEY, "link", CONNECTED)
            await guesser.until("422[")
            await guesser.send("432[]")
            await eventually(lambda: s.notes.settled_)
            assert [delivery.event.seq for delivery in s.notes.settled_] == [2]
        await holder.send("431[]")
        await eventually(lambda: len(s.notes.settled_) == 2)


async def test_an_acknowledgement_raises_no_receipt_of_an_event_that_another_socket_had() -> None:
    async with stage() as s, py_client(s.url, acking=False) as first:
        await s.courier.publish(KEY, "link", Degraded())
        await first.count(1)
        await eventually(lambda: s.notes.settled_)
        async with raw_socket(s.url, connect()) as second:
            await second.until("42")
            await second.send("431[]", '420["status"]')
            await second.until("42")
            assert s.notes.upgrades == 0
        await first.io._send_packet(first.io.packet_class(3, id=1, data=[]))
        await eventually(lambda: s.notes.upgrades)


async def test_ack_id_zero_breaks_no_later_ack() -> None:
    """In python-socketio, `30[]` deletes the socket's ack counter, and the next callback emit raises KeyError."""
    async with stage() as s, aiohttp.ClientSession() as session, session.ws_connect(s.url + WEBSOCKET) as ws:
        await ws.receive_str()
        await ws.send_str(CONNECT)
        await eventually(lambda: any(peer.live for peer in s.registry.all()))
        await ws.send_str("430[]")
        for number in (1, 2, 3):
            await s.courier.publish(KEY, "link", CONNECTED)
            await ws.send_str(f"43{number}[]")
        await eventually(lambda: len(s.notes.settled_) == 3)
        assert {delivery.outcome for delivery in s.notes.settled_} == {Outcome.ACKED}
