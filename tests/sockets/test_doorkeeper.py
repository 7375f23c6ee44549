from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import socketio

from roundtrip.auth.authenticators import JwtAuthenticator
from roundtrip.auth.jwks import OneKey
from roundtrip.identity import BotKey
from roundtrip.limits.rates import Limits, Rate, Rules
from roundtrip.sockets.access import Admission, SocketAccess
from tests.support.py_client import PyClient, eventually
from tests.support.sockets import Stage, stage
from tests.support.tokens import ISSUER, USER, private_key, public_pem, token

KEY = BotKey(USER, "bot")


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@asynccontextmanager
async def guarded(clock: Clock | None = None, **rules: Any) -> AsyncIterator[tuple[Stage, SocketAccess]]:
    settings = {
        "handshakes_per_address": Rate(1000, 1000),
        "handshakes_per_user": Rate(1000, 1000),
        "pairings_per_hour": 1000.0,
        "sockets_per_user": 1000,
        "events_per_socket": Rate(1000, 1000),
        **rules,
    }
    limits = Limits(Rules(**settings), lambda _limit: None)
    identity = JwtAuthenticator(OneKey(public_pem(private_key("ES256"))), issuer=ISSUER, audience=None)
    admission = Admission(identity, limits)
    door = SocketAccess(admission.identify, limits, grace=30.0, now=clock or Clock())
    async with stage(admit=admission, door=door) as s:
        yield s, door


def fresh(**claims: Any) -> str:
    return token(algorithm="ES256", **claims)


@asynccontextmanager
async def client(url: str, made: str, bot: str = "bot") -> AsyncIterator[tuple[PyClient, list[dict[str, Any]]]]:
    it = PyClient()
    expired: list[dict[str, Any]] = []
    it.io.on("auth_expired", expired.append)
    await it.io.connect(url, auth={"token": made, "botId": bot}, transports=["websocket"])
    try:
        yield it, expired
    finally:
        await it.io.disconnect()


async def look(s: Stage, door: SocketAccess) -> None:
    await door.check_expiry(list(s.registry.of(KEY)))


async def test_a_socket_whose_token_ran_out_is_told_once_and_closed_after_the_grace() -> None:
    clock = Clock()
    async with guarded(clock) as (s, door), client(s.url, fresh()) as (it, expired):
        await look(s, door)
        assert not expired
        clock.ahead = 70
        await look(s, door)
        await look(s, door)
        await eventually(lambda: expired)
        assert len(expired) == 1
        assert 15 < expired[0]["graceSeconds"] <= 30
        clock.ahead = 100
        await look(s, door)
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.disconnects == ["token_expired"]
        await eventually(lambda: not it.io.connected)


async def test_a_token_is_renewed_without_reconnecting() -> None:
    clock = Clock()
    async with guarded(clock) as (s, door), client(s.url, fresh()) as (it, expired):
        clock.ahead = 70
        await look(s, door)
        await eventually(lambda: expired)
        later = int(time.time()) + 600
        answer = await it.io.call("auth", {"token": fresh(exp=later)}, timeout=5)
        assert answer == {"ok": True, "expiresAt": later}
        await look(s, door)
        clock.ahead = 400
        await look(s, door)
        assert len(expired) == 1
        clock.ahead = 610
        await look(s, door)
        await eventually(lambda: len(expired) == 2)  # and told again when the new one runs out
        assert s.notes.connects == ["accepted"]


async def test_a_renewal_that_is_none() -> None:
    async with guarded() as (s, _), client(s.url, fresh()) as (it, _expired):
        (peer,) = s.registry.of(KEY)
        before = peer.expires_at
        for data, code in (
            ({"token": fresh(sub="user_somebody_else")}, "forbidden"),
            ({"token": fresh(exp=int(time.time()) - 100)}, "unauthorized"),
            ({"token": 7}, "unauthorized"),
            ({}, "unauthorized"),
            ("token", "unauthorized"),
            (None, "unauthorized"),
        ):
            answer = await it.io.call("auth", data, timeout=5)
            assert (answer["ok"], answer["code"]) == (False, code), data
        assert peer.expires_at == before


async def test_one_too_many_sockets_of_a_user_over_all_bots() -> None:
    async with guarded(sockets_per_user=2) as (s, _):
        async with client(s.url, fresh(), "one"), client(s.url, fresh(), "two"):
            third = socketio.AsyncClient(reconnection=False)
            refusals: list[Any] = []
            third.on("connect_error", refusals.append)
            with suppress(socketio.exceptions.ConnectionError):
                await third.connect(s.url, auth={"token": fresh(), "botId": "three"}, transports=["websocket"])
            await eventually(lambda: refusals)
            assert refusals[0]["data"] == {"code": "too_many_sockets"}
            await third.shutdown()
        await eventually(lambda: len(s.registry) == 0)
        async with client(s.url, fresh(), "three"):
            assert len(s.registry) == 1


async def test_requests_of_a_socket_are_limited_but_others_are_served() -> None:
    async with (
        guarded(events_per_socket=Rate(0.001, 5)) as (s, _),
        client(s.url, fresh()) as (flood, _),
        client(s.url, fresh(), "other") as (calm, _),
    ):
        for _ in range(50):
            await flood.io.emit("status")
        await calm.io.emit("status")
        await calm.until(lambda: len(calm.snapshots) == 2)
        assert len(flood.snapshots) <= 1 + 5
        assert flood.io.connected
