"""Three nodes, a PostgreSQL and a hundred stock clients, while parts of it die, stop, hang and come back at random.

What must hold in the end, whatever happened: each event that was stored has one end or is pending, each client saw
every event of its key that was not superseded, in order, and no link had two sessions at one time.
`ROUNDTRIP_CHAOS_SECONDS` sets how long it lasts (three minutes in CI, else half a one), `ROUNDTRIP_CHAOS_SEED` repeats
the choices of a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest

from roundtrip.events import EventType
from roundtrip.outbox.records import Outcome
from tests.support.cluster import Node, cluster, overlaps
from tests.support.postgres import Postgres, server
from tests.support.swarm import Swarm, swarm

CI: Final = os.environ.get("CI") == "true"
SECONDS: Final = float(os.environ.get("ROUNDTRIP_CHAOS_SECONDS", "180" if CI else "30"))
HEAL: Final = 90.0
"""Seconds in which all is well again when nothing is broken any more."""

pytestmark = [pytest.mark.slow, pytest.mark.waits(SECONDS + 60), pytest.mark.timeout(SECONDS + 3 * HEAL)]

CLIENTS: Final = 100
CALLERS: Final = 6
LEASE: Final = 5.0
AWAKE: Final = 1.0
"""Seconds in which a process that was paused for longer than its lease must have ended its sessions."""

SETTINGS: Final[dict[str, Any]] = {
    "lease": LEASE,
    "simulated_speed": 10,
    "simulated_scan_after": 0.2,
    "ack_timeout": 1,
    "ping_interval": 2,
    "ping_timeout": 2,
    "disconnect_grace": 0.2,
    "max_sockets_per_key": 16,
}
CONFIRMED: Final = (Outcome.ACKED, Outcome.RECEIVED)
CODES: Final = (EventType.QR, EventType.PAIRING_CODE)
"""They end with their code, whether somebody saw it or not."""

START_REFUSED: Final = re.compile(r" 1: roundtrip: (The store|The links' records|The event store)\b.* cannot ")

ACTIONS: Final = ("disconnect", "reconnect", "disconnect", "reconnect", "degrade", "expire")

_HISTORY: Final = """
CREATE TABLE owner_history (n bigserial, link_id text, owner text, fence bigint);
CREATE FUNCTION note_owner() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO owner_history (link_id, owner, fence) VALUES (NEW.link_id, NEW.owner, NEW.fence); RETURN NEW;
END $$;
CREATE TRIGGER note_owner AFTER UPDATE ON links FOR EACH ROW
    WHEN (NEW.owner IS DISTINCT FROM OLD.owner AND NEW.link_id = OLD.link_id) EXECUTE FUNCTION note_owner();
"""


class Scene:
    """What runs, and what was done to it."""

    def __init__(self, nodes: list[Node], postgres: Postgres, session: aiohttp.ClientSession, seed: int) -> None:
        self.nodes = nodes
        self.postgres = postgres
        self.session = session
        self.chance = random.Random(seed)  # noqa: S311  # repeatable
        self.done: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.broken: set[str] = set()
        """Nodes that something is done to, and `postgres`."""
        self.exits: list[str] = []
        """Of nodes that ended by themselves."""
        self.over = asyncio.Event()

    # people

    async def call(self, user: str, method: str, path: str, body: Any = None) -> int:
        """Ask any node that runs; the status, or 0 when there was no answer."""
        node = self.chance.choice([node for node in self.nodes if node.program is not None] or self.nodes)
        status = 0
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            headers = {"X-User-Id": user}
            async with self.session.request(method, node.url + path, json=body, headers=headers) as response:
                await response.read()
                status = response.status
        self.answers[f"{method} {status}"] += 1
        return status

    async def people(self) -> None:
        """Link accounts, lose and find their networks, now and then remove one, until all is over."""
        while not self.over.is_set():
            user = f"user-{self.chance.randrange(CLIENTS)}"
            what = self.chance.random()
            if what < 0.35:
                await self.call(user, "PUT", "/api/bots/bot/link")
            elif what < 0.97:
                action = {"action": self.chance.choice(ACTIONS)}
                await self.call(user, "POST", "/api/bots/bot/link/simulate", action)
            else:
                await self.call(user, "DELETE", "/api/bots/bot/link")
            await asyncio.sleep(0.05)

    async def watch(self) -> None:
        """Start nodes that ended by themselves."""
        while True:
            for node in self.nodes:
                if node.name not in self.broken and (words := await node.watch()) is not None:
                    self.exits.append(f"{node.name} {words}")
            await asyncio.sleep(0.5)

    # what breaks

    async def break_things(self, seconds: float) -> None:
        """One or two things at a time, each of another part."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                parts = [part for part in [*self.nodes, None] if self._name(part) not in self.broken]
                if len(self.broken) < 2 and parts:
                    part = self.chance.choice(parts)
                    work = self.chance.choice(NODE_TROUBLE) if part is not None else postgres_restarts
                    self.broken.add(self._name(part))
                    self.done[work.__name__] += 1
                    group.create_task(self._one(work, part))
                await asyncio.sleep(self.chance.uniform(1.0, 4.0))

    @staticmethod
    def _name(part: Node | None) -> str:
        return "postgres" if part is None else part.name

    async def _one(self, work: Callable[..., Awaitable[None]], part: Node | None) -> None:
        try:
            await (work(self) if part is None else work(self, part))
        finally:
            self.broken.discard(self._name(part))


