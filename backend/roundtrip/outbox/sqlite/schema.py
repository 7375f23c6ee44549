"""The outbox's database file: its tables, the lock on its folder, how it is opened, and how statements are run.

An event's state is `events.outcome`, the number of an `Outcome`: 0 is PENDING. Each statement that changes a state has
the state that it changes in its WHERE clause, so a transition that `Outcome` does not list changes no row.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import structlog

from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.batched import CommitFaults

log = structlog.get_logger(__name__)

FILE_NAME: Final = "outbox.db"
SCHEMA_VERSION: Final = 1
SEQ_BITS: Final = 32
"""An event's `ref` is its key's number and its `seq` in one integer: `key_id << SEQ_BITS | seq`."""

SEQ_MASK: Final = (1 << SEQ_BITS) - 1
INCREMENTAL: Final = 2
"""`auto_vacuum` of a file that returns free pages to the file system a few at a time."""

_APPLICATION_ID: Final = 0x52545031  # "RTP1": a database of another program is not taken for an outbox
_CHUNK_SIZES: Final = (256, 64, 16, 4, 1)
"""Rows per statement: few sizes, so that every statement is already prepared."""

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
"""`totals` has the sums of all events ever stored: with outcome 0 how many were created, else how many ended so first.
Rows are in the order of writing, not by key: a commit with events of many keys then touches few pages, which is most
of what it costs. `probe` is what `check` writes."""


def open_database(folder: Path) -> sqlite3.Connection:
    """Open or create the outbox in a folder. Raises `OutboxError`, its message one sentence for the operator."""
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
    version, application = pragma(db, "user_version"), pragma(db, "application_id")
    empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if not empty and application != _APPLICATION_ID:
        raise OutboxError("outbox_unavailable", f"The file {path} is not an outbox of this program.")
    if version > SCHEMA_VERSION:
        raise OutboxError(
            "outbox_unavailable",
            f"The outbox {path} was written by a newer version of this program "
            f"(schema {version}, this one knows {SCHEMA_VERSION}).",
        )
    db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # has an effect only before the first table
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA secure_delete=ON")  # the bytes of an ended secret are overwritten, not only freed
    db.execute("PRAGMA temp_store=MEMORY")
    db.execute("PRAGMA cache_size=-32768")  # KiB: a commit touches a page a key; the default has room for 500
    db.execute("PRAGMA wal_autocheckpoint=16384")  # pages: one touched by many commits is copied back once
    db.execute("PRAGMA journal_size_limit=67108864")
    if not empty and pragma(db, "auto_vacuum") != INCREMENTAL:
        _rewrite(db, path)
    if empty:
        db.executescript(
            f"BEGIN IMMEDIATE;{_TABLES}PRAGMA application_id={_APPLICATION_ID};"
            f"PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
        )


def _rewrite(db: sqlite3.Connection, path: Path) -> None:
    """A file created without `auto_vacuum` never shrinks: rewrite it once, if the disk has room for two. Otherwise it
    is used as it is, and the next start tries again."""
    size = path.stat().st_size
    try:
        if shutil.disk_usage(path.parent).free > 3 * size:  # the copy, and the log that it goes through
            db.execute("VACUUM")  # applies the `auto_vacuum` that was set above
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            log.info("outbox_rewritten", bytes=size)
            return
        error = "the disk has no room for a second one"
    except (sqlite3.OperationalError, OSError) as problem:
        error = str(problem)
    log.warning("outbox_never_shrinks", bytes=size, error=error)


def pragma(db: sqlite3.Connection, name: str) -> int:
    """The value of a setting that is a number."""
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


@contextmanager
def transaction(db: sqlite3.Connection, faults: CommitFaults, on_rollback: Callable[[], None]) -> Iterator[None]:
    """Commit what is written in the context, or roll it back when an exception passes."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        if faults.delay > 0:
            time.sleep(faults.delay)
        if faults.down:
            raise sqlite3.OperationalError("the fault outbox_down is on")  # noqa: TRY301  # rolled back below
        db.execute("COMMIT")
    except BaseException:
        on_rollback()
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def in_chunks(db: sqlite3.Connection, sql: str, width: int, values: Sequence[Any]) -> list[Any]:
    """Run `sql`, whose `{}` becomes the VALUES rows of `width` columns, over all of `values` (rows laid end to end).

    The result is the rows of its RETURNING clause.
    """
    found: list[Any] = []
    start, left = 0, len(values) // width
    for size in _CHUNK_SIZES:
        while left >= size:
            end = start + size * width
            found += db.execute(_statement(sql, width, size), values[start:end])
            start, left = end, left - size
    return found


@functools.cache
def _statement(sql: str, width: int, rows: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return sql.format(",".join([row] * rows))


LOCK_NAME: Final = "backend.lock"


class FolderLock:
    """An exclusive lock on a folder. The kernel releases it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if needed, private to its owner, and lock it. Raises `OutboxError`."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxError(
                "outbox_unavailable", f"Cannot write in the data folder {folder}: {error.strerror}."
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder_pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            holder = f" (process {holder_pid})" if holder_pid else ""
            raise OutboxError(
                "outbox_unavailable", f"The data folder {folder} is in use by another backend{holder}."
            ) from None
        try:
            folder.chmod(0o700)
        except OSError as error:
            log.warning("data_folder_not_private", folder=str(folder), error=error.strerror)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:  # only the message of a second backend needs it
            log.warning("lock_file_not_written", folder=str(folder), error=error.strerror)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)
