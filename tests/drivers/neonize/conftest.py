"""The stand-in with a driver that uses it; and a worker's session with a fake library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
def worker() -> Iterator[Callable[..., Worker]]:
    loop = SteppedLoop()

    def make(**begin: Any) -> Worker:
        return Worker(loop, **begin)

    loop.set_exception_handler(lambda *_: None)
    try:
        yield make
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.settle()
        loop.close()
