"""Short connections of every kind, ended in every way, leave nothing behind: no mapping, no count, no memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.program import Api, Program, api, running
from tests.support.wire import POLLING, WEBSOCKET, Wire, frame

CONNECTIONS = int(os.environ.get("ROUNDTRIP_CHURN", "3600"))
BATCH = 900
"""Connections until all have gone: an allocator keeps its high-water mark, so each batch, and the warm-up, has the same
number of half-open ones at once."""

AT_ONCE = 30
USERS = 240
"""Fewer than the keys that a disconnect is remembered for, so that the warm-up has met them all."""

GROWTH = 12 * 1024 * 1024
WITHIN = 60.0
"""Seconds for all connections."""

TRANSPORTS = ("polling", "websocket", "upgrade")
ENDS = ("close", "abort", "half-open")
KINDS = tuple(itertools.product(TRANSPORTS, ENDS))


async def connect(url: str, transport: str, user: str) -> tuple[Wire, str]:
    """A joined socket, and the sid that its polls name (empty for a websocket)."""
    auth = "40" + json.dumps({"userId": user, "botId": "bot"})
    wire = await Wire(url).open()
    if transport == "websocket":
        assert await wire.websocket() == 101
        await wire.until(b"0{")
        await wire.send(frame(auth))
        await wire.until(b"40{")
        return wire, ""
    sid = await wire.sid()
    polling = f"{POLLING}&sid={sid}"
    assert await wire.ask("POST", polling, auth.encode()) == (200, b"OK")
    while b"40{" not in (await wire.ask("GET", polling))[1]:
        pass
    if transport == "polling":
        return wire, sid
    wire.close()
    wire = await Wire(url).open()
    assert await wire.websocket(f"{WEBSOCKET}&sid={sid}") == 101
    await wire.send(frame("2probe"))
    await wire.until(b"3probe")
    await wire.send(frame("5"))
    return wire, ""


async def end(wire: Wire, sid: str, how: str) -> Wire | None:
    """Leave. A half-open connection is still there, and says nothing any more."""
    if how == "half-open":
        return wire
    if how == "close":
        if sid:
            await wire.ask("POST", f"{POLLING}&sid={sid}", b"1")
        else:
            await wire.send(frame("41") + frame("1") + frame(b"\x03\xe8", 8))
        wire.close()
    else:
        if sid:
            await wire.send(f"GET {POLLING}&sid={sid} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wire.reset()
    return None


async def churn(program: Program, count: int) -> None:
    numbers = iter(range(count))
    left: list[Wire] = []

    async def worker() -> None:
        for number in numbers:
            transport, how = KINDS[number % len(KINDS)]
            wire, sid = await connect(program.url, transport, f"user-{number % USERS}")
            if (kept := await end(wire, sid, how)) is not None:
                left.append(kept)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())
    finally:
        await asyncio.sleep(0)
        for wire in left[:-1000]:
            wire.close()
    await nobody_left(program)
    for wire in left:
        wire.close()


async def nobody_left(program: Program) -> None:
    """Every socket goes: by its goodbye, its reset, or the heartbeat's deadline."""
    async with asyncio.timeout(20), api(program) as admin:
        while (await admin.admin("/debug/sockets"))["totals"]["sockets"]:
            await asyncio.sleep(0.1)


async def settled(program: Program) -> int:
    """Resident bytes, once they stop falling."""
    process = psutil.Process(program.pid)
    best: int = process.memory_info().rss
    since = time.monotonic()
    while time.monotonic() - since < 2.0:
        await asyncio.sleep(0.1)
        now = process.memory_info().rss
        if now < best:
            best, since = now, time.monotonic()
    return best


def total(metrics: dict[str, float], name: str) -> float:
    return sum(value for sample, value in metrics.items() if sample.startswith(f"roundtrip_{name}{{"))


@pytest.mark.slow
@pytest.mark.waits(20)
@pytest.mark.timeout(240)
async def test_thousands_of_short_connections_leave_no_memory_behind(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"handshakes_per_address": 100_000, "handshakes_per_address_burst": 100_000}
    async with running(tmp_path, ping_interval=1, ping_timeout=1, **limits) as program, api(program) as admin:
        for _ in range(2):
            await churn(program, BATCH)
        before = await settled(program)
        began = time.monotonic()
        for _ in range(CONNECTIONS // BATCH):
            await churn(program, BATCH)
        took = time.monotonic() - began
        grown = await settled(program) - before
        print(f"{CONNECTIONS} connections in {took:.1f} s; {grown / 1e6:+.1f} MB on {before / 1e6:.0f} MB")
        await _counted(admin, 2 * BATCH + CONNECTIONS // BATCH * BATCH)
        assert took < WITHIN
        assert grown <= GROWTH


async def _counted(admin: Api, connections: int) -> None:
    """Each connection came once and went once, and nothing is mapped."""
    metrics = await admin.metrics()
    assert total(metrics, "socket_connects_total") == connections
    assert total(metrics, "socket_disconnects_total") == connections
    assert total(metrics, "sockets") == 0
    totals = (await admin.admin("/debug/sockets"))["totals"]
    assert (totals["sockets"], totals["mappedKeys"], totals["users"]) == (0, 0, 0)
