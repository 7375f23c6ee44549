"""The sweep: expired tokens, vanished connections, and errors that end no sweep."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from roundtrip.sockets import server as module
from roundtrip.sockets.access import SocketAccess
from tests.sockets.bare_server import make_server
from tests.sockets.limited_stage import OffsetClock, limited_stage, make_token, token_client
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage
from tests.support.stepped_loop import SteppedLoop


def test_a_sweep_checks_every_second_but_not_right_after_a_suspension(loop: SteppedLoop) -> None:
    looks: list[float] = []

    class FakeAccess(SocketAccess):
        async def check_expiry(self, peers: Any) -> None:
            looks.append(loop.time())

    sweep = loop.create_task(make_server(FakeAccess()).sweep())
    loop.settle()
    start = loop.time()
    loop.advance(0.9)
    assert looks == []
    loop.advance(0.1)
    loop.advance(1.0)
    assert [at - start for at in looks] == [1.0, 2.0]
    loop.advance(2.0)  # late by as much as a round: nothing to wonder at
    assert len(looks) == 3
    loop.advance(60.0)
    assert len(looks) == 3, "fresh tokens may wait to be read"
    loop.advance(1.0)
    assert len(looks) == 4
    sweep.cancel()
    loop.settle()


async def test_an_error_with_one_socket_ends_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 0.02)
    clock = OffsetClock()
    async with limited_stage(clock) as (s, access):
        sweep = asyncio.ensure_future(s.server.sweep())
        try:
            async with (
                token_client(s.url, make_token(), "one") as (_, told),
                token_client(s.url, make_token(), "two") as (_, others),
            ):
                first = next(peer for peer in s.registry.all() if peer.key.bot_id == "one")
                monkeypatch.setattr(type(first), "send", _failing_for(first, type(first).send))
                clock.ahead = 70
                await eventually(lambda: others and s.notes.failed_steps > 2)
                assert not told
                clock.ahead = 100
                await eventually(lambda: s.notes.disconnects == ["token_expired"] * 2)
            monkeypatch.setattr(access, "check_expiry", _raise)
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


async def test_the_sweep_unmaps_a_socket_whose_connection_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_INTERVAL", 0.02)
    async with stage() as s, py_client(s.url):
        sweep = asyncio.ensure_future(s.server.sweep())
        try:
            s.server.engine.eio.sockets.clear()
            await eventually(lambda: len(s.registry) == 0)
            assert s.notes.disconnects == ["transport close"]
        finally:
            sweep.cancel()
