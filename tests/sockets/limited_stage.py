"""A stage whose sockets need tokens and have limits, and clients with tokens for it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from roundtrip.auth.authenticators import JwtAuthenticator
from roundtrip.auth.jwks import OneKey
from roundtrip.identity import BotKey
from roundtrip.limits.rates import Limits, Rate, Rules
from roundtrip.sockets.access import Admission, SocketAccess
from tests.support.py_client import PyClient
from tests.support.sockets import Stage, stage
from tests.support.tokens import ISSUER, USER, private_key, public_pem, token

KEY = BotKey(USER, "bot")


class OffsetClock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@asynccontextmanager
async def limited_stage(clock: OffsetClock | None = None, **rules: Any) -> AsyncIterator[tuple[Stage, SocketAccess]]:
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
    access = SocketAccess(admission.identify, limits, grace=30.0, now=clock or OffsetClock())
    async with stage(admit=admission, door=access) as s:
        yield s, access


def make_token(**claims: Any) -> str:
    return token(algorithm="ES256", **claims)


@asynccontextmanager
async def token_client(url: str, made: str, bot: str = "bot") -> AsyncIterator[tuple[PyClient, list[dict[str, Any]]]]:
    it = PyClient()
    expired: list[dict[str, Any]] = []
    it.io.on("auth_expired", expired.append)
    await it.io.connect(url, auth={"token": made, "botId": bot}, transports=["websocket"])
    try:
        yield it, expired
    finally:
        await it.io.disconnect()
