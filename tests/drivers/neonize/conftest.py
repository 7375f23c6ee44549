"""The stand-in with a driver that uses it; and a worker's session with a fake library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roundtrip.drivers.neonize import session as worker_session
from tests.drivers.neonize.fake_library import Worker
from tests.drivers.neonize.helpers import Bench
from tests.support.stepped_loop import SteppedLoop
from tests.whatsapp.stand_in import StandIn, stand_in


@pytest.fixture
async def whatsapp() -> AsyncIterator[StandIn]:
    async with stand_in() as server:
        yield server


@pytest.fixture
async def bench(tmp_path: Path, whatsapp: StandIn) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, whatsapp)
    try:
        yield bench
    finally:
        await bench.driver.close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    loop = SteppedLoop()
    made: list[Worker] = []

    def leave(code: int) -> None:
        made[-1].exit(code)

    def make(**begin: Any) -> Worker:
        started = Worker.__new__(Worker)
        made.append(started)
        started.__init__(loop, **begin)  # type: ignore[misc]  # the end may come while it starts
        return started

    monkeypatch.setattr(worker_session.os, "_exit", leave)  # type: ignore[attr-defined]
    loop.set_exception_handler(lambda *_: None)
    try:
        yield make
    finally:
        for one in made:
            one.ended = one.ended or 0
            one.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.settle()
        loop.close()
