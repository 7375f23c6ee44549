"""A drain closes sockets in batches and refuses new ones; a stop ends what still runs."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.sockets.raw import connect, raw_socket
from tests.support.node_client import node_client
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage


async def test_a_drain_closes_everybody_and_refuses_newcomers() -> None:
    async with stage() as s, node_client(s.url, {"userId": "user", "botId": "bot"}) as client:
        await client.heard("status")
        await s.server.drain(0.2)
        await client.heard("disconnect")
        [error, *_] = await client.heard("connect_error")
        assert error["data"] == {"code": "unavailable"}
        assert len(s.registry) == 0


async def test_a_drain_tells_websockets_that_the_server_goes_away() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as joined, raw_socket(s.url) as idle:
        await joined.until("42")
        await s.server.drain(0.0)
        assert (await joined.ended())[-1:] == ["1"]
        assert joined.ws.close_code == 1001
        await s.server.close()
        await idle.ended()
        assert idle.ws.close_code == 1001
        assert s.notes.disconnects == ["draining"]


async def test_a_drain_closes_a_batch_at_a_time_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are closed all at once come back all at once."""
    slept: list[float] = []
    left: list[int] = []
    async with stage() as s:
        real = asyncio.sleep

        async def sleep(seconds: float, result: Any = None) -> Any:
            if seconds:
                slept.append(seconds)
                left.append(len(s.registry))
                seconds = 0.0
            return await real(seconds, result)

        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(_until_closed(s.url, str(number))) for number in range(10)]
            await eventually(lambda: sum(peer.live for peer in s.registry.all()) == 10)
            monkeypatch.setattr(asyncio, "sleep", sleep)
            await s.server.drain(2.0, batches=4)
            monkeypatch.undo()
        assert left == [7, 4, 1, 0]
        assert all(0.25 <= pause <= 0.5 for pause in slept)
        assert len(set(slept)) > 1
        assert [it.result() for it in clients] == [1001] * 10


async def _until_closed(url: str, bot: str) -> int | None:
    async with raw_socket(url, connect(bot=bot)) as it:
        await it.until("42")
        await it.ended()
        return it.ws.close_code


async def test_a_drain_closes_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled: list[int] = []
    monkeypatch.setattr(random, "shuffle", lambda peers: shuffled.append(len(peers)))
    async with stage() as s, py_client(s.url):
        await s.server.drain(0.0)
        assert shuffled == [1]


async def test_a_drain_without_sockets_ends() -> None:
    async with stage() as s:
        await asyncio.wait_for(s.server.drain(0.0), 5)


async def test_a_stop_cancels_replays_that_hang_without_logging_an_error() -> None:
    ended: list[str] = []

    async def run(*_: Any) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        raise AssertionError

    async with stage() as s:
        s.server._lane = s.server._lane._replace(replayer=cast("Any", SimpleNamespace(run=run)))
        async with raw_socket(s.url, connect()):
            await eventually(lambda: s.server._tasks)
            with capture_logs() as logs:
                await s.server.close()
        assert ended == ["cancelled"]
        assert not s.server._tasks
        assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_replay_that_fails_is_logged() -> None:
    async def run(*_: Any) -> int:
        raise RuntimeError("cannot")

    with capture_logs() as logs:
        async with stage() as s:
            s.server._lane = s.server._lane._replace(replayer=cast("Any", SimpleNamespace(run=run)))
            async with raw_socket(s.url, connect()):
                await eventually(lambda: [line for line in logs if line["event"] == "socket_task_died"])
                await eventually(lambda: not s.server._tasks)
    [line] = [line for line in logs if line["event"] == "socket_task_died"]
    assert line["error"] == "RuntimeError"
