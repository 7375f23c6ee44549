from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from roundtrip import runtime as module
from roundtrip.runtime import GarbageCollection


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Cycle:
    def __init__(self) -> None:
        self.me = self


async def test_collections_are_measured_and_everything_is_looked_at_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FULL_INTERVAL", 0.01)
    pauses: list[float] = []
    collector = GarbageCollection(pauses.append)
    collector.start()
    try:
        for _ in range(3):
            before = len(pauses)
            Cycle()
            async with asyncio.timeout(5):
                while len(pauses) == before:
                    await asyncio.sleep(0.01)
        assert all(0 <= pause < 5 for pause in pauses)
        assert not [it for it in gc.get_objects() if type(it) is Cycle]
    finally:
        collector.stop()
    count = len(pauses)
    gc.collect()
    assert len(pauses) == count, "nothing is left behind"


async def test_a_look_that_would_take_too_long_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FULL_INTERVAL", 0.01)
    monkeypatch.setattr(module, "MAX_PAUSE", 1e-9)
    pauses: list[float] = []
    collector = GarbageCollection(pauses.append)
    collector.start()
    try:
        kept = [[number] for number in range(1000)]
        async with asyncio.timeout(5):
            while collector.postponed < 3:
                await asyncio.sleep(0.01)
        assert collector.expected() > 1e-9
        assert not [pause for pause in pauses if pause > 1], kept[:1]
    finally:
        collector.stop()
