"""How fast the SQLite outbox is: `python -m tests.bench.outbox`. Prints events/s and µs per event.

One event is appended, and resolved in the callback that says it is committed, with at most WINDOW events on the way.
`cpu` counts both threads: it is what an event costs of one core. The first line is an idle outbox, one event a time.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Attempt, Mode, Outcome, Resolution, StoredEvent
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.support.drafts import CONNECTED, Clock, draft, store

EVENTS = 40_000
KEYS = 1000
WINDOWS = (64, 256, 1000)


async def one_by_one(folder: Path, count: int = 300) -> list[float]:
    """Milliseconds from each append to its callback."""
    outbox, clock, taken = SqliteOutbox(folder), Clock(), []
    await outbox.start()
    for number in range(count):
        started = time.perf_counter()
        await store(outbox, draft(CONNECTED, clock, BotKey("user", str(number % KEYS))))
        taken.append((time.perf_counter() - started) * 1000)
    await outbox.close()
    return taken


async def flood(folder: Path, window: int) -> tuple[float, float, int]:
    """Seconds of wall clock and of processor, and the number of commits, for EVENTS events."""
    outbox, clock = SqliteOutbox(folder), Clock()
    commits, left, finished = 0, EVENTS, asyncio.Event()
    keys = [BotKey("user", str(number)) for number in range(KEYS)]
    to_send = iter(range(EVENTS))

    def on_write(_: float) -> None:
        nonlocal commits
        commits += 1

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
    await outbox.start()
    gc.freeze()
    started, processor = time.perf_counter(), time.process_time()
    for _ in range(window):
        send()
    await finished.wait()
    await outbox.last_seq(keys[0])
    taken, used = time.perf_counter() - started, time.process_time() - processor
    assert sum(outbox.totals().pending.values()) == 0
    await outbox.close()
    return taken, used, commits


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken = uvloop.run(one_by_one(folder / "idle"))
        print(
            f"one at a time: p50 {statistics.median(taken):.2f} ms, p99 {statistics.quantiles(taken, n=100)[98]:.2f} ms"
        )
        for window in WINDOWS:
            wall, used, commits = uvloop.run(flood(folder / str(window), window))
            print(
                f"{window:5} on the way: {EVENTS / wall:8,.0f} events/s, {wall / EVENTS * 1e6:5.1f} µs wall, "
                f"{used / EVENTS * 1e6:5.1f} µs cpu per event, {EVENTS / commits:6.1f} events per commit"
            )


if __name__ == "__main__":
    main()
