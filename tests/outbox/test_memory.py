"""The memory outbox passes the contract suite, agrees with the model, and answers no read at once."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.outbox.memory import MemoryOutbox
from tests.outbox.contract import OutboxContract
from tests.outbox.contract.base import FaultableOutbox, Reopen
from tests.outbox.model import MODEL_SETTINGS, OutboxMachine
from tests.support.drafts import CONNECTED, KEY, Clock, draft, store


class TestContract(OutboxContract):
    @pytest.fixture
    def reopen(self, clock: Clock) -> Reopen:
        outbox = MemoryOutbox(clock=clock)

        async def reopen() -> FaultableOutbox:
            await outbox.close()
            outbox.fault_down = False
            await outbox.start()
            return outbox

        return reopen


class MemoryMachine(OutboxMachine):
    memory: MemoryOutbox | None = None

    def open(self) -> FaultableOutbox:
        if self.memory is None:
            self.memory = MemoryOutbox(clock=self.clock, sweep_every=0.001)
        return self.memory


TestModel = MemoryMachine.TestCase
TestModel.settings = MODEL_SETTINGS


async def test_a_read_is_not_answered_in_the_turn_that_asks() -> None:
    clock = Clock()
    outbox = MemoryOutbox(clock=clock)
    await store(outbox, draft(CONNECTED, clock))
    reading = asyncio.ensure_future(outbox.pending(KEY, 0, 9))
    await asyncio.sleep(0)
    assert not reading.done()
    assert len(await reading) == 1
