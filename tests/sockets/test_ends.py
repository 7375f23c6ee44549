"""How sockets end: drains, stops, sweeps that meet an error; and what is remembered of a socket that went."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from roundtrip.limits.rates import Rate
from roundtrip.sockets import server as module
from tests.sockets.raw import POLLING, connect, raw_polling, raw_socket
from tests.sockets.test_doorkeeper import Clock, client, fresh, guarded
from tests.support import sockets as support
from tests.support.program import running
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage


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


async def test_who_is_drained_is_a_matter_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled: list[int] = []
    monkeypatch.setattr(random, "shuffle", lambda peers: shuffled.append(len(peers)))
    async with stage() as s, py_client(s.url):
        await s.server.drain(0.0)
        assert shuffled == [1]


async def test_an_error_with_one_socket_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 0.02)
    clock = Clock()
    async with guarded(clock) as (s, door):
        sweep = asyncio.ensure_future(s.server.sweep())
        try:
            async with client(s.url, fresh(), "one") as (_, told), client(s.url, fresh(), "two") as (_, others):
                first = next(peer for peer in s.registry.all() if peer.key.bot_id == "one")
                monkeypatch.setattr(type(first), "send", _failing_for(first, type(first).send))
                clock.ahead = 70
                await eventually(lambda: others and s.notes.failed_steps > 2)
                assert not told
                clock.ahead = 100
                await eventually(lambda: s.notes.disconnects == ["token_expired"] * 2)
            monkeypatch.setattr(door, "check_expiry", _raise)
            before = s.notes.failed_steps
            await eventually(lambda: s.notes.failed_steps > before + 2)
            assert not sweep.done()
        finally:
            sweep.cancel()


def _failing_for(peer: Any, real: Any) -> Any:
    def send(self: Any, frame: Any) -> Any:
        if self is peer:
            raise RuntimeError("cannot")
        return real(self, frame)

    return send


async def _raise(_peers: Any) -> None:
    raise RuntimeError("cannot")


async def test_the_sweep_unmaps_a_socket_whose_engine_went_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 0.02)
    async with stage() as s, py_client(s.url):
        sweep = asyncio.ensure_future(s.server.sweep())
        try:
            s.server.engine.eio.sockets.clear()
            await eventually(lambda: len(s.registry) == 0)
            assert s.notes.disconnects == ["transport close"]
        finally:
            sweep.cancel()


async def test_a_request_over_the_limit_is_answered_as_it_asked_to_be() -> None:
    async with guarded(events_per_socket=Rate(0.001, 3)) as (s, _), client(s.url, fresh()) as (it, _expired):
        refused: list[Any] = []
        it.io.on("request_refused", refused.append)
        await it.io.emit("status")
        await it.io.call("auth", {"token": fresh()}, timeout=5)
        answer = await it.io.call("auth", {"token": fresh()}, timeout=5)
        assert (answer["ok"], answer["code"]) == (False, "rate_limited")
        assert answer["message"].endswith(".")
        for _ in range(50):
            await it.io.emit("status")
        await eventually(lambda: refused)
        await it.io.call("status", timeout=5)
        assert refused == [answer], "at most one a second"
        assert it.io.connected


async def test_nothing_is_remembered_of_a_socket_that_went() -> None:
    async with guarded() as (s, door):
        assert door._limits is not None
        async with client(s.url, fresh()):
            assert len(door._limits._messages) == 1
        async with raw_socket(s.url, "40{}") as refused:
            await refused.until("44")
        await eventually(lambda: not s.server.engine.connections)
        assert len(door._limits._messages) == 0
        assert door._limits.sockets.held("user") == 0


async def test_why_a_socket_closed_is_told_apart() -> None:
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
            "transport error",
        ]


async def test_the_address_that_limits_count_is_the_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = support.trusted

    async def admit(shake: Any) -> Any:
        seen.append(shake.remote)
        return await real(shake)

    async with stage(admit=admit) as s, raw_socket(s.url, connect()) as it:
        await it.until("42")
        assert seen == ["127.0.0.1"]


async def test_a_status_request_during_an_outage_keeps_the_socket() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as it:
        await it.until("42")
        from roundtrip.outbox.base import OutboxError

        async def down(_key: Any) -> int:
            raise OutboxError("outbox_unavailable", "down")

        real, s.outbox.last_seq = s.outbox.last_seq, down
        await it.send('421["status"]')
        assert json.loads((await it.until("431"))[3:]) == []
        s.outbox.last_seq = real
        await it.send('42["status"]')
        await it.until("42")
        assert not s.notes.disconnects


async def test_clients_behind_a_proxy_of_ours_have_a_limit_each(tmp_path: Path) -> None:
    """Without the address that the proxy names they would all share one."""
    async with (
        running(
            tmp_path, forwarded_allow_ips="127.0.0.1", handshakes_per_address=0.01, handshakes_per_address_burst=2
        ) as program,
        aiohttp.ClientSession() as session,
    ):

        async def statuses(address: str) -> list[int]:
            found = []
            for _ in range(3):
                async with session.get(program.url + POLLING, headers={"X-Forwarded-For": address}) as response:
                    found.append(response.status)
            return found

        assert await statuses("192.0.2.1") == [200, 200, 429]
        assert await statuses("192.0.2.2") == [200, 200, 429]
