"""`roundtrip migrate-store`: moves an installation's data from the SQLite files of one node into PostgreSQL.

Links stay paired, the ledger is complete, and each key's `seq` goes on. What is in the files stays there.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from roundtrip.commands.arguments import Parser
from roundtrip.environment import parse_store
from roundtrip.errors import StartError, StorageError
from roundtrip.links.store import LinkStore
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.outbox.sqlite.schema import FILE_NAME, SEQ_BITS, SEQ_MASK

SUMMARY: Final = "move the SQLite files' data into PostgreSQL"
PAGE: Final = 2000
"""Events that one statement copies."""

_EVENTS: Final = (
    "SELECT ref, id, type, link_id, created_at, expires_at, traceparent, body, outcome, resolved_at, attempts "
    "FROM events WHERE row > ? ORDER BY row LIMIT ?"
)
_COPY: Final = (
    "key_id", "seq", "id", "type", "link_id", "created_at", "expires_at", "traceparent", "body", "outcome",
    "resolved_at", "attempts",
)  # fmt: skip


class MigrationError(Exception):
    """Why nothing was moved, in one line."""


def run(arguments: list[str]) -> int:
    """Exit status 0 when all is moved, 1 when it failed, 2 for a wrong argument. After a failure the store may hold a
    part: empty it."""
    parser = Parser("migrate-store", f"{SUMMARY[0].upper()}{SUMMARY[1:]}. Stop the backend before.")
    parser.add_argument("--from", dest="source", required=True, metavar="sqlite:DIR", help="the node's DATA_DIR")
    parser.add_argument("--to", dest="target", required=True, metavar="postgresql://…", help="an empty store")
    given = parser.parse_args(arguments)
    kind, _, folder = str(given.source).partition(":")
    if kind != "sqlite" or not folder:
        return _refuse("--from must be sqlite:DIR", 2)
    try:
        parse_store(given.target)
    except ValueError as error:
        return _refuse(f"--to {error}", 2)
    try:
        asyncio.run(_migrate(Path(folder), given.target))
    except (MigrationError, StorageError) as error:
        return _refuse(str(error), 1)
    except StartError as error:
        return _refuse(str(error), error.status)
    return 0


async def _migrate(folder: Path, address: str) -> None:
    from roundtrip.cluster.link_store import PostgresLinkStore
    from roundtrip.outbox.postgres.database import Database
    from roundtrip.outbox.postgres.lease import NodeLease

    if not (folder / FILE_NAME).is_file():
        raise MigrationError(f"{folder} holds no outbox: nothing was moved.")
    outbox = SqliteOutbox(folder, sweep_every=3600.0)
    await outbox.start()  # takes the folder's lock, and brings the file up to date; refuses a folder in use
    links = LinkStore(folder)
    try:
        records = await links.open()
        database = Database(address, answer_timeout=600.0)
        await database.prepare()
        lease = NodeLease(database, "migrate-store", 3600.0)
        await lease.join()
        try:
            counts = await _copy_outbox(folder, database)
            store = PostgresLinkStore(database, lease, folder)
            await store.open()
            for record in records:
                await store.save(record)
            for removal in await links.removals():
                await store.save_removal(removal)
            for number, ban in (await links.bans(0.0)).items():
                await store.save_ban(number, ban)
            await store.close()
        finally:
            await lease.leave()
    finally:
        await links.close()
        await outbox.close()
    print(f"moved {counts[0]} keys, {counts[1]} events, {len(records)} links from {folder}")  # noqa: T201  # the output


async def _copy_outbox(folder: Path, database: Any) -> tuple[int, int]:
    """In one transaction: all of it or nothing. How many keys and events."""
    path = quote(str((folder / FILE_NAME).resolve()))
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection = await database.connect()
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute("LOCK TABLE keys, events, totals IN EXCLUSIVE MODE")
            if await connection.fetchval("SELECT EXISTS (SELECT FROM keys) OR EXISTS (SELECT FROM links)"):
                raise MigrationError("The store that --to names holds data already: nothing was moved.")
            keys = db.execute("SELECT key_id, user_id, bot_id, last_seq FROM keys").fetchall()
            await connection.execute(f"ALTER SEQUENCE keys_key_id_seq RESTART WITH {_most(keys) + 1}")
            await connection.executemany(
                "INSERT INTO keys (key_id, user_id, bot_id, last_seq, may_be_pending, may_have_been) "
                "OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, -1, -1)",
                keys,
            )
            events = 0
            for page in _pages(db):
                await connection.copy_records_to_table("events", records=page, columns=_COPY)
                events += len(page)
            totals = db.execute("SELECT 0, type, outcome, n FROM totals").fetchall()
            await connection.executemany("INSERT INTO totals (slot, type, outcome, n) VALUES ($1, $2, $3, $4)", totals)
        return len(keys), events
    finally:
        db.close()
        await connection.close()


def _most(keys: list[tuple[Any, ...]]) -> int:
    return max((int(key[0]) for key in keys), default=0)


def _pages(db: sqlite3.Connection) -> Iterator[list[tuple[Any, ...]]]:
    """Events as rows of the other table; a body there begins behind its `seq`."""
    last = 0
    statement = _EVENTS.replace("SELECT ref", "SELECT row, ref", 1)
    while rows := db.execute(statement, (last, PAGE)).fetchall():
        last = rows[-1][0]
        yield [
            (ref >> SEQ_BITS, ref & SEQ_MASK, id_, type_, link, created, expires, trace, _tail(body), *rest)
            for _, ref, id_, type_, link, created, expires, trace, body, *rest in rows
        ]


def _tail(body: bytes | None) -> bytes | None:
    """`{"id":"…","seq":12,` is not stored there: what follows is."""
    return None if body is None else body.split(b",", 2)[2]


def _refuse(line: str, status: int) -> int:
    print(f"roundtrip: {line}", file=sys.stderr)  # noqa: T201  # the output
    return status
