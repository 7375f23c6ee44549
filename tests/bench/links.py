"""What many linked accounts cost, and how soon they are back: `make bench-links`.

The whole program with the real neonize against the stand-in, each in a process of its own. One account is paired, and
its key file copied for the others under their own numbers. For each number of accounts: the memory (PSS) of all the
program's processes, the CPU that they take while nothing happens, the seconds from `kill -9` of the program until every
account is connected again, and the time of a delivery to 200 other sockets, in peace and meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
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
import uvloop

from roundtrip.app import Backend
from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.events import Degraded
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkRecord, LinkState, store_name
from roundtrip.links.store import LinkStore
from roundtrip.settings import Settings
from tests.bench.run import line, start, start_publishing, stop
from tests.bench.storm import Clock
from tests.support.reports import ReportRecorder
from tests.whatsapp.accounts import Account
from tests.whatsapp.stand_in import StandIn, stand_in

SOCKETS = 200
PERIOD = 0.5
"""Seconds between two events to each socket."""
FIRST = "447441000000"
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
        return [own, *own.children(recursive=True)]

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
    load = await asyncio.to_thread(start, None, sys.executable, "-m", "tests.bench.load", url, str(SOCKETS), "ack")
    try:
        await asyncio.to_thread(line, load)
        yield
    finally:
        await asyncio.to_thread(stop, load)


# the accounts


async def pair_one(folder: Path, whatsapp: StandIn) -> Path:
    """The key file of an account that was paired."""
    driver = NeonizeDriver(
        whatsapp.proxy_url, worker_command=whatsapp.worker_command, environment={**os.environ, **whatsapp.environment}
    )
    reports = ReportRecorder()
    store = folder / "first.db"
    await driver.start(d.SessionSpec("first", store, None), reports)
    await whatsapp.scan((await reports.next(d.QrShown)).qr, FIRST, "Person")
    await reports.next(d.Online)
    await driver.close()
    return store


def copy_account(source: Path, target: Path, phone: str) -> None:
    """The same keys under another number: every text in the file that holds the number gets the other one."""
    shutil.copy(source, target)
    with contextlib.closing(sqlite3.connect(target)) as db, db:
        db.execute("PRAGMA foreign_keys = off")
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})").fetchall():
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    db.execute(
                        f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?",  # noqa: S608
                        (FIRST, phone, f"%{FIRST}%"),
                    )
    target.chmod(0o600)


async def prepare(folder: Path, source: Path, whatsapp: StandIn, count: int) -> None:
    """A data folder with so many linked accounts, and their phones."""
    store = LinkStore(folder)
    await store.open()
    now, first = time.time(), whatsapp.accounts[FIRST]
    for number in range(count):
        phone, link_id = str(int(FIRST) + number), f"link{number:08}"
        await asyncio.to_thread(copy_account, source, folder / "sessions" / store_name(link_id), phone)
        record = LinkRecord(BotKey(f"owner-{number}", "bot"), link_id, LinkState.CONNECTED, now, now, f"+{phone}")
        await store.save(_paired(record))
        if number:
            whatsapp.accounts[phone] = Account(
                phone, "Person", key=first.key, device=first.device, device_key=first.device_key
            )
    await store.close()


def _paired(record: LinkRecord) -> LinkRecord:
    return LinkRecord(
        record.key,
        record.link_id,
        record.state,
        record.since,
        record.started_at,
        record.phone_number,
        "Person",
        paired=True,
        connected_before=True,
    )


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


async def main(wanted: argparse.Namespace) -> None:
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
        uvloop.run(main(parser.parse_args()))
