"""The SQLite outbox passes the contract suite, and agrees with the model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

from roundtrip.events import EventType
from roundtrip.outbox.records import Outcome
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.outbox.contract import OutboxContract
from tests.outbox.contract.base import FaultableOutbox, Reopen
from tests.outbox.model import KEYS, MODEL_SETTINGS, OutboxMachine
from tests.outbox.sqlite.helpers import Open, files


class TestContract(OutboxContract):
    @pytest.fixture
    def reopen(self, open_outbox: Open) -> Reopen:
        current: FaultableOutbox | None = None

        async def reopen() -> FaultableOutbox:
            nonlocal current
            if current is not None:
                await current.close()
            current = await open_outbox()
            return current

        return reopen


class SqliteMachine(OutboxMachine):
    folder: Path

    def open(self) -> FaultableOutbox:
        if not hasattr(self, "folder"):
            self.folder = Path(tempfile.mkdtemp(prefix="outbox-"))
        return SqliteOutbox(self.folder, sweep_every=0.001, clock=self.clock, retention=10**7)

    def stored_bytes(self) -> bytes:
        return files(self.folder)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


def test_an_end_that_is_retried_through_an_outage_while_its_event_expires() -> None:
    """The sequence at which the expiry used to come before the retries."""
    state = SqliteMachine()
    try:
        state.append(KEYS[0], [EventType.CONNECTED, EventType.CONNECTED], 1000, False)
        state.agrees_with_the_model()
        state.goes_down()
        state.resolve(KEYS[0], 1, Outcome.ACKED, 1)
        state.agrees_with_the_model()
        state.time_passes(2000)
        state.run(asyncio.sleep(0.05))
        state.comes_up()
        state.balances()
        state.agrees_with_the_model()
        assert [known.outcome for known in state.model[KEYS[0]].values()] == [Outcome.ACKED, Outcome.EXPIRED]
        state.restarts()
        state.agrees_with_the_model()
    finally:
        state.teardown()


TestModel = SqliteMachine.TestCase
TestModel.settings = MODEL_SETTINGS
