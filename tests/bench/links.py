"""What many linked accounts cost, and how soon they are back: `make bench-links`.

The whole program with the real neonize against the stand-in, each in a process of its own. One account is paired, and
its key file copied for the others under their own numbers. For each number of accounts: the memory (PSS) of all the
program's processes, the CPU that they take while nothing happens, the seconds from `kill -9` of the program until every
account is connected again, and the time of a delivery to 200 other sockets, in peace and meanwhile. 1, 32, 256 and
1,000 accounts take a quarter of an hour together, 1,000 of them six minutes.

`--busy` plays one account that gets 10,000 messages in a minute beside others (`tests/whatsapp/busy.py`), which takes
three minutes: once with messages that its device can open, once with such that it cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import structlog
import uvloop

from roundtrip.app import Backend
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.events import Degraded
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkState
from roundtrip.settings import Settings
from tests.bench.generator import command as load_command
from tests.bench.run import line, start, start_publishing, stop
from tests.bench.storm import Clock
from tests.whatsapp import busy as busy_account
from tests.whatsapp.copies import pair_one, prepare
from tests.whatsapp.hosts import Hosts
from tests.whatsapp.stand_in import StandIn, stand_in

SOCKETS = 200
PERIOD = 0.5
"""Seconds between two events to each socket."""
LIMIT = 600.0
MEGABYTE = 1024 * 1024


# the program


async def deliver(backend: Backend) -> None:
    """Events to every socket, evenly over each period, for ever."""
    while True:
        for number in range(SOCKETS):
            start_publishing(backend.courier, BotKey(f"user-{number}", "bot"), "link", Degraded())
            await asyncio.sleep(PERIOD / SOCKETS)


async def serve(folder: str, proxy: str, per_worker: str, *worker: str) -> None:
    """Print the address; for each line of standard input then how many links are connected, and the times found."""
    settings = Settings(
        data_dir=Path(folder),
        whatsapp_proxy=proxy,
        auth="trusted",
        port=0,
        admin_port=0,
        log_level=os.environ.get("BENCH_LOG", "ERROR"),
        max_links_per_user=10_000,
        sessions_per_worker=int(per_worker),
    )
    backend = Backend(settings, NeonizeDriver.of(settings, worker))
    await backend.start()
    backend.courier.confirmations._metrics = Clock(backend.telemetry.metrics, backend.telemetry.event_spans.exemplar)
    stream: asyncio.Task[None] | None = None
    print(backend.url, flush=True)
    while command := await asyncio.to_thread(sys.stdin.readline):
        if command.strip() == "deliver":
            stream = asyncio.create_task(deliver(backend))
        connected = backend.links.counts().get(LinkState.CONNECTED, 0)
        print(json.dumps({"connected": connected, "times": Clock.found}), flush=True)
        Clock.found = []
    if stream is not None:
        stream.cancel()
    await backend.stop()


class Program:
    """The running program, from the measuring side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def ask(self, command: str = "") -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(await asyncio.to_thread(line, self._process))
        return found

    async def connected(self, count: int) -> None:
        """Wait until so many links are connected."""
        async with asyncio.timeout(LIMIT):
            while (await self.ask_connected()) < count:
                await asyncio.sleep(0.1)

    async def ask_connected(self) -> int:
        found = await self.ask()
        self.times += found["times"]
        return int(found["connected"])

    times: list[float]

    def processes(self) -> list[psutil.Process]:
        own = psutil.Process(self._process.pid)
        children = own.children(recursive=True)
        return [own, *(child for child in children if child.status() != psutil.STATUS_ZOMBIE)]

    def memory(self) -> float:
        """MB of PSS of all processes."""
        return sum(process.memory_full_info().pss for process in self.processes()) / MEGABYTE

    def cpu(self) -> float:
        """Seconds of CPU that all processes have taken."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        stop(self._process)


async def start_program(folder: Path, whatsapp: StandIn, per_worker: int) -> tuple[Program, str]:
    command = (sys.executable, "-m", "tests.bench.links", "--serve", str(folder), whatsapp.proxy_url, str(per_worker))
    serving = partial(start, None, *command, *whatsapp.worker_command, env=whatsapp.environment)
    process = await asyncio.to_thread(serving)
    program = Program(process)
    program.times = []
    return program, await asyncio.to_thread(line, process)


@asynccontextmanager
async def sockets(url: str) -> AsyncIterator[None]:
    """200 sockets that acknowledge every event."""
    load = await asyncio.to_thread(start, None, *load_command(url, SOCKETS))
    try:
        await asyncio.to_thread(line, load)
        yield
    finally:
        await asyncio.to_thread(stop, load)


# the figures


async def measure(whatsapp: StandIn, source: Path, count: int, idle: float, per_worker: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="roundtrip-bench-links-") as name:
        folder = Path(name)
        await prepare(folder, source, whatsapp, count)
        program, url = await start_program(folder, whatsapp, per_worker)
        try:
            began = time.monotonic()
            await program.connected(count)
            first = time.monotonic() - began
            await asyncio.sleep(20)
            memory, processes, spent, at = program.memory(), len(program.processes()), program.cpu(), time.monotonic()
            await asyncio.sleep(idle)
            cpu = (program.cpu() - spent) / (time.monotonic() - at)
            async with sockets(url):
                await program.ask("deliver")
                await asyncio.sleep(2)
                await program.ask()
                await asyncio.sleep(15)
                peace = (await program.ask())["times"]
            program.kill()
            killed = time.monotonic()
            program, url = await start_program(folder, whatsapp, per_worker)
            async with sockets(url):
                await program.ask("deliver")
                await asyncio.sleep(1)
                await program.ask()  # what was under way when it was killed
                await program.connected(count)
                back = time.monotonic() - killed
                meanwhile = program.times
        finally:
            await asyncio.to_thread(program.stop)
    return {
        "accounts": count,
        "processes": processes,
        "memory": memory,
        "each": memory / count,
        "cpu": 100 * cpu,
        "started": first,
        "back": back,
        "peace": p99(peace),
        "meanwhile": p99(meanwhile),
    }


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98] if len(times) > 1 else float("nan")


async def busy() -> None:
    for known in (True, False):
        with tempfile.TemporaryDirectory(prefix="roundtrip-bench-busy-") as name:
            (counts := Path(name) / "counts").mkdir()
            async with stand_in() as whatsapp:
                hosts = Hosts(Path(name), whatsapp)
                try:
                    found = await busy_account.measure(hosts, counts, 10_000, 60.0, known=known)
                finally:
                    await hosts.driver.close()
        print(f"that it can {'' if known else 'not '}open: {found}", flush=True)


async def main(wanted: argparse.Namespace) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if wanted.busy:
        await busy()
        return
    print(f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB; up to {wanted.per_worker} a worker")
    with tempfile.TemporaryDirectory(prefix="roundtrip-bench-pair-") as name:
        for count in wanted.accounts:
            async with stand_in() as whatsapp:
                source = await pair_one(Path(name) / str(count), whatsapp)
                f = await measure(whatsapp, source, count, wanted.idle, wanted.per_worker)
            print(
                f"{f['accounts']:>5.0f} accounts in {f['processes']:.0f} processes: {f['memory']:.0f} MB PSS, "
                f"{f['each']:.2f} MB each; idle CPU {f['cpu']:.1f} % of a core; all connected {f['started']:.1f} s "
                f"after a start, {f['back']:.1f} s after kill -9; delivery p99 {f['peace']:.1f} ms in peace, "
                f"{f['meanwhile']:.1f} ms meanwhile",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run(serve(*sys.argv[2:]))
    else:
        parser = argparse.ArgumentParser(prog="make bench-links")
        parser.add_argument("accounts", type=int, nargs="*", default=[1, 32, 256, 1000])
        parser.add_argument("--idle", type=float, default=60.0, help="seconds over which idle CPU is measured")
        parser.add_argument("--per-worker", type=int, default=32)
        parser.add_argument("--busy", action="store_true", help="what one busy account costs those beside it, instead")
        uvloop.run(main(parser.parse_args()))
