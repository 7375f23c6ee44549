"""Each disconnect has its reason and its lifetime, leaves nothing mapped, and loses no event."""

from __future__ import annotations

import asyncio
from typing import Any

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from tests.sockets.raw import connect, raw_handshake, raw_polling, raw_socket
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage
from tests.support.stepped_clock import SteppedClock

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


async def test_each_kind_of_close_has_its_reason() -> None:
    async with stage() as s:
        async with raw_socket(s.url, connect()) as it:  # a websocket that goes
            await it.until("42")
            await it.ws.close()
        await eventually(lambda: len(s.notes.disconnects) == 1)
        async with raw_socket(s.url, connect()) as it:  # a TCP connection that is cut
            await it.until("42")
            transport = it.ws.get_extra_info("socket")
            assert transport is not None
            it.ws._response.connection.transport.abort()  # type: ignore[union-attr]  # it has one while it is open
        await eventually(lambda: len(s.notes.disconnects) == 2)
        async with raw_socket(s.url, connect(), "1") as it:  # a client that closes its engine
            await it.ended()
        async with raw_socket(s.url, connect(), "41") as it:  # and one that leaves the namespace
            await it.ended()
        async with raw_polling(s.url, connect(), "1"):
            await eventually(lambda: len(s.notes.disconnects) == 5)
        async with raw_socket(s.url, connect(), "5") as it:
            await it.ended()
        await eventually(lambda: len(s.notes.disconnects) == 6)
        assert s.notes.disconnects == [
            "transport close",
            "transport close",
            "client disconnect",
            "client disconnect",
            "client disconnect",
            "protocol_error",
        ]


async def test_the_lifetime_of_a_socket_is_reported_with_its_reason() -> None:
    clock = SteppedClock()
    async with stage(clock=clock) as s:
        async with py_client(s.url):
            await eventually(lambda: any(peer.live for peer in s.registry.all()))
            clock.advance(12.5)
            clock.step(-86_400.0)
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.lifetimes == [12.5]


async def test_a_half_open_socket_is_noticed_and_its_event_stays() -> None:
    async with stage(ping_interval=1, ping_timeout=1, ack_timeout=0.5) as s:
        session, ws, _ = await raw_handshake(s, {"userId": "user", "botId": "bot"})
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


async def test_an_event_during_a_disconnect_goes_to_nobody() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        (peer,) = s.registry.all()
        leaving = asyncio.ensure_future(peer.connection.end("server disconnect"))
        await leaving
        await s.courier.publish(KEY, "link", CONNECTED)
        assert [attempt.reason for attempt in s.notes.missed_] == [MissReason.JUST_DISCONNECTED]
