"""What each input of the public listener costs, without a token and from a member.

`python -m tests.bench.floods [name …]` prints the table.

The program runs in a process of its own with its defaults and jwt, the flooder in another. Meanwhile a third process
asks `/healthz` of the program and of a bystander that serves nothing else: the bystander's answers say what the
machine itself adds. Memory is the program's resident set, at its highest, beyond what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from aiohttp import web

from tests.bench.flooders import FLOODS, Attack, Flood
from tests.support.program import Program, running
from tests.support.tokens import ISSUER, private_key, public_pem, token

BEFORE = 0.5
"""Seconds of peace before each flood."""

PROBE_PAUSE = 0.02


@dataclass
class Finding:
    """Memory in bytes, times in milliseconds."""

    name: str
    limit: str
    connections: int
    sent: int
    grown: int
    kept: int
    """Still held a moment after the flood has gone."""
    slowest: float
    """99 of 100 answers to others came within this, while the flood ran."""
    peace: float
    """The same before the flood."""
    bystander: float
    """The same of a server that nobody floods, while the flood ran."""
    answers: dict[str, int]
    """What the sender got."""
    tracebacks: int
    """In the program's log."""

    @property
    def late(self) -> float:
        """By how much the flood delayed others, beyond what the machine did."""
        return max(0.0, self.slowest - max(self.peace, self.bystander))


class Probe:
    """Asks two servers in turn, and notes how long each answer took."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.took: list[float] = []
        self.failures = 0

    async def run(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                async with self._session.get(
                    f"{self._url}/healthz", timeout=aiohttp.ClientTimeout(total=10)
                ) as response:
                    await response.read()
            except (aiohttp.ClientError, TimeoutError):
                self.failures += 1
            self.took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(PROBE_PAUSE)

    def p99(self) -> float:
        """Of what was noted since the last call."""
        took, self.took = sorted(self.took), []
        return round(took[min(len(took) - 1, int(len(took) * 0.99))], 1) if took else 0.0


async def bystander() -> None:
    """A server that does nothing else; prints its address, and ends with its standard input."""
    app = web.Application()

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


async def attack(name: str, url: str, seconds: float, ticket: str) -> None:
    """The flooder's process: prints what it sent and got."""
    flood = next(flood for flood in FLOODS if flood.name == name)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    told = Attack(url, time.monotonic() + seconds, flood.budget, ticket)
    await flood.run(told)
    print(json.dumps([len(told.wires), told.sent, told.answers]), flush=True)
    await asyncio.to_thread(sys.stdin.read)  # the connections stay until somebody has looked


async def _process(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.floods",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        process.kill()
        await process.wait()


class Highest:
    """The resident set of a process, looked at all the time."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.bytes = self.now()

    def now(self) -> int:
        return int(self._process.memory_info().rss)

    async def run(self) -> None:
        while True:
            self.bytes = max(self.bytes, self.now())
            await asyncio.sleep(0.05)


async def measure(flood: Flood, folder: Path, seconds: float) -> Finding:
    """One flood against a fresh program."""
    options: dict[str, Any] = {"auth": "jwt", "jwt_public_key": public_pem(private_key("ES256")), "jwt_issuer": ISSUER}
    async with aiohttp.ClientSession() as session:
        calm = await _process("bystander")
        try:
            async with running(folder, **options) as program:
                return await _measured(flood, program, session, (await _line(calm)).strip(), seconds)
        finally:
            await _end(calm)


async def _measured(
    flood: Flood, program: Program, session: aiohttp.ClientSession, bystander_url: str, seconds: float
) -> Finding:
    probe, calm = Probe(session, program.url), Probe(session, bystander_url)
    flooder = await _process("attack", flood.name, program.url, str(seconds), token(algorithm="ES256"))
    highest = Highest(program.pid)
    tasks = [asyncio.ensure_future(work.run()) for work in (probe, calm)]
    try:
        await _line(flooder)
        await asyncio.sleep(BEFORE)
        peace = probe.p99()
        calm.took.clear()
        before = highest.now()
        tasks.append(asyncio.ensure_future(highest.run()))
        assert flooder.stdin is not None
        flooder.stdin.write(b"go\n")
        said = await asyncio.wait_for(_line(flooder), seconds + 30)
        assert said, f"the flooder of {flood.name} died"
        connections, sent, answers = json.loads(said)
        slowest, bystanders = probe.p99(), calm.p99()
        await asyncio.sleep(0.3)
        grown = highest.bytes - before
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _end(flooder)
    await asyncio.sleep(0.3)
    return Finding(
        name=flood.name,
        limit=flood.limit,
        connections=connections,
        sent=sent,
        grown=grown,
        kept=highest.now() - before,
        slowest=slowest,
        peace=peace,
        bystander=bystanders,
        answers=answers,
        tracebacks=program.text().count("Traceback"),
    )


def table(findings: Sequence[Finding]) -> str:
    """Two lines a flood."""
    memory = f"{'sent':>9} {'held':>9} {'a byte':>7} {'after':>9}"
    lines = [f"{'flood':<32} {'opened':>6} {memory} {'others p99':>11} {'bystander':>10}  sender gets"]
    for it in findings:
        lines.append(
            f"{it.name:<32} {it.connections:>6} {it.sent / 1e6:>6.2f} MB {it.grown / 1e6:>6.1f} MB "
            f"{it.grown / max(1, it.sent):>7.2f} {it.kept / 1e6:>6.1f} MB {it.slowest:>8.1f} ms "
            f"{it.bystander:>7.1f} ms  "
            + (", ".join(f"{count} x {what}" for what, count in Counter(it.answers).most_common(4)) or "nothing")
        )
        lines.append(f"{'':<34}bounded by: {it.limit}" + (f"; {it.tracebacks} tracebacks" if it.tracebacks else ""))
    delay = statistics.fmean([it.late for it in findings]) if findings else 0.0
    return "\n".join([*lines, f"\nothers were delayed by {delay:.1f} ms on average, beyond what the machine did"])


async def main(names: Sequence[str], seconds: float, *, as_json: bool) -> None:
    findings = []
    for flood in FLOODS:
        if not names or flood.name in names:
            with tempfile.TemporaryDirectory(prefix="roundtrip-flood-") as folder:
                findings.append(await measure(flood, Path(folder), seconds))
                print(f"{flood.name} …", file=sys.stderr, flush=True)
    print(json.dumps([asdict(finding) for finding in findings]) if as_json else table(findings))


if __name__ == "__main__":
    if sys.argv[1:2] == ["bystander"]:
        asyncio.run(bystander())
    elif sys.argv[1:2] == ["attack"]:
        asyncio.run(attack(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5]))
    else:
        parser = argparse.ArgumentParser(prog="python -m tests.bench.floods")
        parser.add_argument("names", nargs="*", metavar="name", help="of the floods to run; all by default")
        parser.add_argument("--seconds", type=float, default=4.0, help="of each flood")
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")
        wanted = parser.parse_args()
        asyncio.run(main(wanted.names, wanted.seconds, as_json=wanted.json))
