"""The PostgreSQL outbox passes the contract suite, and agrees with the model."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import settings

from roundtrip.outbox.postgres.database import Database
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from tests.outbox.contract import OutboxContract
from tests.outbox.contract.base import FaultableOutbox, Reopen
from tests.outbox.model import MODEL_SETTINGS, OutboxMachine
from tests.outbox.postgres.helpers import Open, joined, store_clock
from tests.support.postgres import Postgres


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


class PostgresMachine(OutboxMachine):
    server: ClassVar[Postgres]
    url: str
    database: Database
    lease: NodeLease

    def open(self) -> FaultableOutbox:
        if not hasattr(self, "url"):
            self.name = self.server.empty_database()
            self.url = self.server.url_of(self.name)
            self.database, self.lease = self.run(joined(self.url))
        options = {"sweep_every": 0.001, "clock": self.clock, "store_clock": store_clock(self.clock)}
        return PostgresOutbox(self.database, self.lease, retention=10**7, **options)  # type: ignore[arg-type]  # as named

    def stored_bytes(self) -> bytes:
        """Every value of every row that a query can see; older versions of rows are gone with the next vacuum."""
        text: str = self.server.query(
            "SELECT coalesce(string_agg(encode(body, 'escape'), ''), '') FROM events", self.name
        )
        return text.encode()

    def teardown(self) -> None:
        self.outbox.fault_down = False
        self.loop.run_until_complete(self.outbox.close())
        self.loop.run_until_complete(self.lease.leave())
        super().teardown()


@pytest.fixture(scope="module", autouse=True)
def machine_server(postgres: Postgres) -> None:
    PostgresMachine.server = postgres


TestModel = PostgresMachine.TestCase
TestModel.settings = settings(MODEL_SETTINGS, max_examples=8)  # a step is thirty round trips
