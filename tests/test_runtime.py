"""Garbage collection that is kept short, file descriptors in reserve, and their limit."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Iterator

import pytest

from roundtrip import runtime as module
from roundtrip.runtime import GarbageCollection, Reserve, connection_capacity


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Cycle:
    def __init__(self) -> None:
        self.me = self


async def test_collections_are_measured_and_a_full_one_runs_at_intervals(
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


async def test_a_full_collection_that_would_take_too_long_is_postponed(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_reserve_is_refilled_after_it_was_released() -> None:
    reserve = Reserve(3)
    assert [reserve.release() for _ in range(4)] == [True, True, True, False]
    reserve.refill()
    assert len(reserve) == 3
    reserve.close()
    assert len(reserve) == 0


def test_the_soft_limit_is_raised_as_far_as_needed_and_a_shortage_is_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, pair: limits.append(pair))
    assert connection_capacity(1000) == 1000
    assert limits[-1] == (1512, 4096)
    assert "descriptors_too_few" not in "".join(capsys.readouterr())
    assert connection_capacity(20_000) == 4096 - 512
    assert limits[-1] == (4096, 4096)
    logged = "".join(capsys.readouterr())
    for figure in ("descriptors_too_few", "4096", "20512", "3584"):
        assert figure in logged
    limits.append((100, 100))
    assert connection_capacity(20_000) == 50
