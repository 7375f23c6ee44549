"""Ten thousand clients that all come back at once: `python -m tests.bench.herd [--check]`.

The whole program with the simulated driver and the limits that ship. All clients connect, their connections end at
once, each misses `--missed` events, and all come back at the same moment, each from an address of its own. Printed is
how long it takes until each has its snapshot and what it missed, how late the event loop was meanwhile (a timer every
5 ms), and how many were refused: with an answer that says so, or without one. Takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import uvloop

from roundtrip.app import Backend
from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.runtime import GarbageCollection
from roundtrip.settings import Settings
from tests.bench.generator import command
from tests.bench.run import line, python, start, stop, tell

EVENT: Final = Connected("+15550100", "Ada Lovelace", False)
TICK: Final = 0.005
AT_ONCE: Final = 500
"""Events that are published before the first of them are committed."""

MOST_SECONDS: Final = 8.0
MOST_LAG: Final = 0.1
"""Seconds that the event loop may be late, in 99 of 100 cases."""


class Lag:
    """How late a timer runs, in seconds, and for how much of that the loop's thread had the processor.

    One that is late by some ticks stands for those too that it left out: they would have been late by less.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.late: list[float] = []
        self.busy: list[float] = []
        self._arm()

    def _arm(self) -> None:
        self._cpu = time.thread_time()
        self._due = self._loop.time() + TICK
        self._loop.call_at(self._due, self._measure)

    def _measure(self) -> None:
        for found, seconds in (
            (self.late, self._loop.time() - self._due),
            (self.busy, time.thread_time() - self._cpu),
        ):
            found.append(seconds)
            found += [seconds - TICK * n for n in range(1, int(seconds / TICK))]
        self._arm()

    def figures(self) -> dict[str, float]:
        """What was found since the last call."""
        cuts = {
            name: statistics.quantiles(found, n=100)[98] for name, found in (("late", self.late), ("busy", self.busy))
        }
        most = max(self.late)
        self.late, self.busy = [], []
        return {**cuts, "most": most}


async def serve(clients: int, missed: int) -> None:
    """The backend's process. Prints its URL; then, for each line that it reads, publishes `missed` events to each
    client once nobody is connected and prints "published", or prints how late its loop was since."""
    with tempfile.TemporaryDirectory(prefix="roundtrip-herd-") as folder:
        settings = Settings(
            data_dir=Path(folder),
            auth="trusted",
            whatsapp_driver="simulated",
            port=0,
            admin_port=0,
            log_level="ERROR",
        )
        backend = Backend(settings)
        await backend.start()
        GarbageCollection(lambda _seconds: None).start()
        print(backend.url, flush=True)
        lag = Lag()
        while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if word == "publish":
                while len(backend.registry):
                    await asyncio.sleep(0.05)
                keys = [BotKey(f"user-{number % clients}", "bot") for number in range(clients * missed)]
                for first in range(0, len(keys), AT_ONCE):
                    some = keys[first : first + AT_ONCE]
                    await asyncio.gather(*(backend.courier.publish(key, "link", EVENT) for key in some))
                lag.figures()
                print("published", flush=True)
            else:
                print(json.dumps(lag.figures()), flush=True)
        await backend.stop()


def connect(url: str, clients: int, missed: int) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """All clients at once; returns when each has its snapshot and as many events."""
    load = start(1, *command(url, clients, in_flight=clients, missed=missed))
    while "complete" not in (found := json.loads(line(load))):
        pass
    return load, found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.herd")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--missed", type=int, default=2, help="events that each client missed")
    parser.add_argument("--check", action="store_true", help="fail when a promise is not kept")
    wanted = parser.parse_args()
    serving = start(0, *python("herd"), "--serve", str(wanted.clients), str(wanted.missed))
    try:
        url = line(serving)
        load, first = connect(url, wanted.clients, 0)
        stop(load)
        tell(serving, "publish")
        assert line(serving) == "published"
        load, again = connect(url, wanted.clients, wanted.missed)
        tell(serving, "lag")
        lag = json.loads(line(serving))
        stop(load)
    finally:
        stop(serving)
    for name, found in (("first connect", first), ("reconnect", again)):
        print(
            f"{name:<14} {found['complete']:,} clients in {found['seconds']:.1f} s, "
            f"refused with an answer {found['told']:,}, without {found['untold']:,}"
        )
    print(
        f"loop lag while they reconnect: p99 {lag['late'] * 1000:.0f} ms, at the most {lag['most'] * 1000:.0f} ms; "
        f"p99 of its processor time {lag['busy'] * 1000:.0f} ms"
    )
    kept = again["seconds"] <= MOST_SECONDS and lag["late"] <= MOST_LAG and again["untold"] == 0
    return 0 if kept or not wanted.check else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run(serve(int(sys.argv[2]), int(sys.argv[3])))
    else:
        sys.exit(main())
