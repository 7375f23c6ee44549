"""What the writer thread does besides new writes: retry of failed ones, expiry, deletion of old rows, checkpoints."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from roundtrip.events import SECRET_TYPES
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Record, Resolve
from roundtrip.outbox.records import Ended, Outcome
from roundtrip.outbox.sqlite.batch import ClockStep, Retriable
from roundtrip.outbox.sqlite.reads import KeyCache, LedgerSums, SumChanges
from roundtrip.outbox.sqlite.schema import FILE_NAME, INCREMENTAL, SEQ_MASK, in_chunks, pragma

log = structlog.get_logger(__name__)

SLICE: Final = 500
"""Rows that one step of maintenance changes, so that no write waits long."""

_WAL_LIMIT: Final = 8 << 20
_VACUUM_PAGES: Final = 64
_FOREVER: Final = 1 << 62

_EXPIRE: Final = (
    f"UPDATE events SET outcome = {Outcome.EXPIRED:d}, resolved_at = ?, body = NULL WHERE row IN "  # noqa: S608  # number
    "(SELECT row FROM events WHERE outcome = 0 AND expires_at <= ? LIMIT ?) RETURNING ref, type"
)
_OLDEST: Final = "SELECT row FROM events WHERE outcome <> 0 AND resolved_at <= ? ORDER BY resolved_at LIMIT ?"

_RETRY_LIMIT: Final = 100_000
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0
_MANY: Final = 1000
_LOG_INTERVAL: Final = 10.0

Transaction: TypeAlias = Callable[[], AbstractContextManager[None]]


@dataclass(slots=True)
class Expiry:
    """Events that expire by `now`, in milliseconds since the epoch, end once the `awaited` items that were queued at
    that moment are written: one of them may be a confirmation that came in time."""

    now: int
    awaited: int


class Maintenance:
    """Keeps one outbox's file small and free of expired events, in small steps."""

    def __init__(
        self,
        db: sqlite3.Connection,
        keys: KeyCache,
        sums: LedgerSums,
        transaction: Transaction,
        folder: Path,
        retention_ms: int,
        max_bytes: int,
    ) -> None:
        """`transaction` makes a context that commits, or rolls back when an exception passes."""
        self._db = db
        self._keys = keys
        self._sums = sums
        self._transaction = transaction
        self._files = (folder / FILE_NAME, folder / f"{FILE_NAME}-wal")
        self._retention_ms = retention_ms
        self._max_bytes = max_bytes
        self._expiry: Expiry | None = None
        self.next_expiry = 0
        """Nothing expires before, in milliseconds since the epoch."""
        self.full = False
        """Whether the file is over its bound though no resolved event is left to delete."""
        self._releasing = False
        self._checkpoint_due = True  # a secret may have ended just before the process was killed

    def committed(self, changes: SumChanges, earliest_expiry: int | None) -> None:
        """A transaction was committed."""
        if earliest_expiry is not None and earliest_expiry < self.next_expiry:
            self.next_expiry = earliest_expiry
        if not self._checkpoint_due:
            self._checkpoint_due = any(outcome != 0 and type_ in SECRET_TYPES for type_, outcome in changes)

    def clock_stepped(self) -> None:
        """The times of pending events were changed."""
        self._expiry = None

    def processed(self, count: int) -> None:
        """So many queued items are about to be written or read."""
        if self._expiry is not None:
            self._expiry.awaited -= count

    def expiry(self, now: int, queued: int) -> Expiry | None:
        """The expiry that is under way, or one that begins now with `queued` items to wait for; None if nothing has
        expired."""
        if self._expiry is None and now >= self.next_expiry:
            self._expiry = Expiry(now, queued)
        return self._expiry

    def expire(self, expiry: Expiry) -> tuple[Sequence[Ended], SumChanges]:
        """End a slice of what has expired, in a transaction."""
        self._expiry = None
        changes: SumChanges = Counter()
        ended = []
        with self._transaction():
            for ref, type_ in self._db.execute(_EXPIRE, (expiry.now, expiry.now, SLICE)).fetchall():
                changes[type_, int(Outcome.EXPIRED)] += 1
                ended.append(Ended(self._keys.key_of(ref), ref & SEQ_MASK, Outcome.EXPIRED))
            self._sums.store(changes)
        if ended:
            self.committed(changes, None)
        return ended, changes

    def find_next_expiry(self) -> None:
        """Query when the next event expires."""
        row = self._db.execute("SELECT min(expires_at) FROM events WHERE outcome = 0").fetchone()
        self.next_expiry = _FOREVER if row[0] is None else row[0]

    def delete_old_rows(self, now: int) -> bool:
        """Delete a slice of resolved rows, in a transaction: past the retention, or the oldest when the file is too
        big. Their sums stay. Whether there may be more."""
        too_big = self._used() > self._max_bytes
        rows = self._db.execute(_OLDEST, (_FOREVER if too_big else now - self._retention_ms, SLICE)).fetchall()
        self.full = too_big and not rows
        if rows:
            with self._transaction():
                in_chunks(self._db, "DELETE FROM events WHERE row IN (VALUES {})", 1, [row for (row,) in rows])
        return len(rows) == SLICE

    def release_pages(self) -> bool:
        """Return a slice of free pages to the file system: begun when there are many, continued until there are few.
        Whether there may be more."""
        free = pragma(self._db, "freelist_count")
        enough = max(_VACUUM_PAGES, 0 if self._releasing else pragma(self._db, "page_count") // 8)
        self._releasing = free >= enough and pragma(self._db, "auto_vacuum") == INCREMENTAL
        if self._releasing:
            # as a script: a plain `execute` steps once, and a step frees one page
            self._db.executescript(f"PRAGMA incremental_vacuum({SLICE});")
            self._checkpoint_due = True  # the file shrinks only then
        return self._releasing

    def checkpoint(self) -> None:
        """Empty the write-ahead log if it is long or may hold an ended secret, or if pages were released."""
        if self._checkpoint_due or self.size(wal_only=True) > _WAL_LIMIT:
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._checkpoint_due = bool(busy)  # another process reads the file: the next step tries again

    def size(self, *, wal_only: bool = False) -> int:
        """Bytes that the outbox takes on the disk."""
        return sum(path.stat().st_size for path in self._files[wal_only:] if path.exists())

    def _used(self) -> int:
        db = self._db
        return (pragma(db, "page_count") - pragma(db, "freelist_count")) * pragma(db, "page_size")


class RetryQueue:
    """Failed writes without a caller to notify. The delay doubles with every failure, up to a second."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds and monotonic."""
        self._now = now
        self._writes: list[Retriable] = []
        self._delay = 0.0
        self._retry_at = 0.0
        self._failures = 0
        self._log_at = 0.0
        self._ended: frozenset[tuple[BotKey, int]] | None = frozenset()

    def __len__(self) -> int:
        return len(self._writes)

    def is_failing(self) -> bool:
        """Whether the newest write failed."""
        return self._failures > 0

    def add(self, writes: Sequence[Retriable]) -> None:
        """After a failure. Past the limit, records of attempts are dropped first, then the newest resolutions: their
        events are delivered once more, or expire."""
        self._writes = [*writes, *self._writes]  # those not taken are newer
        self._ended = None
        if len(self._writes) > _RETRY_LIMIT:
            before = len(self._writes)
            ends: list[Retriable] = [write for write in self._writes if not isinstance(write, Record)]
            steps: list[Retriable] = [write for write in ends[_RETRY_LIMIT:] if isinstance(write, ClockStep)]
            self._writes = ends[:_RETRY_LIMIT] + steps
            log.error("outbox_writes_dropped", count=before - len(self._writes))

    def succeeded(self) -> None:
        """A write was committed."""
        if self._failures:
            log.info("outbox_recovered", failures=self._failures)
        self._failures = 0
        self._delay = self._retry_at = 0.0

    def failed(self, error: str) -> None:
        """A write failed: double the delay. Logged at the first failure, then at intervals."""
        self._failures += 1
        if self._failures == 1 or self._now() >= self._log_at:
            log.error("outbox_write_failed", error=error, failures=self._failures, kept=len(self._writes))
            self._log_at = self._now() + _LOG_INTERVAL
        self._delay = min(max(self._delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
        self._retry_at = self._now() + self._delay

    def due(self) -> bool:
        """Whether it is time to try again."""
        return bool(self._writes) and self._now() >= self._retry_at

    def must_wait(self) -> bool:
        """Whether there are too many to be tried again with every new write."""
        return len(self._writes) > _MANY and self._now() < self._retry_at

    def retry_in(self) -> float:
        """Seconds until it is time to try again."""
        return self._retry_at - self._now() if self._writes else float("inf")

    def take(self, limit: int | None = None) -> list[Retriable]:
        """Remove and return the oldest, or all. Those that fail again must be added before any others."""
        taken, self._writes = self._writes[:limit], [] if limit is None else self._writes[limit:]
        self._ended = None
        return taken

    def ended_events(self) -> Collection[tuple[BotKey, int]]:
        """Events whose end is among the failed writes."""
        if self._ended is None:
            self._ended = frozenset((write.key, write.seq) for write in self._writes if isinstance(write, Resolve))
        return self._ended