async def is_killed(it: Scene, node: Node) -> None:
    await node.kill()
    await asyncio.sleep(it.chance.uniform(0, LEASE * 1.5))
    await node.start(ready=False)


async def is_stopped(it: Scene, node: Node) -> None:
    with suppress(TimeoutError):
        await node.stop()
    await node.kill()
    await asyncio.sleep(it.chance.uniform(0, 2))
    await node.start(ready=False)


async def is_paused(it: Scene, node: Node) -> None:
    node.pause()
    await asyncio.sleep(it.chance.uniform(0.2, LEASE * 2))
    node.resume()


async def is_cut_off(it: Scene, node: Node) -> None:
    """Packets vanish, in both directions, and nobody is told."""
    node.proxy.silent = True
    await asyncio.sleep(it.chance.uniform(0.2, LEASE * 2))
    node.proxy.silent = False
    node.proxy.cut()


async def loses_connections(_it: Scene, node: Node) -> None:
    node.proxy.cut()


async def has_a_slow_network(it: Scene, node: Node) -> None:
    node.proxy.delay = 0.05
    await asyncio.sleep(it.chance.uniform(1, 4))
    node.proxy.delay = 0.0


async def postgres_restarts(it: Scene) -> None:
    await asyncio.to_thread(it.postgres.stop, it.chance.choice([signal.SIGINT, signal.SIGQUIT]))
    await asyncio.sleep(it.chance.uniform(0, LEASE))
    await asyncio.to_thread(it.postgres.start)


NODE_TROUBLE: Final = (is_killed, is_killed, is_stopped, is_paused, is_cut_off, loses_connections, has_a_slow_network)


async def until(what: str, condition: Callable[[], Awaitable[Any]], within: float = HEAL) -> None:
    deadline = time.monotonic() + within
    while (left := await condition()) not in (0, None, [], {}, False):
        assert time.monotonic() < deadline, f"after {within:g} s, {what}: {left}"
        await asyncio.sleep(0.5)


async def everybody_links(it: Scene) -> None:
    """As its person would: until some node takes it."""

    async def link(user: str) -> None:
        async with asyncio.timeout(HEAL):
            while await it.call(user, "PUT", "/api/bots/bot/link") not in (200, 202):
                await asyncio.sleep(0.2)

    for first in range(0, CLIENTS, 10):
        await asyncio.gather(*(link(f"user-{number}") for number in range(first, first + 10)))


async def healed(it: Scene, clients: Swarm, db: asyncpg.Connection[Any]) -> None:
    """Everybody is there, every account is connected, and nothing waits."""
    for node in it.nodes:
        async with asyncio.timeout(HEAL):
            while node.program is None or not await node.program.is_ready():
                await asyncio.sleep(0.2)

    async def away() -> list[Any]:
        return [(n, client["refused"]) for n, client in enumerate(await clients.report()) if not client["connected"]]

    await until("clients are not connected", away)

    await everybody_links(it)
    for number in range(CLIENTS):
        await it.call(f"user-{number}", "POST", "/api/bots/bot/link/simulate", {"action": "reconnect"})

    async def offline() -> list[Any]:
        rows = await db.fetch("SELECT user_id, state, owner FROM links WHERE state <> 'connected' LIMIT 5")
        for row in rows:
            await it.call(row["user_id"], "PUT", "/api/bots/bot/link")
            await it.call(row["user_id"], "POST", "/api/bots/bot/link/simulate", {"action": "reconnect"})
        return [tuple(row) for row in rows]

    await until("accounts are not connected", offline)

    async def pending() -> list[Any]:
        rows = await db.fetch(
            "SELECT k.user_id, e.seq, e.type, e.attempts FROM events e JOIN keys k USING (key_id) "
            "WHERE e.outcome = 0 LIMIT 3"
        )
        return [tuple(row) for row in rows]

    await until("events wait", pending)


