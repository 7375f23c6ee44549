"""A client behind a line of ten kilobytes a second, over TCP with its real buffers: it gets all, at its own pace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.support.memory_client import MemoryClient
from tests.support.py_client import eventually
from tests.support.sockets import Stage, stage

pytestmark = [pytest.mark.slow, pytest.mark.waits]

KEY: Final = BotKey("user", "bot")
CONNECTED: Final = Connected("+15550100", "Ada", True)
RATE: Final = 10_000
"""Bytes a second."""

LIMIT: Final = 16_384
"""Bytes that may wait for one client; a replay leaves half."""

SMALL: Final = 2_048
"""Bytes that the kernel is asked to keep, so that what waits is seen where it is counted."""

EVENT: Final = 600
"""More bytes than one event takes on the wire."""


class SlowLine:
    """The client's end of a TCP connection that lets so much through and no more."""

    def __init__(self, port: int, deliver: Callable[[bytes], None], gone: Callable[[], None]) -> None:
        self._deliver = deliver
        self._gone = gone
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while data := await loop.sock_recv(self._socket, RATE // 20):
                self._deliver(data)
                await asyncio.sleep(0.05)
        self._gone()

    def said(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self._socket.send(data)

    def reads(self, yes: bool) -> None:
        raise NotImplementedError

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._task.cancel()
        self._socket.close()


@asynccontextmanager
async def slow_stage(folder: Path) -> AsyncIterator[tuple[Stage, Callable[[], MemoryClient]]]:
    """The parts over the real outbox, and what connects a slow client to them."""
    outbox = SqliteOutbox(folder)
    await outbox.start()
    async with stage(outbox, send_queue_limit=LIMIT, ack_timeout=60.0) as s:
        app = web.Application()
        s.server.attach(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        await web.SockSite(runner, listener).start()
        port = listener.getsockname()[1]
        clients: list[MemoryClient] = []

        def connect() -> MemoryClient:
            client = MemoryClient(
                lambda deliver, gone: SlowLine(port, deliver, gone),
                {"userId": KEY.user_id, "botId": KEY.bot_id, "acks": True},
            )
            clients.append(client)
            return client

        try:
            yield s, connect
        finally:
            for client in clients:
                client.reset()
            await runner.cleanup()
    await outbox.close()


async def publish(s: Stage, count: int) -> None:
    await asyncio.gather(*(s.courier.publish(KEY, "link", CONNECTED) for _ in range(count)))


async def test_a_replay_goes_as_fast_as_its_reader(tmp_path: Path) -> None:
    missed, more = 80, 10
    async with slow_stage(tmp_path) as (s, connect):
        await publish(s, missed)
        client = connect()
        await eventually(lambda: s.registry.of(KEY))
        (peer,) = s.registry.of(KEY)
        largest = 0
        published = False
        async with asyncio.timeout(30):
            while len(client.events) < missed + more:
                if not peer.live:
                    largest = max(largest, peer.backlog)
                if not published and len(client.events) > missed // 4:
                    assert not peer.live, "the replay ran ahead of its reader"
                    await publish(s, more)
                    published = True
                await asyncio.sleep(0.01)
        assert client.seqs == list(range(1, missed + more + 1))
        assert LIMIT // 2 - EVENT < largest <= LIMIT // 2 + EVENT, "it leaves its share unread, and no more"
        assert s.notes.disconnects == []
        await eventually(lambda: len(s.notes.settled_) == missed + more)
        assert {delivery.outcome for delivery in s.notes.settled_} == {Outcome.ACKED}


async def test_a_flood_ends_a_slow_connection_and_the_next_one_gets_the_rest(tmp_path: Path) -> None:
    """Live events do not wait for anybody: past the bound the client is closed, and nothing is lost by it."""
    count = 120
    async with slow_stage(tmp_path) as (s, connect):
        first = connect()
        await eventually(lambda: any(peer.live for peer in s.registry.of(KEY)))
        await publish(s, count)
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["queue_full"]
        await eventually(lambda: first.closed, within=10)
        assert len(first.events) * 300 < LIMIT + 16 * SMALL, "what waited for it had no bound"
        pending = await s.outbox.pending(KEY, 0, count)
        assert MissReason.QUEUE_FULL in {a.reason for event in pending for a in event.attempts}
        second = connect()
        async with asyncio.timeout(30):
            while await s.outbox.pending(KEY, 0, 1):
                await asyncio.sleep(0.05)
        assert second.seqs == [event.seq for event in pending]
        assert {entry.outcome for entry in await s.outbox.ledger(KEY, 0, count)} == {Outcome.ACKED}
