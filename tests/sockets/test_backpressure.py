"""What waits for a client that does not read or poll is bounded, and its events are not lost."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from tests.sockets.raw import connect, raw_polling
from tests.support.node_client import node_client
from tests.support.py_client import eventually
from tests.support.sockets import stage
from tests.support.wire import Wire, frame

KEY = BotKey("user", "bot")


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


async def test_what_is_queued_for_a_client_that_never_polls_is_bounded() -> None:
    limit = 8192
    async with stage(send_queue_limit=limit) as s, raw_polling(s.url, connect()) as client:
        [connection] = s.server.engine.connections.values()
        status = 200
        while status == 200:
            status = await client.post(*['420["status"]'] * 100)
            assert connection.backlog <= limit + 2000
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
                assert all(connection.backlog < 100_000 for connection in s.server.engine.connections.values())
        assert s.notes.disconnects[0] in {"queue_full", "transport close"}
        wire.writer.transport.abort()
