"""A socket stays while its client answers, and is closed in time when it does not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from roundtrip.events import Degraded
from roundtrip.identity import BotKey
from tests.sockets.raw import connect, raw_polling, raw_socket
from tests.support.node_client import node_client
from tests.support.py_client import eventually, py_client
from tests.support.sockets import Stage, stage

KEY = BotKey("user", "bot")
INTERVAL, TIMEOUT = 0.4, 1.0
TRANSPORTS = (["websocket"], ["polling"], ["polling", "websocket"])


async def busy(s: Stage, bot: str, seconds: float) -> None:
    """Publish for a while, often enough that the client is never idle for an interval."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await s.courier.publish(BotKey("user", bot), "link", Degraded())
        await asyncio.sleep(INTERVAL / 4)


async def test_stock_clients_stay_connected_for_several_rounds_of_the_heartbeat() -> None:
    """On each transport, idle and busy; fifty rounds of a whole program are in tests/protocol/test_endurance.py."""
    async with stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s, AsyncExitStack() as stack:
        clients = []
        for number, transports in enumerate(TRANSPORTS):
            for kind in ("idle", "busy"):
                auth = {"userId": "user", "botId": f"{kind}{number}", "acks": True}
                clients.append(await stack.enter_async_context(node_client(s.url, auth, transports=transports)))
        await stack.enter_async_context(py_client(s.url, bot="idle-python"))
        for client in clients:
            await client.heard("status")
        peers = {peer.sid for peer in s.registry.all()}
        await asyncio.gather(*(busy(s, f"busy{number}", 4 * (INTERVAL + TIMEOUT)) for number in range(len(TRANSPORTS))))
        assert s.notes.disconnects == []
        assert {peer.sid for peer in s.registry.all()} == peers
        for client in clients:
            assert not [line for line in client.said if line["on"] == "disconnect"]


async def test_a_websocket_whose_client_stops_answering_is_closed_in_time() -> None:
    async with (
        stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s,
        raw_socket(s.url, connect()) as client,
    ):
        started = time.monotonic()
        await client.until("2")
        rest = await client.ended()
        assert INTERVAL + TIMEOUT - 0.2 <= time.monotonic() - started < INTERVAL + TIMEOUT + 1.5
        assert rest[-1] == "1"
        assert client.ws.close_code == 1000
        assert s.notes.disconnects == ["ping timeout"]


async def test_a_polling_client_that_stops_answering_is_closed_in_time() -> None:
    async with (
        stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s,
        raw_polling(s.url, connect()) as client,
    ):
        await client.until("2")
        assert await client.until("1", within=TIMEOUT + 1.5) == "1"
        assert s.notes.disconnects == ["ping timeout"]
        assert (await client.get())[0] == 400


async def test_a_polling_client_that_vanishes_is_closed_in_time() -> None:
    async with stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s:
        async with raw_polling(s.url, connect()):
            await eventually(lambda: s.registry.all())
        await eventually(lambda: s.notes.disconnects, within=INTERVAL + TIMEOUT + 2)
        assert s.notes.disconnects == ["ping timeout"]
        assert not s.server.engine.eio.sockets


async def test_the_heartbeat_does_not_look_at_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day back would keep those who vanished, a day forwards would close those who live."""
    async with (
        stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s,
        py_client(s.url),
        raw_polling(s.url, connect(bot="vanished")),
    ):
        await eventually(lambda: len(s.registry) == 2)
        real = time.time
        for step in (86_400.0, -86_400.0):
            monkeypatch.setattr(time, "time", lambda step=step: real() + step)
            await asyncio.sleep(INTERVAL)
        await eventually(lambda: s.notes.disconnects, within=INTERVAL + TIMEOUT + 2)
        assert s.notes.disconnects == ["ping timeout"]
        assert [peer.key for peer in s.registry.all()] == [KEY]


async def test_a_client_whose_answer_waits_while_the_process_slept_is_not_closed() -> None:
    """After a suspend the deadline is due before the PONG is read, which has waited in the kernel all the time."""
    async with (
        stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s,
        raw_socket(s.url, connect()) as client,
        raw_polling(s.url, connect(bot="polling")) as polling,
    ):
        await asyncio.gather(client.until("2"), polling.until("2"))
        writing = [asyncio.ensure_future(client.send("3")), asyncio.ensure_future(polling.post("3"))]
        for _ in range(3):
            await asyncio.sleep(0)  # both are on their way, and nothing was read yet
        sleep_without_the_loop(TIMEOUT + INTERVAL)
        await asyncio.gather(*writing)
        await asyncio.gather(client.until("2"), polling.until("2"))
        assert s.notes.disconnects == []


def sleep_without_the_loop(seconds: float) -> None:
    """What SIGSTOP and SIGCONT do to a process, as seen from inside."""
    time.sleep(seconds)


async def test_a_silent_client_is_closed_after_a_suspend_as_well() -> None:
    async with (
        stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s,
        raw_socket(s.url, connect()) as client,
    ):
        await client.until("2")
        sleep_without_the_loop(TIMEOUT + INTERVAL)
        await client.ended()
        assert s.notes.disconnects == ["ping timeout"]


async def test_a_stopped_stock_client_is_closed_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    auth: dict[str, Any] = {"userId": "user", "botId": "bot"}
    async with stage(ping_interval=INTERVAL, ping_timeout=TIMEOUT) as s, node_client(s.url, auth) as client:
        await client.heard("upgrade")
        os.kill(client.process.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: s.notes.disconnects, within=INTERVAL + TIMEOUT + 2)
        finally:
            os.kill(client.process.pid, signal.SIGCONT)
        assert s.notes.disconnects == ["ping timeout"]
        await client.heard("connect", 2)
