"""How fast the outboxes are, SQLite and PostgreSQL in turns: `python -m tests.bench.outbox [--check]`.

One event is appended, and resolved in the callback that says it is committed, with at most WINDOW events on the way.
`cpu` counts all threads of this process: it is what an event costs of one core in the backend. PostgreSQL's own is not
in it, but runs on the same machine, and flushes its log at each commit as it ships. `one at a time` is an idle outbox.
With `--check` the exit status is 1 when PostgreSQL is slower than the project promises.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

import uvloop

from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.postgres.database import Database
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from roundtrip.outbox.records import Attempt, Mode, Outcome, Resolution, StoredEvent
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.support.drafts import CONNECTED, Clock, draft, store
from tests.support.postgres import Postgres, server

EVENTS = 40_000
KEYS = 1000
WINDOWS = (64, 256, 1000)


class Measured(Outbox, Protocol):
    on_write: Callable[[float], None]


Opened: TypeAlias = Callable[[], AbstractAsyncContextManager[Measured]]


@asynccontextmanager
async def sqlite() -> AsyncIterator[Measured]:
    with tempfile.TemporaryDirectory() as name:
        outbox = SqliteOutbox(Path(name))
        await outbox.start()
        yield outbox
        await outbox.close()


def postgres(server: Postgres) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Measured]:
        database = Database(server.url_of(server.empty_database()))
        await database.prepare()
        lease = NodeLease(database, "bench", 600)
        await lease.join()
        outbox = PostgresOutbox(database, lease)
        await outbox.start()
        yield outbox
        await outbox.close()
        await lease.leave()

    return opened


async def one_by_one(opened: Opened, count: int = 300) -> list[float]:
    """Milliseconds from each append to its callback."""
    clock, taken = Clock(), []
    async with opened() as outbox:
        for number in range(count):
            started = time.perf_counter()
            await store(outbox, draft(CONNECTED, clock, BotKey("user", str(number % KEYS))))
            taken.append((time.perf_counter() - started) * 1000)
    return taken


async def flood(opened: Opened, window: int) -> tuple[float, float, int]:
    """Seconds of wall clock and of processor, and the number of commits, for EVENTS events."""
    clock = Clock()
    commits, left, finished = 0, EVENTS, asyncio.Event()
    keys = [BotKey("user", str(number)) for number in range(KEYS)]
    to_send = iter(range(EVENTS))

    def on_write(_: float) -> None:
        nonlocal commits
        commits += 1

    async with opened() as outbox:

        def done(event: StoredEvent | OutboxError) -> None:
            nonlocal left
            assert isinstance(event, StoredEvent)
            attempt = Attempt(at=event.created_at, mode=Mode.LIVE, sockets=1, ack_at=event.created_at, sids=("x" * 20,))
            outbox.resolve(Resolution(event.key, event.seq, Outcome.ACKED, event.created_at + 1, [attempt]))
            left -= 1
            if not left:
                finished.set()
            send()

        def send() -> None:
            number = next(to_send, None)
            if number is not None:
                outbox.append(draft(CONNECTED, clock, keys[number % KEYS]), done)

        outbox.on_write = on_write
        gc.freeze()
        started, processor = time.perf_counter(), time.process_time()
        for _ in range(window):
            send()
        await finished.wait()
        await outbox.last_seq(keys[0])
        taken, used = time.perf_counter() - started, time.process_time() - processor
        assert sum(outbox.totals().pending.values()) == 0
    return taken, used, commits


LEAST_RATE = 0.9
"""Of PostgreSQL's events a second to SQLite's."""

MOST_CPU = 0.5
"""Of what an event costs in the backend's process."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.outbox")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="fail when a promise is not kept")
    arguments = parser.parse_args()
    kept = True
    with server(fsync=True) as running:
        stores: dict[str, Opened] = {"sqlite": sqlite, "postgresql": postgres(running)}
        for name, opened in stores.items():
            taken = uvloop.run(one_by_one(opened))
            p99 = statistics.quantiles(taken, n=100)[98]
            print(f"{name:10} one at a time: p50 {statistics.median(taken):.2f} ms, p99 {p99:.2f} ms")
        for window in WINDOWS:
            found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in stores}
            for _ in range(arguments.turns):
                for name, opened in stores.items():
                    found[name].append(uvloop.run(flood(opened, window)))
            walls = {name: statistics.median(run[0] for run in runs) for name, runs in found.items()}
            used = {name: statistics.median(run[1] for run in runs) for name, runs in found.items()}
            for name, runs in found.items():
                print(
                    f"{name:10} {window:5} on the way: {EVENTS / walls[name]:8,.0f} events/s, "
                    f"{used[name] / EVENTS * 1e6:5.1f} µs cpu per event, {EVENTS / runs[0][2]:6.1f} events per commit"
                )
            rate, cpu = walls["sqlite"] / walls["postgresql"], used["postgresql"] / used["sqlite"]
            print(f"{'':10} {window:5} on the way: PostgreSQL has {rate:.2f} of the rate, {cpu:.2f} of the cpu")
            kept = kept and rate >= LEAST_RATE and cpu <= MOST_CPU
    return 0 if kept or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
