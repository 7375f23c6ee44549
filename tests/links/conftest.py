"""An illegal transition, which production refuses, logs and counts, fails the test here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from roundtrip.errors import IllegalTransitionError
from roundtrip.links import link
from tests.support.removal_bench import Bench, benched


@pytest.fixture(autouse=True)
def illegal_transitions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[IllegalTransitionError]]:
    """Those that a link refused; a test that expects one clears the list."""
    refused: list[IllegalTransitionError] = []
    refuse = link._refuse

    def collect(link_id: str, error: IllegalTransitionError) -> None:
        refused.append(error)
        refuse(link_id, error)

    monkeypatch.setattr(link, "_refuse", collect)
    yield refused
    if refused:
        raise refused[0]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        yield bench
