"""`roundtrip check` with a PostgreSQL store: a line for each thing that a start needs, or that somebody should know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from roundtrip.commands import store_check
from roundtrip.outbox.postgres.database import POOLED
from roundtrip.outbox.postgres.migrations import steps
from tests.commands.test_commands import run
from tests.outbox.postgres.helpers import joined
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import Postgres


async def lines(dsn: str) -> list[str]:
    return [f"{verdict} {text}" async for verdict, text in store_check.findings(dsn)]


@pytest.fixture
def role(postgres: Postgres, database: str) -> Iterator[str]:
    """The database's address, as a user without rights."""
    name = database.rpartition("/")[2]
    postgres.query("CREATE ROLE nobody LOGIN", name)
    yield database.replace("roundtrip@", "nobody@")
    postgres.query("DROP ROLE nobody", name)


async def test_all_is_well(database: str) -> None:
    assert (await lines(database))[4] == f"ok no tables yet: a start makes them (schema version {len(steps())})"
    _, lease = await joined(database)
    found = await lines(database)
    await lease.leave()
    assert [line for line in found if not line.startswith("ok ")] == []
    for part in (
        "sessions are kept together",
        "PostgreSQL 1",
        "encoding UTF8",
        "the user roundtrip may create",
        f"schema version {len(steps())}",
        "synchronous_commit=on",
        "a commit takes",
        "max_connections=200",
        "clock agrees",
    ):
        assert sum(part in line for line in found) == 1, part


def test_the_command_says_so(tmp_path: Path, database: str) -> None:
    done = run(tmp_path, "check", auth="trusted", store=database)
    assert done.returncode == 0, done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines()].count("store") == 1 + len(store_check.CHECKS)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_proxy_that_pools_is_found(postgres: Postgres, database: str, mode: str) -> None:
    with pgbouncer(postgres, mode) as port:
        found = await lines(postgres.url_of(database.rpartition("/")[2], port))
    assert [line for line in found if line.startswith("FAIL ")] == [f"FAIL {POOLED}"]


async def test_a_newer_schema_is_found(postgres: Postgres, database: str) -> None:
    _, lease = await joined(database)
    await lease.leave()
    postgres.query("INSERT INTO roundtrip_schema (version) VALUES (4711)", database.rpartition("/")[2])
    (failed,) = [line for line in await lines(database) if not line.startswith("ok ")]
    assert failed == f"FAIL the schema has version 4711, this program knows {len(steps())}: update this node"


async def test_missing_rights_are_found(role: str) -> None:
    (failed,) = [line for line in await lines(role) if not line.startswith("ok ")]
    assert failed == "FAIL the user nobody may not create tables in the schema (none)"


async def test_tables_of_another_user_are_found(postgres: Postgres, database: str, role: str) -> None:
    _, lease = await joined(database)
    await lease.leave()
    name = database.rpartition("/")[2]
    postgres.query("GRANT CREATE, USAGE ON SCHEMA public TO nobody", name)
    postgres.query("GRANT SELECT ON roundtrip_schema TO nobody", name)
    (failed,) = [line for line in await lines(role) if not line.startswith("ok ")]
    postgres.query("REVOKE ALL ON SCHEMA public FROM nobody", name)
    postgres.query("REVOKE ALL ON roundtrip_schema FROM nobody", name)
    assert failed.startswith("FAIL the user nobody does not own these tables, and cannot migrate them: ")
    assert "events" in failed


async def test_an_encoding_that_holds_not_every_name_is_found(postgres: Postgres) -> None:
    postgres.query("CREATE DATABASE narrow ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    try:
        assert "FAIL the database's encoding is SQL_ASCII; it must be UTF8" in await lines(postgres.url_of("narrow"))
    finally:
        postgres.drop_database("narrow")


async def test_what_makes_a_store_unsafe_or_slow_is_told_and_no_refusal(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database.rpartition("/")[2]
    monkeypatch.setattr(store_check, "SLOW_COMMIT", 0.0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    postgres.query(f"ALTER DATABASE {name} SET synchronous_commit = off", name)
    try:
        warned = [line for line in await lines(database) if not line.startswith("ok ")]
    finally:
        postgres.query(f"ALTER DATABASE {name} RESET synchronous_commit", name)
    assert [line.split()[0] for line in warned] == ["warn"] * 3
    assert warned[0].startswith("warn synchronous_commit=off: ")
    assert "every event waits for one" in warned[1]
    assert "the server's clock differs by" in warned[2]


async def test_too_few_connections_are_found(postgres: Postgres, database: str) -> None:
    postgres.query("ALTER ROLE roundtrip CONNECTION LIMIT 5")
    try:
        (failed,) = [line for line in await lines(database) if not line.startswith("ok ")]
    finally:
        postgres.query("ALTER ROLE roundtrip CONNECTION LIMIT -1")
    assert failed.startswith("FAIL max_connections=200, 5 of them free; a node uses up to ")


async def test_an_address_where_nothing_is(database: str) -> None:
    parts = urlsplit(database)
    (failed,) = await lines(parts._replace(netloc="user:canary@127.0.0.1:1").geturl())
    assert failed.startswith("FAIL ROUNDTRIP_STORE: PostgreSQL at 127.0.0.1:1/")
    assert "canary" not in failed
