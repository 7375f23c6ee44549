"""Fixtures for the tests of the SQLite outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.outbox.sqlite.helpers import Open
from tests.support.drafts import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_outbox(tmp_path: Path, clock: Clock) -> AsyncIterator[Open]:
    """Opens outboxes with fast sweeps, and closes them in the end."""
    opened: list[SqliteOutbox] = []

    async def open_(folder: Path = tmp_path / "data", **options: Any) -> SqliteOutbox:
        outbox = SqliteOutbox(folder, **{"sweep_every": 0.02, "clock": clock, **options})
        await outbox.start()
        opened.append(outbox)
        return outbox

    yield open_
    for outbox in opened:
        outbox.fault_down, outbox.fault_delay = False, 0.0
        await outbox.close()
