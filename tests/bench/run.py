"""Runs one server under the load generator: each on a core of its own, both ended by their standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from roundtrip.delivery.courier import Courier
from roundtrip.events import Payload
from roundtrip.identity import BotKey

ROOT = Path(__file__).parents[2]


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


def rate(
    server: list[str], sockets: int, seconds: float, reply: str = "ack", env: Mapping[str, str] | None = None
) -> float:
    """Confirmed events per second of a server command, which gets SOCKETS and SECONDS as arguments."""
    serving = start(0, *server, str(sockets), str(seconds), env=env)
    loading: subprocess.Popen[str] | None = None
    try:
        url = f"http://127.0.0.1:{line(serving)}"
        loading = start(1, sys.executable, "-m", "tests.bench.load", url, str(sockets), reply)
        assert line(loading) == "ready"
        assert serving.stdin is not None
        serving.stdin.write("go\n")
        serving.stdin.flush()
        return float(json.loads(line(serving))["rate"])
    finally:
        if loading is not None:
            stop(loading)
        stop(serving)


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
