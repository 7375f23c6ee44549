"""What a start demands of the server, and what of the schema."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.errors import StartError
from roundtrip.outbox.postgres.database import POOLED, Database
from roundtrip.outbox.postgres.migrations import steps
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import Postgres, value


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_proxy_that_pools_transactions_is_refused(postgres: Postgres, database: str, mode: str) -> None:
    with pgbouncer(postgres, mode) as port:
        with pytest.raises(StartError) as refusal:
            await Database(postgres.url_of(database.rpartition("/")[2], port)).prepare()
        assert (str(refusal.value), refusal.value.status) == (POOLED, 2)


async def test_a_proxy_that_pools_sessions_is_accepted(postgres: Postgres, database: str) -> None:
    with pgbouncer(postgres, "session") as port:
        assert await Database(postgres.url_of(database.rpartition("/")[2], port)).prepare() == len(steps())


async def test_many_nodes_that_start_at_once_migrate_once(database: str) -> None:
    versions = await asyncio.gather(*(Database(database).prepare() for _ in range(8)))
    assert set(versions) == {len(steps())}
    assert await value(database, "SELECT count(*) FROM roundtrip_schema") == len(steps())


async def test_a_migration_that_fails_leaves_nothing_behind(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**steps(), len(steps()) + 1: "CREATE TABLE left_over (); SELECT 1/0"}
    monkeypatch.setattr("roundtrip.outbox.postgres.migrations.steps", lambda: broken)
    with pytest.raises(StartError) as refusal:
        await Database(database).prepare()
    assert "division by zero" in str(refusal.value)
    assert await value(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
