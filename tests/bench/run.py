"""Runs one server under the load generator: each on a core of its own, both ended by their standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from roundtrip.delivery.courier import Courier
from roundtrip.events import Payload
from roundtrip.identity import BotKey
from tests.bench.generator import command

ROOT = Path(__file__).parents[2]

BUSIEST: Final = 0.8
"""The share of its core above which the generator may be what is measured: such a run is refused."""


class Run(NamedTuple):
    """What one run measured."""

    rate: float
    """Confirmed events per second."""
    cpu_us: float
    """Microseconds of the server's processor time per event, its children's included."""
    load: float
    """The generator's share of its core."""
    lost: float = 0.0
    """Spans that were dropped on their way out."""
    p99: float | None = None
    """With a pace: seconds from creation to confirmation, of 99 events in 100."""


def start(core: int | None, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    )
    if core is not None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[core % len(cores)]})
    return process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if not said:
        raise RuntimeError(f"{process.args!r} said nothing; exit status {process.wait()}")
    return said


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def cpu(process: subprocess.Popen[str]) -> float:
    """Seconds of processor time of a process and its children."""
    whole = psutil.Process(process.pid)
    return sum(sum(each.cpu_times()[:2]) for each in (whole, *whole.children(recursive=True)))


def rate(
    server: list[str],
    sockets: int,
    seconds: float,
    reply: str = "ack",
    env: Mapping[str, str] | None = None,
    idle: int | None = None,
) -> Run:
    """A server command, which gets SOCKETS and SECONDS as arguments. With `idle` as many sockets more get no events,
    and each client has an address of its own. Raises `RuntimeError` for a run that the generator limited."""
    if idle is not None:
        env = {**(env or {}), "BENCH_IDLE": str(idle)}
    serving = start(0, *server, str(sockets), str(seconds), env=env)
    loading: subprocess.Popen[str] | None = None
    try:
        url = f"http://127.0.0.1:{line(serving)}"
        everybody = sockets + (idle or 0)
        loading = start(1, *command(url, everybody, reply, missed=None if idle is None else 0))
        while "ready" not in (said := json.loads(line(loading))):
            pass
        assert said["ready"] == everybody
        tell(serving, "go")
        served, loaded, begin = cpu(serving), cpu(loading), time.monotonic()
        told = json.loads(line(serving))
        took, found = time.monotonic() - begin, float(told["rate"])
        cpu_us, load = (cpu(serving) - served) / (found * took) * 1e6, (cpu(loading) - loaded) / took
        run = Run(found, cpu_us, load, told.get("spans_lost", 0.0), told.get("p99"))
    finally:
        if loading is not None:
            stop(loading)
        stop(serving)
    if run.load > BUSIEST:
        raise RuntimeError(f"the generator took {run.load:.0%} of its core: it may be what was measured")
    return run


def stop(process: subprocess.Popen[str]) -> None:
    """Close its standard input, which ends it; kill it if that does not help."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_publishing(courier: Courier, key: BotKey, link_id: str, payload: Payload) -> None:
    """Publish without waiting for the commit, and without a task, whose cost would be measured with the event's."""
    publication = courier.publish(key, link_id, payload)
    publication.send(None)
    publication.close()


def python(module: str) -> list[str]:
    return [sys.executable, "-m", f"tests.bench.{module}"]
