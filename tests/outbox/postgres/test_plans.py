"""How PostgreSQL finds the rows of a batch: by index and one by one, whatever its statistics say.

A plan is made while the tables are small and kept while they grow, so what it costs is looked at, not what it would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.database import Database
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from roundtrip.outbox.records import StoredEvent
from tests.support.drafts import CONNECTED, Clock, attempt, draft, end, qr
from tests.support.postgres import value

BATCH = 200
KEYS = [BotKey("user", str(number)) for number in range(BATCH)]
LARGE = {"events", "keys"}
"""Tables that grow."""


class Explained(Database):
    """Its connections tell how each statement was carried out, those within functions too."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.plans: list[tuple[str, dict[str, Any]]] = []

    async def connect(self, **options: Any) -> Any:
        connection = await super().connect(**options)
        await connection.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on; "
            "SET auto_explain.log_analyze = on; SET auto_explain.log_timing = off; "
            "SET auto_explain.log_format = json; SET client_min_messages = log"
        )
        connection.add_log_listener(self._logged)
        return connection

    def _logged(self, _connection: Any, message: Any) -> None:
        _, found, plan = message.message.partition("plan:\n")
        if found:
            explained = json.loads(plan)
            self.plans.append((" ".join(explained["Query Text"].split()), explained["Plan"]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def written(outbox: PostgresOutbox, clock: Clock, count: int) -> None:
    """Codes that supersede each other, attempts, ends: all in few commits."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = count

    def stored(event: StoredEvent | OutboxError) -> None:
        nonlocal left
        assert isinstance(event, StoredEvent), event
        outbox.record(event.key, event.seq, [attempt()])
        outbox.resolve(end(event))
        left -= 1
        if not left:
            done.set_result(None)

    for number in range(count):
        outbox.append(draft(CONNECTED if number % 2 else qr(), clock, KEYS[number % BATCH]), stored)
    await done
    await outbox.last_seq(KEYS[0])


@pytest.mark.parametrize("history", ["none", "resolved", "pending"])
async def test_no_statement_of_a_batch_looks_at_more_rows_than_it_has(database: str, history: str) -> None:
    clock = Clock()
    store = Explained(database)
    await store.prepare()
    lease = NodeLease(store, "node", 3600)
    await lease.join()
    if history != "none":  # in the statistics, when the plans are made
        pending, size = ("true", 1) if history == "pending" else ("false", 100)
        await value(
            database,
            "WITH k AS (INSERT INTO keys (user_id, bot_id, last_seq, may_be_pending, may_have_been) "  # noqa: S608
            f"SELECT 'user', b::text, {size}, -1, -1 FROM generate_series(0, 199) b RETURNING key_id) "
            "INSERT INTO events (key_id, seq, id, type, link_id, created_at, expires_at, traceparent, body, outcome) "
            "SELECT key_id, s, gen_random_uuid(), 5, '', extract(epoch FROM now()) * 1000, 9e15, '', "
            f"CASE WHEN {pending} THEN ''::bytea END, CASE WHEN {pending} THEN 0 ELSE 1 END "
            f"FROM k, generate_series(1, {size}) s",
        )
        await value(database, "ANALYZE events, keys")
    outbox = PostgresOutbox(store, lease, clock=clock, sweep_every=3600)
    await outbox.start()
    await written(outbox, clock, BATCH)
    store.plans.clear()
    for _ in range(5):  # the plans of the first round are kept
        await written(outbox, clock, BATCH)
    for key in KEYS:
        outbox.append(draft(CONNECTED, clock, key), lambda _event: None)
    await outbox.last_seq(KEYS[0])
    connection = await store.connect()
    expired = await connection.fetch("SELECT * FROM expire_1('node', $1, 0, 9000000000000, 500)", lease.fence)
    assert len(expired) >= BATCH
    await connection.close()
    await outbox.close()
    await lease.leave()
    looked = [(text, node) for text, plan in store.plans for node in nodes(plan)]
    assert any("INSERT INTO events" in text for text, _ in looked)
    assert any("SET outcome" in text for text, _ in looked)
    for text, node in looked:
        name, kind = node.get("Relation Name"), node["Node Type"]
        rows = node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
        assert not (name in LARGE and kind == "Seq Scan"), text
        assert node.get("Rows Removed by Join Filter", 0) == 0, (text, node)
        if name in LARGE and "Scan" in kind:
            assert rows <= 4 * BATCH, (text, node.get("Index Name"), node.get("Index Cond"), node.get("Filter"), rows)
