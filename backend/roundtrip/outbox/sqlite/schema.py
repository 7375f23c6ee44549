"""The outbox's file: how it is opened, what tables it has, and what is refused."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec
import structlog

from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Attempt, Draft, Outcome, StoredEvent

log = structlog.get_logger(__name__)

FILE_NAME: Final = "outbox.db"
SCHEMA_VERSION: Final = 1
SEQ_BITS: Final = 32
"""An event's `ref` is its key's number and its `seq` in one integer: `key_id << SEQ_BITS | seq`."""

INCREMENTAL: Final = 2
"""`auto_vacuum` of a file that gives free pages back a slice at a time."""

_APPLICATION_ID: Final = 0x52545031  # "RTP1", so that a stranger's database is not taken for an outbox

_TABLES: Final = """
CREATE TABLE keys (
    key_id INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL,
    bot_id TEXT NOT NULL,
    last_seq INTEGER NOT NULL,
    UNIQUE (user_id, bot_id)
) STRICT;
CREATE TABLE events (
    row INTEGER PRIMARY KEY,
    ref INTEGER NOT NULL,
    id TEXT NOT NULL,
    type INTEGER NOT NULL,
    link_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    traceparent TEXT NOT NULL,
    body BLOB,
    outcome INTEGER NOT NULL DEFAULT 0,
    resolved_at INTEGER,
    attempts TEXT NOT NULL DEFAULT '[]',
    CHECK ((outcome = 0) = (body IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX events_ref ON events (ref);
CREATE UNIQUE INDEX events_id ON events (id);
CREATE INDEX events_pending ON events (ref, type) WHERE outcome = 0;
CREATE INDEX events_pending_age ON events (created_at, expires_at) WHERE outcome = 0;
CREATE INDEX events_resolved ON events (resolved_at) WHERE outcome <> 0;
CREATE TABLE totals (
    type INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (type, outcome)
) STRICT, WITHOUT ROWID;
CREATE TABLE probe (id INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
"""
"""`totals` counts for the outbox's whole life: with outcome 0 what was created, else what ended so first.
Rows lie in the order in which they were written, not by key: a commit with events of many keys then touches few
pages, which is most of what it costs. `probe` is what `check` writes."""


def open_database(folder: Path) -> sqlite3.Connection:
    """Open or make the outbox in a folder. Raises `OutboxError` with one sentence for whoever runs the backend."""
    path = folder / FILE_NAME
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise OutboxError("outbox_unavailable", f"Cannot write the outbox {path}: {error.strerror}.") from None
    db = sqlite3.connect(path, isolation_level=None, cached_statements=256, timeout=1.0)
    try:
        _prepare(db, path)
    except sqlite3.Error as error:
        db.close()
        raise OutboxError("outbox_unavailable", f"The outbox {path} cannot be used: {error}.") from None
    except OutboxError:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    version, application = _pragma(db, "user_version"), _pragma(db, "application_id")
    empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if not empty and application != _APPLICATION_ID:
        raise OutboxError("outbox_unavailable", f"The file {path} is not an outbox of this program.")
    if version > SCHEMA_VERSION:
        raise OutboxError(
            "outbox_unavailable",
            f"The outbox {path} was written by a newer version of this program "
            f"(schema {version}, this one knows {SCHEMA_VERSION}).",
        )
    db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # counts only before the first table
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA secure_delete=ON")  # an ended secret's bytes are overwritten, not just let go
    db.execute("PRAGMA temp_store=MEMORY")
    db.execute("PRAGMA cache_size=-32768")  # KiB: a commit touches a page a key; the default holds 500
    db.execute("PRAGMA wal_autocheckpoint=16384")  # pages: one touched by many commits is copied back once
    db.execute("PRAGMA journal_size_limit=67108864")
    if not empty and _pragma(db, "auto_vacuum") != INCREMENTAL:
        _rewrite(db, path)
    if empty:
        db.executescript(
            f"BEGIN IMMEDIATE;{_TABLES}PRAGMA application_id={_APPLICATION_ID};"
            f"PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
        )


def _rewrite(db: sqlite3.Connection, path: Path) -> None:
    """A file that was made without `auto_vacuum` never gets smaller: write it anew once, if the disk has room for two.
    Else it is used as it is, and another start tries again."""
    size = path.stat().st_size
    try:
        if shutil.disk_usage(path.parent).free > 3 * size:  # the copy, and the log that it goes through
            db.execute("VACUUM")  # takes over the `auto_vacuum` that was asked for
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            log.info("outbox_rewritten", bytes=size)
            return
        error = "the disk has no room for a second one"
    except (sqlite3.OperationalError, OSError) as problem:
        error = str(problem)
    log.warning("outbox_never_shrinks", bytes=size, error=error)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


SEQ_MASK: Final = (1 << SEQ_BITS) - 1


_encode = msgspec.json.Encoder().encode
decode_attempts: Final = msgspec.json.Decoder(tuple[Attempt, ...]).decode
"""Attempts from the text that the table keeps."""

_SIZES: Final = (256, 64, 16, 4, 1)
"""Rows per statement: few sizes, so that every statement is found prepared."""


def encode_attempts(attempts: Sequence[Attempt]) -> str:
    """Attempts as the text that the table keeps."""
    return _encode(attempts).decode()


def in_chunks(db: sqlite3.Connection, sql: str, width: int, values: Sequence[Any]) -> list[Any]:
    """Run `sql`, whose `{}` becomes the VALUES rows of `width` columns, over all of `values` (rows laid end to end).

    Returns the rows that it gives back.
    """
    found: list[Any] = []
    start, left = 0, len(values) // width
    for size in _SIZES:
        while left >= size:
            end = start + size * width
            found += db.execute(_statement(sql, width, size), values[start:end])
            start, left = end, left - size
    return found


@functools.cache
def _statement(sql: str, width: int, rows: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return sql.format(",".join([row] * rows))


if TYPE_CHECKING:
    from roundtrip.outbox.sqlite.reads import Reader

Done: TypeAlias = Callable[[StoredEvent | OutboxError], None]


class Append(NamedTuple):
    draft: Draft
    done: Done


class Record(NamedTuple):
    """`attempts` is JSON, made at the call: the caller's list changes later."""

    key: BotKey
    seq: int
    attempts: str


class Resolve(NamedTuple):
    """`attempts` as in `Record`."""

    key: BotKey
    seq: int
    outcome: Outcome
    at: int
    attempts: str


class Upgrade(NamedTuple):
    key: BotKey
    seq: int
    at: int


class Move(NamedTuple):
    """The clock was set by `ns`; `offset` is wall minus steady time from now on, in nanoseconds."""

    ns: int
    offset: int


class Discard(NamedTuple):
    key: BotKey
    answer: asyncio.Future[int]


class Check(NamedTuple):
    answer: asyncio.Future[None]


class Read(NamedTuple):
    query: Callable[[Reader], Any]
    answer: asyncio.Future[Any]


class Stop(NamedTuple):
    answer: asyncio.Future[None]


Write: TypeAlias = Append | Record | Resolve | Upgrade | Move | Discard | Check
Kept: TypeAlias = Record | Resolve | Upgrade | Move
"""Writes that nobody waits for: after a failure they are tried again."""
