"""Tokens that expire and are renewed, and limits per user and address, as stock clients see them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import socketio

from roundtrip.clock import rfc3339
from roundtrip.sockets.access import SocketAccess
from tests.sockets.limited_stage import KEY, OffsetClock, limited_stage, make_token, token_client
from tests.sockets.raw import POLLING, raw_socket
from tests.support.program import running
from tests.support.py_client import eventually
from tests.support.sockets import Stage


async def look(s: Stage, access: SocketAccess) -> None:
    await access.check_expiry(list(s.registry.of(KEY)))


async def test_a_socket_whose_token_expired_is_notified_once_and_closed_after_the_grace() -> None:
    clock = OffsetClock()
    async with limited_stage(clock) as (s, access), token_client(s.url, make_token()) as (it, expired):
        await look(s, access)
        assert not expired
        clock.ahead = 70
        await look(s, access)
        await look(s, access)
        await eventually(lambda: expired)
        assert len(expired) == 1
        assert 15 < expired[0]["graceSeconds"] <= 30
        clock.ahead = 100
        await look(s, access)
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["token_expired"]
        await eventually(lambda: not it.io.connected)


async def test_a_token_is_renewed_without_reconnecting() -> None:
    clock = OffsetClock()
    async with limited_stage(clock) as (s, access), token_client(s.url, make_token()) as (it, expired):
        clock.ahead = 70
        await look(s, access)
        await eventually(lambda: expired)
        later = int(time.time()) + 600
        answer = await it.io.call("auth", {"token": make_token(exp=later)}, timeout=5)
        assert answer == {"ok": True, "expiresAt": rfc3339(later)}
        await look(s, access)
        clock.ahead = 400
        await look(s, access)
        assert len(expired) == 1
        clock.ahead = 610
        await look(s, access)
        await eventually(lambda: len(expired) == 2)  # and told again when the new one runs out
        assert s.notes.connects == ["accepted"]


async def test_a_renewal_with_a_wrong_token_is_refused() -> None:
    async with limited_stage() as (s, _), token_client(s.url, make_token()) as (it, _expired):
        (peer,) = s.registry.of(KEY)
        before = peer.expires_at
        for data, code in (
            ({"token": make_token(sub="user_somebody_else")}, "forbidden"),
            ({"token": make_token(exp=int(time.time()) - 100)}, "unauthorized"),
            ({"token": 7}, "unauthorized"),
            ({}, "unauthorized"),
            ("token", "unauthorized"),
            (None, "unauthorized"),
        ):
            answer = await it.io.call("auth", data, timeout=5)
            assert (answer["ok"], answer["code"]) == (False, code), data
        assert peer.expires_at == before


async def test_a_socket_over_the_users_limit_is_refused_over_all_bots() -> None:
    async with limited_stage(sockets_per_user=2) as (s, _):
        async with token_client(s.url, make_token(), "one"), token_client(s.url, make_token(), "two"):
            third = socketio.AsyncClient(reconnection=False)
            refusals: list[Any] = []
            third.on("connect_error", refusals.append)
            with suppress(socketio.exceptions.ConnectionError):
                await third.connect(s.url, auth={"token": make_token(), "botId": "three"}, transports=["websocket"])
            await eventually(lambda: refusals)
            assert refusals[0]["data"] == {"code": "too_many_sockets"}
            await third.shutdown()
        await eventually(lambda: len(s.registry) == 0)
        async with token_client(s.url, make_token(), "three"):
            assert len(s.registry) == 1


async def test_a_closed_socket_leaves_no_counts() -> None:
    async with limited_stage() as (s, access):
        assert access._limits is not None
        async with token_client(s.url, make_token()):
            assert len(access._limits._messages) == 1
        async with raw_socket(s.url, "40{}") as refused:
            await refused.until("44")
        await eventually(lambda: not s.server.engine.connections)
        assert len(access._limits._messages) == 0
        assert access._limits.sockets.held("user") == 0


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
