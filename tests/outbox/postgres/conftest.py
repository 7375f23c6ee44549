"""Fixtures for the tests of the PostgreSQL outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from roundtrip.outbox.postgres.outbox import PostgresOutbox
from tests.outbox.postgres.helpers import Open, joined, store_clock
from tests.support.drafts import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_outbox(database: str, clock: Clock) -> AsyncIterator[Open]:
    """Opens outboxes of one node with fast sweeps, one after the other, and closes them in the end."""
    opened: list[PostgresOutbox] = []
    store, lease = await joined(database)

    async def open_(**options: Any) -> PostgresOutbox:
        defaults = {"sweep_every": 0.02, "clock": clock, "store_clock": store_clock(clock)}
        outbox = PostgresOutbox(store, lease, **{**defaults, **options})
        await outbox.start()
        opened.append(outbox)
        return outbox

    yield open_
    for outbox in opened:
        outbox.fault_down, outbox.fault_delay = False, 0.0
        await outbox.close()
    await lease.leave()
