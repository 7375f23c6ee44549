"""What `roundtrip check` tries of a PostgreSQL store: what a start would refuse, and what makes one slow or unsafe.

Nothing is written but empty messages into the write-ahead log, which tell how long a commit takes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NamedTuple

import asyncpg

from roundtrip.cluster import shared_store, tables
from roundtrip.errors import StartError
from roundtrip.outbox.postgres.database import LOST, OLDEST_SERVER, POOLED, Database, address, refuse_pooling, told
from roundtrip.outbox.postgres.migrations import steps
from roundtrip.outbox.postgres.outbox import READERS, SAME_CLOCK

CONNECTIONS_PER_NODE: Final = 3 + READERS + tables.CONNECTIONS + shared_store.CONNECTIONS
"""At most: one writes, one renews the lease, one listens; the others are opened when they are needed."""
COMMITS: Final = 20
"""Commits that are timed."""
SLOW_COMMIT: Final = 0.02
"""Seconds, by the median, above which a commit counts as slow: an event is delivered after one."""


class Finding(NamedTuple):
    """`verdict`: ok, warn (it works, and somebody should know), FAIL (a start would be refused)."""

    verdict: str
    text: str


async def findings(dsn: str) -> AsyncIterator[Finding]:
    """One after the other, each a line."""
    database = Database(dsn)
    try:
        connection = await database.connect(statement_cache_size=0)
    except (*LOST, asyncpg.PostgresError, ValueError) as error:
        yield Finding("FAIL", f"ROUNDTRIP_STORE: PostgreSQL at {address(dsn)} cannot be used: {told(error)}")
        return
    try:
        async with asyncio.timeout(30):
            yield await _proxy(connection, database)
            for check in CHECKS:
                yield await check(connection)
    except (*LOST, asyncpg.PostgresError) as error:
        pooled = "statement pooling mode" in str(error)
        yield Finding("FAIL", POOLED if pooled else f"ROUNDTRIP_STORE: {told(error)}")
    finally:
        connection.terminate()


async def _proxy(connection: Any, database: Database) -> Finding:
    try:
        await refuse_pooling(connection, database.connect)
    except StartError as error:
        return Finding("FAIL", str(error))
    return Finding("ok", "sessions are kept together on the way to the server")


async def _version(connection: Any) -> Finding:
    version = connection.get_server_version()
    text = f"PostgreSQL {(await connection.fetchval('SHOW server_version')).split()[0]}"
    if version.major * 10_000 < OLDEST_SERVER:
        return Finding("FAIL", f"{text}; {OLDEST_SERVER // 10_000} or later is needed")
    return Finding("ok", text)


async def _encoding(connection: Any) -> Finding:
    found = await connection.fetchval(
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
    )
    if found != "UTF8":
        return Finding("FAIL", f"the database's encoding is {found}; it must be UTF8")
    return Finding("ok", "encoding UTF8")


async def _rights(connection: Any) -> Finding:
    user, schema, create = await connection.fetchrow(
        "SELECT current_user::text, current_schema()::text, "
        "coalesce(has_schema_privilege(current_schema(), 'CREATE, USAGE'), false)"
    )
    if not create:
        return Finding("FAIL", f"the user {user} may not create tables in the schema {schema or '(none)'}")
    foreign = await connection.fetchval(
        "SELECT string_agg(tablename::text, ', ' ORDER BY tablename) FROM pg_tables "
        "WHERE schemaname = current_schema() AND NOT pg_has_role(tableowner, 'USAGE')"
    )
    if foreign:
        return Finding("FAIL", f"the user {user} does not own these tables, and cannot migrate them: {foreign}")
    return Finding("ok", f"the user {user} may create and change tables in the schema {schema}")


async def _schema(connection: Any) -> Finding:
    newest = len(steps())
    if await connection.fetchval("SELECT to_regclass('roundtrip_schema')") is None:
        return Finding("ok", f"no tables yet: a start makes them (schema version {newest})")
    found = await connection.fetchval("SELECT coalesce(max(version), 0) FROM roundtrip_schema")
    if found > newest:
        return Finding("FAIL", f"the schema has version {found}, this program knows {newest}: update this node")
    if found < newest:
        return Finding("ok", f"schema version {found}; a start migrates it to {newest}")
    return Finding("ok", f"schema version {found}")


async def _durability(connection: Any) -> Finding:
    found = await connection.fetchval("SHOW synchronous_commit")
    if found in ("off", "local"):
        return Finding("warn", f"synchronous_commit={found}: an event that was confirmed can be lost; set it to on")
    standbys = await connection.fetchval("SHOW synchronous_standby_names")
    kept = f"and on a standby ({standbys})" if standbys else "of this server: a standby may lack it when it is promoted"
    return Finding("ok", f"synchronous_commit={found}: what is confirmed is on the disk {kept}")


async def _commit(connection: Any) -> Finding:
    taken = []
    for _ in range(COMMITS):
        started = time.perf_counter()
        await connection.execute("SELECT pg_logical_emit_message(true, 'roundtrip', '')")
        taken.append(time.perf_counter() - started)
    middle, longest = statistics.median(taken), max(taken)
    text = f"a commit takes {middle * 1000:.1f} ms (the longest of {COMMITS}: {longest * 1000:.1f} ms)"
    if middle > SLOW_COMMIT:
        return Finding("warn", f"{text}: every event waits for one")
    return Finding("ok", text)


async def _connections(connection: Any) -> Finding:
    most, reserved, used, mine = await connection.fetchrow(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int, "
        "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), "
        "(SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user)"
    )
    free = most - reserved - (used - 1)
    if mine >= 0:
        free = min(free, mine)
    text = f"max_connections={most}, {free} of them free; a node uses up to {CONNECTIONS_PER_NODE}"
    if free < CONNECTIONS_PER_NODE:
        return Finding("FAIL", text)
    return Finding("ok", f"{text}: room for {free // CONNECTIONS_PER_NODE} more")


async def _clock(connection: Any) -> Finding:
    before = time.time()
    theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    off = abs(theirs - (before + after) / 2)
    if off - (after - before) / 2 >= SAME_CLOCK / 1000:
        return Finding("warn", f"the server's clock differs by {off:.1f} s: set both by one time server")
    return Finding("ok", "the server's clock agrees with this machine's")


CHECKS: Final[tuple[Callable[[Any], Awaitable[Finding]], ...]] = (
    _version,
    _encoding,
    _rights,
    _schema,
    _durability,
    _commit,
    _connections,
    _clock,
)
