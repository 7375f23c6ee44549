"""Minutes of ordinary life with kills in it, and at the end an audit of every event.

Clients come and go, acknowledge or not, die; links of the simulated driver live; the program is killed and started
again. Then four witnesses must agree on each event: what clients saw and said, what the API tells of all events, what
it tells of this one, and the metrics. `ROUNDTRIP_SOAK_SECONDS` makes it longer, `ROUNDTRIP_SOAK_SEED` repeats one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.acceptance.test_crash import publish
from tests.support.node_client import NodeClient, node_client
from tests.support.ports import free_port
from tests.support.program import Api, Program, api, running
from tests.support.publishing import COMMAND
from tests.support.raw_client import RawClient

SECONDS = float(os.environ.get("ROUNDTRIP_SOAK_SECONDS", "180"))
KILLS = 2
GUESTS = 12
"""Users whose raw clients come and go."""

ABSENT = 2
"""Users who come only at the end."""

LINKED = 3
"""Users with a link of the simulated driver, beside what is published for them."""

GROWTH = 80 * 1024 * 1024
AWAY = (aiohttp.ClientError, ConnectionError, TimeoutError, AssertionError)
"""What a client meets while the program is dead."""


@dataclass
class Visit:
    """One raw connection of a user."""

    user: str
    must_ack: bool
    raw: RawClient


@dataclass
class Witnesses:
    """What clients saw and said, and what publishers were told is stored."""

    visits: list[Visit] = field(default_factory=list)
    stock: dict[str, tuple[bool, NodeClient]] = field(default_factory=dict)
    """By user: whether it acknowledges, and the client."""
    told: set[str] = field(default_factory=set)


class Lives:
    """The program, at one address and over one folder, through all its lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = free_port(), free_port()
        self._running: Any = None
        self.logs: list[str] = []
        self.program: Program

    async def start(self) -> None:
        self._running = running(
            self._folder,
            command=COMMAND,
            port=self._ports[0],
            admin_port=self._ports[1],
            ping_interval=2,
            ping_timeout=2,
            ack_timeout=1,
            simulated_speed=4,
            simulated_scan_after=0.5,
            pairings_per_hour=10_000,
        )
        self.program = await self._running.__aenter__()

    async def kill(self) -> None:
        self.program.kill()
        await self._running.__aexit__(None, None, None)
        self.logs.append(self.program.text())


@asynccontextmanager
async def lives(folder: Path) -> AsyncIterator[Lives]:
    found = Lives(folder)
    await found.start()
    try:
        yield found
    finally:
        await found.kill()


async def guest(lives: Lives, seen: Witnesses, user: str, chance: random.Random) -> None:
    """Come, stay a while, acknowledge or not, and go: by a goodbye, by a reset, by silence."""
    while True:
        raw = RawClient(lives.program.url)
        must_ack = chance.random() < 0.4
        answers = must_ack or chance.random() < 0.4
        try:
            await raw.open(chance.choice(["websocket", "polling"]))
            seen.visits.append(Visit(user, must_ack, raw))
            await raw.join(userId=user, botId="bot", acks=must_ack)
            if raw.transport == "polling" and chance.random() < 0.5:
                await raw.upgrade()
            await _stay(raw, chance.uniform(0.2, 8), answers=answers)
            await _go(raw, chance.choice(["goodbye", "leave", "reset", "silence"]))
        except AWAY:
            await asyncio.sleep(0.1)
        finally:
            await raw.close()
        await asyncio.sleep(chance.uniform(0, 2))


async def _stay(raw: RawClient, seconds: float, *, answers: bool) -> None:
    until = time.monotonic() + seconds
    done = 0
    while raw.closed is None and time.monotonic() < until:
        with suppress(TimeoutError):
            await raw.until(lambda done=done: raw.closed or len(raw.events()) > done, within=0.3)  # type: ignore[misc]  # bound now
        events = raw.events()
        if answers:
            for _, seq, _ in events[done:]:
                await raw.send(f"43{seq}[]")
        done = len(events)


async def _go(raw: RawClient, how: str) -> None:
    if how == "goodbye":
        await raw.send("1")
    elif how == "leave":
        await raw.send("41")
        await asyncio.sleep(1.5)  # its PONGs prove nothing any more
    elif how == "reset":
        raw.abort()
    else:
        raw.answering = raw.reading = False
        await asyncio.sleep(2)


async def publisher(lives: Lives, seen: Witnesses, users: list[str], chance: random.Random) -> None:
    """Ordinary days: one event here and there; sometimes many at once."""
    while True:
        try:
            some = chance.sample(users, chance.randint(1, len(users)))
            count = 20 if chance.random() < 0.03 else 1
            seen.told |= {event_id for _, _, event_id in await publish(lives.program, some, count)}
        except AWAY:
            await asyncio.sleep(0.1)
        await asyncio.sleep(chance.uniform(0.05, 0.6))


