"""The ten lines that docs/frontend.md promises are run as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from roundtrip.api.spec.openapi import DOCS
from roundtrip.auth.authenticators import JwtAuthenticator
from roundtrip.auth.jwks import OneKey
from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.limits.rates import Limits, Rules
from roundtrip.settings import Settings
from roundtrip.sockets.access import Admission, SocketAccess
from roundtrip.sockets.messages import REFUSALS
from tests.support.drafts import entry_with
from tests.support.programs import require
from tests.support.py_client import eventually
from tests.support.sockets import Stage, stage
from tests.support.tokens import ISSUER, USER, private_key, public_pem, token

TEXT = (DOCS / "frontend.md").read_text()
KEY = BotKey(USER, "bot")
CONNECTED = Connected("+4915112345678", "Ada", first=True)


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def block(language: str) -> str:
    """The first example in a language."""
    found = re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


@asynccontextmanager
async def served(clock: Clock) -> AsyncIterator[tuple[Stage, SocketAccess]]:
    limits = Limits(Rules.of(Settings(auth="trusted")), lambda _limit: None)
    identity = JwtAuthenticator(OneKey(public_pem(private_key("ES256"))), issuer=ISSUER, audience=None)
    admission = Admission(identity, limits)
    door = SocketAccess(admission.identify, limits, now=clock)
    async with stage(admit=admission, door=door, ack_timeout=1.0) as s:
        yield s, door


@asynccontextmanager
async def node(url: str, tokens: list[str]) -> AsyncIterator[list[Any]]:
    """Runs the JavaScript example; yields what it shows, handles and gives up on, as it does."""
    around = f"""
        const BACKEND = {json.dumps(url)}, BOT_ID = "bot", tokens = {json.dumps(tokens)};
        const say = (...what) => process.stdout.write(JSON.stringify(what) + "\\n");
        const getToken = async () => tokens.length > 1 ? tokens.shift() : tokens[0];
        const show = (it) => say("show", it), handle = (it) => say("handle", it), giveUp = (it) => say("giveUp", it);
    """
    process = await asyncio.create_subprocess_exec(
        require("node", "apt-get install nodejs npm"),
        "--input-type=module",
        "--eval",
        block("js").replace("const seen", around + "const seen", 1),
        cwd=DOCS.parent,
        stdout=asyncio.subprocess.PIPE,
    )
    said: list[Any] = []

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said.append(json.loads(line))  # noqa: PERF401  # each is looked at as it comes

    reading = asyncio.create_task(read())
    try:
        yield said
    finally:
        process.kill()
        await process.wait()
        await reading


async def test_the_javascript_example() -> None:
    clock = Clock()
    later = int(time.time()) + 600
    tokens = [token(algorithm="ES256"), token(algorithm="ES256", exp=later)]
    async with served(clock) as (s, door):
        early = await s.courier.publish(KEY, "link", CONNECTED)
        async with node(s.url, tokens) as said:
            await eventually(lambda: [what for what, _ in said].count("handle") == 1, within=10)
            assert said[0][0] == "show"
            live = await s.courier.publish(KEY, "link", CONNECTED)
            await eventually(lambda: [it["id"] for what, it in said if what == "handle"] == [early.id, live.id])
            for seq in (early.seq, live.seq):
                await entry_with(s.outbox, KEY, seq, lambda entry: entry.outcome.name == "ACKED")
            (peer,) = s.registry.of(KEY)
            clock.ahead = 70
            await door.check_expiry([peer])  # the token ran out: the example renews it
            await eventually(lambda: peer.expires_at == later)


async def test_the_javascript_example_gives_up_where_it_should() -> None:
    async with served(Clock()) as (s, _), node(s.url, ["rubbish"]) as said:
        await eventually(lambda: said == [["giveUp", "unauthorized"]], within=10)


async def test_the_python_example() -> None:
    handled: list[Any] = []

    async def handle(data: Any) -> None:
        handled.append(data["id"])

    code = "\n".join(f"    {line}" for line in block("python").splitlines())
    async with served(Clock()) as (s, _):
        stored = await s.courier.publish(KEY, "link", CONNECTED)
        names: dict[str, Any] = {
            "BACKEND": s.url,
            "BOT_ID": "bot",
            "token": token(algorithm="ES256"),
            "handle": handle,
        }
        exec(f"async def example(made):\n{code}\n".replace("client = ", "client = made['client'] = "), names)  # noqa: S102  # our own text
        made: dict[str, Any] = {}
        running = asyncio.create_task(names["example"](made))
        await eventually(lambda: handled == [stored.id])
        await entry_with(s.outbox, KEY, 1, lambda entry: entry.outcome.name == "ACKED")
        await made["client"].disconnect()
        await running


def test_every_refusal_is_explained() -> None:
    for code in REFUSALS:
        assert f"`{code}`" in TEXT.partition("## Refusals")[2]
