"""The same packets to this program and to plain python-socketio: what differs is listed, with the reason.

A transcript says, of each step, what came back: packets without sids and numbers of their own, statuses of requests,
and whether the connection is still open. Events that the program sends of its own accord (the snapshot) are left out.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import socketio
from aiohttp import web

from tests.support.api import serving
from tests.support.raw_client import RawClient
from tests.support.sockets import stage

AUTH: Final = "40" + json.dumps({"userId": "user", "botId": "bot"})
QUIET = 0.2
"""Seconds without a packet after which a step is over."""

AT_ONCE = 12
"""Conversations: so many that an answer is never late."""

Transcript = list[str]


@asynccontextmanager
async def plain() -> AsyncIterator[str]:
    """python-socketio as its documentation shows it, with the same handlers and the same limits."""
    server = socketio.AsyncServer(
        async_mode="aiohttp",
        async_handlers=False,
        cors_allowed_origins=[],
        max_http_buffer_size=65536,
        ping_interval=25,
        ping_timeout=20,
    )

    async def connect(_sid: str, _environ: object, auth: Any = None) -> None:
        if not isinstance(auth, dict) or "userId" not in auth:
            raise socketio.exceptions.ConnectionRefusedError("refused", {"code": "refused"})

    async def status(sid: str, *_data: object) -> None:
        await server.emit("whatsapp_status_update", {}, to=sid)

    async def auth_(_sid: str, *_data: object) -> dict[str, bool]:
        return {"ok": False}

    server.on("connect", connect)
    server.on("status", status)
    server.on("auth", auth_)
    app = web.Application()
    server.attach(app)
    async with serving(app) as url:
        try:
            yield url
        finally:
            await server.shutdown()


@asynccontextmanager
async def ours() -> AsyncIterator[str]:
    async with stage() as s:
        yield s.url


Step = tuple[str, ...]
"""The packets of one write, or one of the actions `upgrade`, `get`, `probe`."""


async def converse(url: str, transport: str, steps: list[Step]) -> Transcript:
    """Play the steps, and write down what came of each."""
    client = RawClient(url)
    said: Transcript = []
    try:
        await client.open(transport)
        read = 0
        for step in steps:
            statuses = len(client.statuses)
            if step == ("upgrade",):
                try:
                    await client.upgrade()
                except Exception as error:  # noqa: BLE001  # it is what is compared
                    said.append(f"upgrade: {type(error).__name__}")
                    break
            else:
                await client.send(*step)
            await _quiet(client)
            answers = [_shown(packet.text) for packet in client.heard[read:]]
            read = len(client.heard)
            posts = [str(status) for status in client.statuses[statuses:]]
            state = "closed" if client.closed else "open"
            said.append(" ".join([*posts, *(answer for answer in answers if answer), state]))
            if client.closed:
                break
        return said
    finally:
        await client.close()


async def _quiet(client: RawClient) -> None:
    """Wait until nothing has come for a moment."""
    while True:
        count, closed = len(client.heard), client.closed
        await asyncio.sleep(QUIET)
        if (len(client.heard), client.closed) == (count, closed):
            return


def _shown(text: str) -> str:
    """A packet as it is compared; empty for one that either side sends when it likes."""
    if text == "2" or text.startswith(('42["whatsapp_status_update"', '42["auth_expired"')):
        return ""
    text = re.sub(r'"sid":"[^"]+"', '"sid":"…"', text)
    if text.startswith("44{"):
        return "44{refused}"
    if text.startswith("43"):
        return text.partition("[")[0] + "[…]"
    return text


@dataclass(frozen=True)
class Case:
    steps: list[Step]
    transport: str = "websocket"
    ours: Transcript | None = None
    """None where both are to say the same; else what this program says."""
    why: str = ""


CONNECT: Final[Step] = (AUTH,)
JOINED: Final = '40{"sid":"…"} open'
POSTED: Final = f"200 {JOINED}"

CASES: Final[dict[str, Case]] = {
    # what both do
    "connect": Case([CONNECT]),
    "connect over polling": Case([CONNECT], "polling"),
    "refused": Case([("40{}",)]),
    "refused over polling": Case([("40{}",)], "polling"),
    "an event without ack": Case([CONNECT, ('42["status"]',)]),
    "an event with ack": Case([CONNECT, ('427["auth",{}]',)]),
    "an event with ack over polling": Case([CONNECT, ('427["auth",{}]',)], "polling"),
    "several packets in one body": Case([CONNECT, ('427["auth",{}]', '428["auth",{}]')], "polling"),
    "an event that nobody handles": Case([CONNECT, ('42["nobody"]',), ('427["auth",{}]',)]),
    "an ack that nobody asked for": Case([CONNECT, ("437[]",), ('427["auth",{}]',)]),
    "upgrade": Case([CONNECT, ("upgrade",), ('427["auth",{}]',)], "polling"),
    "upgrade before connect": Case([("upgrade",), CONNECT, ('427["auth",{}]',)], "polling"),
    "PONG that nobody asked for": Case([CONNECT, ("3",), ('427["auth",{}]',)]),
    "an event before connect": Case([('427["auth",{}]',)]),
    "not an Engine.IO packet": Case([CONNECT, ("x",)]),
    "an empty message": Case([CONNECT, ("",)]),
    "OPEN over polling": Case([CONNECT, ("0",)], "polling"),
    "PING over polling": Case([CONNECT, ("2",)], "polling"),
    "NOOP over polling": Case([CONNECT, ("6",)], "polling"),
    "a packet past the limit": Case([CONNECT, ("42" + "x" * 70_000,)]),
    "a body past the limit": Case([CONNECT, ("42" + "x" * 70_000,)], "polling"),
}

LEAVE: Final[Step] = ("41",)
ASK: Final[Step] = ('427["auth",{}]',)
CLOSES: Final[Transcript] = [JOINED, "1 closed"]
POST_CLOSES: Final[Transcript] = [POSTED, "200 1 closed"]
POST_REFUSED: Final[Transcript] = [POSTED, "400 1 closed"]

_ONE_LIFE: Final = "one connection carries one socket in its life: leaving is its end, and nobody is left behind"
_NAMESPACES: Final = "there is one namespace; an answer would repeat the client's own words"
_BELONGS: Final = "a packet that clients do not send ends the connection, over either transport"
_MALFORMED: Final = "whoever sends what cannot be read is told so by a close, not by silence"

UNLIKE: Final[dict[str, Case]] = {
    # what differs, and why it is wanted
    "goodbye": Case([CONNECT, ("1",)], ours=[JOINED, "closed"], why="the websocket goes with its session"),
    "goodbye over polling": Case(
        [CONNECT, ("1",)],
        "polling",
        [POSTED, "200 6 closed"],
        "a poll that waits is let go, not kept until its deadline",
    ),
    "leave": Case([CONNECT, LEAVE, ASK], ours=CLOSES, why=_ONE_LIFE),
    "leave over polling": Case([CONNECT, LEAVE, ASK], "polling", POST_CLOSES, _ONE_LIFE),
    "leave and connect again": Case([CONNECT, LEAVE, CONNECT], ours=CLOSES, why=_ONE_LIFE),
    "connect twice": Case([CONNECT, CONNECT, ASK], ours=CLOSES, why=_ONE_LIFE),
    "another namespace": Case([("40/x,",), CONNECT], ours=["1 closed"], why=_NAMESPACES),
    "another namespace after connect": Case([CONNECT, ("40/x,",), ASK], ours=CLOSES, why=_NAMESPACES),
    "another namespace over polling": Case([CONNECT, ("40/x,",), ASK], "polling", POST_CLOSES, _NAMESPACES),
    "an event of another namespace": Case([CONNECT, ('42/x,["status"]',), ASK], ours=CLOSES, why=_NAMESPACES),
    "leave another namespace": Case([CONNECT, ("41/x,",), ASK], ours=CLOSES, why=_NAMESPACES),
    "OPEN": Case([CONNECT, ("0",), ASK], ours=CLOSES, why=_BELONGS),
    "PING": Case([CONNECT, ("2",), ASK], ours=CLOSES, why=_BELONGS),
    "NOOP": Case([CONNECT, ("6",), ASK], ours=CLOSES, why=_BELONGS),
    "UPGRADE": Case([CONNECT, ("5",), ASK], ours=CLOSES, why=_BELONGS),
    "UPGRADE over polling": Case(
        [CONNECT, ("5",), ASK], "polling", POST_REFUSED, "each would be answered with a NOOP that nobody may ever fetch"
    ),
    "CONNECT_ERROR": Case([CONNECT, ("44{}",), ASK], ours=CLOSES, why=_BELONGS),
    "an unknown packet type": Case([CONNECT, ("49",), ASK], ours=CLOSES, why=_MALFORMED),
    "an event that is no array": Case([CONNECT, ("42{}",), ASK], ours=CLOSES, why=_MALFORMED),
    "an event without a name": Case([CONNECT, ("42[]",), ASK], ours=CLOSES, why=_MALFORMED),
    "no JSON": Case([CONNECT, ("42[",), ASK], ours=CLOSES, why=_MALFORMED),
    "no JSON over polling": Case([CONNECT, ("42[",), ASK], "polling", POST_CLOSES, _MALFORMED),
    "an empty MESSAGE": Case([CONNECT, ("4",), ASK], ours=CLOSES, why=_MALFORMED),
    "an empty packet by polling": Case([CONNECT, ("",)], "polling", POST_REFUSED, _MALFORMED),
    "not an Engine.IO packet over polling": Case([CONNECT, ("x",), ASK], "polling", POST_REFUSED, _MALFORMED),
    "an ack that is no array": Case(
        [CONNECT, ("437{}",), ASK], ours=CLOSES, why="an acknowledgement is proof of delivery, so it is read strictly"
    ),
    "a binary event without its part": Case(
        [CONNECT, ('451-["status",{"_placeholder":true,"num":0}]',), ASK],
        ours=[JOINED, "open", "1 closed"],
        why="text where a binary part is due is the client's mistake, not a reason to wait for ever",
    ),
}


async def transcripts(cases: Mapping[str, Case]) -> dict[str, tuple[Transcript, Transcript]]:
    """Of each case: what this program says, and what python-socketio says."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def play(url: str, case: Case, steps: list[Step]) -> Transcript:
        async with turn:
            return await converse(url, case.transport, steps)

    async with ours() as here, plain() as there, asyncio.TaskGroup() as group:
        made = {
            name: [group.create_task(play(url, case, _as(number, case.steps))) for url in (here, there)]
            for number, (name, case) in enumerate(cases.items())
        }
        return {name: (await both[0], await both[1]) for name, both in made.items()}


def _as(number: int, steps: list[Step]) -> list[Step]:
    """The same steps as a user of their own."""
    return [tuple(packet.replace('"user"', f'"user-{number}"') for packet in step) for step in steps]


async def test_packets_are_answered_as_python_socketio_answers_them() -> None:
    found = await transcripts(CASES)
    unlike = {name: both for name, both in found.items() if both[0] != both[1]}
    assert not unlike, "differences that nobody listed"


async def test_what_differs_is_listed_and_wanted() -> None:
    found = await transcripts(UNLIKE)
    wrong = {name: both[0] for name, both in found.items() if both[0] != UNLIKE[name].ours}
    assert not wrong, "not as listed"
    same = [name for name, (here, there) in found.items() if here == there]
    assert not same, "listed, and no difference any more"
    assert all(case.why for case in UNLIKE.values())


if __name__ == "__main__":

    async def show() -> None:
        for name, (here, there) in (await transcripts({**CASES, **UNLIKE})).items():
            print(
                f"{'  ' if here == there else '! '}{name}\n     ours  {here}"
                + ("" if here == there else f"\n     plain {there}")
            )

    asyncio.run(show())