async def owner(lives: Lives, user: str, chance: random.Random) -> None:
    """A person with a phone: links it, loses the connection, logs out, links it again."""
    while True:
        with suppress(*AWAY):
            async with api(lives.program, user) as it:
                await it.call("PUT", "/api/bots/bot/link")
                await asyncio.sleep(chance.uniform(0.5, 3))
                action = chance.choice(["disconnect", "reconnect", "logout", "expire", "scan"])
                await it.call("POST", "/api/bots/bot/link/simulate", {"action": action})
        await asyncio.sleep(chance.uniform(0.3, 2))


async def killer(lives: Lives, chance: random.Random) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(SECONDS / (KILLS + 1) * chance.uniform(0.6, 1.2))
        await lives.kill()
        await asyncio.sleep(chance.uniform(0, 1))
        await lives.start()


async def last_visits(lives: Lives, seen: Witnesses, users: list[str]) -> None:
    """Everybody comes once more, and acknowledges all that is pending."""

    async def visit(user: str) -> None:
        raw = RawClient(lives.program.url)
        try:
            await raw.open("websocket")
            seen.visits.append(Visit(user, True, raw))
            assert (await raw.join(userId=user, botId="bot", acks=True)).startswith("40")
            async with asyncio.timeout(60), api(lives.program, user) as it:
                stay = asyncio.ensure_future(_stay(raw, 60, answers=True))
                while any(event["outcome"] == "pending" for event in await it.ledger()):
                    await asyncio.sleep(0.3)
                stay.cancel()
                await asyncio.gather(stay, return_exceptions=True)
        finally:
            await raw.close()

    async with asyncio.TaskGroup() as group:
        for user in users:
            group.create_task(visit(user))


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.timeout(300 + 2 * SECONDS)
async def test_after_minutes_of_life_four_witnesses_agree_on_every_event(tmp_path: Path) -> None:
    seed = int(os.environ.get("ROUNDTRIP_SOAK_SEED", random.randrange(10**6)))  # noqa: S311  # not a secret
    print(f"seed {seed}")
    chance = random.Random(seed)  # noqa: S311  # not a secret
    guests = [f"guest-{number}" for number in range(GUESTS)]
    absent = [f"absent-{number}" for number in range(ABSENT)]
    stock = {
        f"stock-{transport}-{ack}": (transport, ack) for transport in ("websocket", "polling") for ack in ("yes", "no")
    }
    users = [*guests, *absent, *stock]
    seen = Witnesses()
    async with lives(tmp_path) as program, AsyncExitStack() as stack:
        for user, (transport, ack) in stock.items():
            auth = {"userId": user, "botId": "bot", "acks": ack == "yes"}
            client = await stack.enter_async_context(
                node_client(program.program.url, auth, ack=ack, transports=[transport])
            )
            seen.stock[user] = (ack == "yes", client)
        before = psutil.Process(program.program.pid).memory_info().rss
        work = [
            publisher(program, seen, users, chance),
            *(guest(program, seen, user, chance) for user in guests),
            *(owner(program, user, chance) for user in guests[:LINKED]),
        ]
        tasks = [asyncio.ensure_future(task) for task in work]
        dying = asyncio.ensure_future(killer(program, chance))
        try:
            done, _ = await asyncio.wait([*tasks, dying], timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            await dying
        finally:
            for task in (*tasks, dying):
                task.cancel()
            await asyncio.gather(*tasks, dying, return_exceptions=True)
        async with api(program.program) as admin:
            for link in (await admin.admin("/debug/links"))["links"]:
                async with api(program.program, link["userId"]) as it:
                    await it.call("DELETE", "/api/bots/bot/link")
        await last_visits(program, seen, users)
        await audit(program, seen, users)
        grown = psutil.Process(program.program.pid).memory_info().rss - before
        assert grown < GROWTH
        for client in (client for _, client in seen.stock.values()):
            await client.do(do="disconnect")
        async with api(program.program) as admin, asyncio.timeout(10):
            while (await admin.admin("/debug/sockets"))["totals"]["sockets"]:
                await asyncio.sleep(0.1)
    logs = "".join(program.logs)
    errors = [line for line in logs.splitlines() if '"level":"error"' in line.replace(" ", "")]
    assert not errors, errors[:3]
    codes = {event["qr"] for visit in seen.visits for _, _, event in visit.raw.events() if "qr" in event}
    assert not [code for code in codes if code in logs], "a code is a secret"


async def audit(program: Lives, seen: Witnesses, users: list[str]) -> None:
    """The ledger against everything else."""
    outcomes: Counter[tuple[str, str]] = Counter()
    known: set[str] = set()
    heard, acked, read = _of_clients(seen)
    async with api(program.program) as admin, aiohttp.ClientSession() as session:
        for user in users:
            ledger = await Api(program.program, session, user).ledger()
            assert [event["seq"] for event in ledger] == list(range(1, len(ledger) + 1)), f"{user}: a seq is missing"
            for event in ledger:
                known.add(event["id"])
                outcomes[event["type"], event["outcome"]] += 1
                what = f"{user}, seq {event['seq']}, {event['outcome']}: {event['attempts']}"
                match event["outcome"]:
                    case "acked":
                        assert (user, event["seq"]) in acked, f"nobody acknowledged {what}"
                        assert event["id"] in heard[user], f"nobody heard {what}"
                    case "received":
                        assert event["id"] in read[user], f"nobody showed a sign of life after {what}"
                    case "superseded" | "expired" | "discarded":
                        assert event["type"] != "whatsapp_connected" or event["outcome"] != "superseded", what
                    case _:
                        pytest.fail(f"still open: {what}")
            for event in random.Random(user).sample(ledger, min(20, len(ledger))):  # noqa: S311  # any will do
                status, alone = await Api(program.program, session, user).call("GET", f"/api/events/{event['id']}")
                assert status == 200
                assert _said(alone) == _said(event)
            assert not heard[user] - {event["id"] for event in ledger}, "heard, and not in the ledger"
        metrics = await admin.metrics()
    assert seen.told <= known, "told as stored, and not in the ledger"
    created = sum(value for name, value in metrics.items() if name.startswith("roundtrip_events_created_total{"))
    assert created == len(known)
    assert not sum(value for name, value in metrics.items() if name.startswith("roundtrip_events_pending{"))
    _counted(metrics, outcomes)
    totals = Counter({outcome: 0 for _, outcome in outcomes})
    for (_, outcome), count in outcomes.items():
        totals[outcome] += count
    print(f"{len(known)} events: {dict(totals)}; {len(seen.visits)} visits, {len(program.logs)} kills")
    assert min(totals["acked"], totals["received"]) > SECONDS / 10


def _counted(metrics: dict[str, float], outcomes: Counter[tuple[str, str]]) -> None:
    """The metrics count by first outcome: an acknowledgement that came after a receipt moves no count."""
    for type_ in {type_ for type_, _ in outcomes}:

        def metric(outcome: str, type_: str = type_) -> float:
            return metrics.get(f'roundtrip_events_resolved_total{{outcome="{outcome}",type="{type_}"}}', 0.0)

        for outcome in ("superseded", "expired", "discarded"):
            assert metric(outcome) == outcomes[type_, outcome], (type_, outcome)
        confirmed = outcomes[type_, "acked"] + outcomes[type_, "received"]
        assert metric("acked") + metric("received") == confirmed, type_
        assert metric("acked") <= outcomes[type_, "acked"], type_


def _said(event: dict[str, Any]) -> list[Any]:
    """What both routes tell of an event."""
    attempts = [[attempt[name] for name in ("at", "mode", "result", "sockets")] for attempt in event["attempts"]]
    return [event["id"], event["seq"], event["type"], event["outcome"], attempts]


def _of_clients(seen: Witnesses) -> tuple[dict[str, set[str]], set[tuple[str, int]], dict[str, set[str]]]:
    """By user: ids that were heard, what was acknowledged (user and seq), ids that a sign of life followed. Whatever
    a connection hears for the first time comes in order, and is its own user's."""
    heard: dict[str, set[str]] = {}
    read: dict[str, set[str]] = {}
    acked: set[tuple[str, int]] = set()
    for visit in seen.visits:
        events = visit.raw.events()
        _in_order(visit.user, [event for _, _, event in events])
        heard.setdefault(visit.user, set()).update(event["id"] for _, _, event in events)
        acked |= {
            (visit.user, int(packet.text[2:-2]))
            for packet in visit.raw.sent
            if packet.text.startswith("43") and packet.text.endswith("[]")
        }
        sent = [packet.text for packet in visit.raw.sent]
        joined = visit.raw.sent[: sent.index("41") if "41" in sent else None]
        last = max((packet.at for packet in joined if packet.text[:2] in {"3", "43"}), default=0.0)
        if not visit.must_ack:
            read.setdefault(visit.user, set()).update(event["id"] for at, _, event in events if at <= last)
    for user, (acks, client) in seen.stock.items():
        connection: list[dict[str, Any]] = []
        for line in client.said:
            if line["on"] == "connect":
                _in_order(user, connection)
                connection = []
            elif line["on"] == "event":
                connection.append(line["payload"])
        _in_order(user, connection)
        ids = {event["id"] for event in client.events}
        heard.setdefault(user, set()).update(ids)
        if acks:
            acked |= {(user, event["seq"]) for event in client.events}
        else:
            read.setdefault(user, set()).update(ids)
    for users in (heard, read):
        for user in {visit.user for visit in seen.visits}:
            users.setdefault(user, set())
    return heard, acked, read


def _in_order(user: str, events: list[dict[str, Any]]) -> None:
    """One connection's events."""
    assert {event["userId"] for event in events} <= {user}
    first = list(dict.fromkeys(event["seq"] for event in events))
    assert first == sorted(first), f"{user} heard {first}"
    ids = {json.dumps([event["seq"], event["id"]]) for event in events}
    assert len(ids) == len(first), "a seq came with two ids"
