"""python-socketio's own traps, each sprung on purpose: none of them can hurt here."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey, Principal, parse_user_id
from roundtrip.outbox.records import MissReason, Outcome
from roundtrip.sockets.handshake import Handshake
from tests.support import sockets as support
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"
CONNECT = '40{"userId":"user","botId":"bot","acks":true}'


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


async def test_a_client_that_leaves_during_a_slow_handshake_leaves_no_ghost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow connect handler runs in the read loop; the socket could stay mapped for ever, without a disconnect."""
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(shake: Handshake) -> Principal:
        asked.set()
        await go_on.wait()
        return Principal(parse_user_id(shake.user_id))

    monkeypatch.setattr(support, "trusted", slow)
    async with stage(ping_interval=1, ping_timeout=1) as s:
        async with aiohttp.ClientSession() as session, session.ws_connect(s.url + WEBSOCKET) as ws:
            await ws.receive_str()
            await ws.send_str(CONNECT)
            await asked.wait()
        go_on.set()
        await eventually(lambda: not s.server.engine.eio.sockets, within=6)
        assert len(s.registry) == 0
        event = await s.courier.publish(KEY, "link", CONNECTED)
        assert [attempt.reason for attempt in s.notes.missed_][-1] in {
            MissReason.NEVER_CONNECTED,
            MissReason.JUST_DISCONNECTED,
        }
        assert (await s.outbox.find(event.id)).outcome is Outcome.PENDING


async def test_a_handshake_that_is_never_decided_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_shake: Handshake) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(support, "trusted", never)
    monkeypatch.setattr("roundtrip.sockets.server.CONNECT_TIMEOUT", 0.1)
    async with stage() as s, aiohttp.ClientSession() as session, session.ws_connect(s.url + WEBSOCKET) as ws:
        await ws.receive_str()
        await ws.send_str(CONNECT)
        answer = await ws.receive_str(timeout=5)
        assert answer.startswith("44")
        assert '"code":"unavailable"' in answer


async def test_an_event_that_comes_while_a_socket_disconnects_stays_pending() -> None:
    """In python-socketio the sid is still in its rooms then: the emit is queued, and vanishes."""
    async with stage() as s:
        events: list[Any] = []

        async def publish_in_the_window(*_: object) -> None:
            events.append(await s.courier.publish(KEY, "link", CONNECTED))

        s.server.engine.on("disconnect", publish_in_the_window)
        async with py_client(s.url, acks=True):
            pass
        await eventually(lambda: events)
        assert [attempt.reason for attempt in s.notes.missed_] == [MissReason.JUST_DISCONNECTED]
        async with py_client(s.url, acks=True) as client:
            [event] = await client.count(1)
            assert (event["id"], event["replayed"]) == (events[0].id, True)


async def test_no_callback_is_left_behind_by_clients_that_never_acknowledge() -> None:
    async with stage(ack_timeout=60) as s:
        for _ in range(5):
            async with py_client(s.url, acking=False, acks=True) as client:
                await s.courier.publish(KEY, "link", CONNECTED)
                await client.count(1)
        await eventually(lambda: len(s.registry) == 0)
        assert s.courier.in_flight() == 0
        assert not s.server.engine.manager.callbacks
        assert s.outbox.totals().pending == {5: 5}


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
        async with asyncio.timeout(3):
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
        async with asyncio.timeout(3), session.post(url, data="6") as response:
            assert response.status in {200, 400}
        await eventually(lambda: len(s.registry) == 0)


async def test_a_drained_polling_client_is_told() -> None:
    async with stage() as s, aiohttp.ClientSession() as session:
        url = await polling(s, session)
        waiting = asyncio.ensure_future(session.get(url))
        await asyncio.sleep(0.05)
        await s.server.drain(0.0)
        async with asyncio.timeout(3), await waiting as response:
            assert await response.text() == "1"
