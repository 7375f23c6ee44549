"""The outbox in memory: the contract, and that it lets others in between a question and its answer."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.outbox.base import Outbox
from roundtrip.outbox.memory import MemoryOutbox
from tests.delivery.outbox_contract import OutboxContract, Reopen
from tests.support.drafts import CONNECTED, KEY, Clock, draft, store


class TestContract(OutboxContract):
    @pytest.fixture
    def reopen(self, clock: Clock) -> Reopen:
        outbox = MemoryOutbox(clock=clock)

        async def reopen() -> Outbox:
            await outbox.close()
            await outbox.start()
            return outbox

        return reopen


async def test_a_read_is_not_answered_in_the_turn_that_asks() -> None:
    clock = Clock()
    outbox = MemoryOutbox(clock=clock)
    await store(outbox, draft(CONNECTED, clock))
    reading = asyncio.ensure_future(outbox.pending(KEY, 0, 9))
    await asyncio.sleep(0)
    assert not reading.done()
    assert len(await reading) == 1