async def test_whatever_breaks_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    seed = int(os.environ.get("ROUNDTRIP_CHAOS_SEED", "0")) or secrets.randbelow(1 << 31)
    print(f"ROUNDTRIP_CHAOS_SEED={seed}")
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(server())
        names = ("one", "two", "three")
        nodes = await stack.enter_async_context(cluster(tmp_path, postgres.port, "postgres", *names, **SETTINGS))
        timeout = aiohttp.ClientTimeout(total=4)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        urls = [node.url for node in nodes]
        clients = await stack.enter_async_context(swarm(urls[0], CLIENTS, urls=urls))
        await clients.connected()
        db = await asyncpg.connect(postgres.url)
        await db.execute(_HISTORY)
        await db.close()
        it = Scene(nodes, postgres, session, seed)
        await everybody_links(it)
        watching = asyncio.create_task(it.watch())
        stack.callback(watching.cancel)
        callers = [asyncio.create_task(it.people()) for _ in range(CALLERS)]
        await it.break_things(SECONDS)
        it.over.set()
        await asyncio.gather(*callers)
        db = await asyncpg.connect(postgres.url)
        try:
            await healed(it, clients, db)
            await _check(it, db, await clients.report())
        finally:
            print(dict(it.done), dict(it.answers), it.exits)
            for number, node in enumerate(nodes):
                (Path(tmp_path) / f"log-{number}").write_text(
                    "\n--- killed\n".join([*node.logs, node.program.text() if node.program else ""])
                )
            await db.close()


async def _check(it: Scene, db: asyncpg.Connection[Any], report: list[dict[str, Any]]) -> None:
    # A node ends by itself only when it finds no store at its start: with status 1, and one line that says so
    assert [words for words in it.exits if not START_REFUSED.search(words)] == []
    rows = await db.fetch(
        "SELECT k.user_id, k.bot_id, k.last_seq, e.seq, e.id::text, e.outcome, "
        "e.type, e.attempts FROM events e JOIN keys k USING (key_id) "
        "ORDER BY k.user_id, e.seq"
    )
    assert len(rows) > CLIENTS
    # Each event once, each key's numbers without a gap
    assert len({row["id"] for row in rows}) == len(rows)
    seqs: dict[str, list[int]] = {}
    for row in rows:
        assert row["bot_id"] == "bot"
        seqs.setdefault(row["user_id"], []).append(row["seq"])
    assert all(found == list(range(1, len(found) + 1)) for found in seqs.values())
    # The sums are those of the rows: each event was resolved exactly once
    counted = Counter(row["outcome"] for row in rows)
    sums = dict(await db.fetch("SELECT outcome, sum(n)::bigint FROM totals GROUP BY outcome"))
    assert counted[0] == 0
    assert sums.pop(0) == len(rows)
    assert {outcome: n for outcome, n in sums.items() if n} == dict(counted)
    # Everybody got everything that was confirmed, once in order; nothing else ended but what need not be told any more
    for number, client in enumerate(report):
        own = [row for row in rows if row["user_id"] == f"user-{number}"]
        wanted = [row["id"] for row in own if row["outcome"] in CONFIRMED]
        missing = [tuple(row) for row in own if row["outcome"] in CONFIRMED and row["id"] not in client["ids"]]
        assert not missing, f"user-{number} never got {missing}"
        lost = [tuple(row) for row in own if row["outcome"] not in CONFIRMED and row["outcome"] != Outcome.SUPERSEDED]
        assert all(row[5] == Outcome.EXPIRED and row[6] in CODES for row in lost), lost
        assert (client["disorder"], client["changed"]) == (0, 0), f"user-{number}"
        place = {id_: n for n, id_ in enumerate(client["ids"])}
        assert [place[id_] for id_ in wanted] == sorted(place[id_] for id_ in wanted)
    # No link had two owners
    last: dict[str, int] = {}
    for link_id, owner, fence in await db.fetch("SELECT link_id, owner, fence FROM owner_history ORDER BY n"):
        if owner is not None:
            assert fence > last.get(link_id, 0), f"{link_id} was given to {owner} under an old number"
            last[link_id] = fence
    assert last, "no link changed its owner"
    assert len({link for node in it.nodes for link in node.sessions()}) >= CLIENTS, "sessions were not recorded"
    both = [found for found in overlaps(it.nodes) if not _wakes(it, found)]
    assert not both, f"online at two nodes: {both[:5]}"


def _wakes(it: Scene, found: tuple[str, str, str, float]) -> bool:
    """Whether one of the two had just been woken, and ended its session at once."""
    link, one, other, seconds = found
    if seconds > AWAKE:
        return False
    for node in it.nodes:
        woken = {pause.ended for pause in node.pauses}
        if node.name in (one, other):
            spans = node.sessions().get(link, ())
            if any(span.began in woken and span.ended - span.began < AWAKE * 1e9 for span in spans):
                return True
    return False
