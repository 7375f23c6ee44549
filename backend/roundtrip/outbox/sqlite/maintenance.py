"""What keeps the SQLite outbox clean and small: expiry, compaction, checkpoints."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

import structlog

from roundtrip.events import SECRET_TYPES
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Ended, Outcome
from roundtrip.outbox.sqlite.reads import Keys, Moves
from roundtrip.outbox.sqlite.schema import FILE_NAME, INCREMENTAL, SEQ_MASK, Kept, Move, Record, Resolve, in_chunks

SLICE: Final = 500
"""Rows that one step of cleaning touches, so that writes never wait long."""

_WAL_LIMIT: Final = 8 << 20
_VACUUM_PAGES: Final = 64
_FOREVER: Final = 1 << 62

_EXPIRE: Final = (
    f"UPDATE events SET outcome = {Outcome.EXPIRED:d}, resolved_at = ?, body = NULL WHERE row IN "  # noqa: S608  # number
    "(SELECT row FROM events WHERE outcome = 0 AND expires_at <= ? LIMIT ?) RETURNING ref, type"
)
_OLDEST: Final = "SELECT row FROM events WHERE outcome <> 0 AND resolved_at <= ? ORDER BY resolved_at LIMIT ?"


class Maintenance:
    """The cleaning of one outbox, in small steps. Belongs to the writer thread."""

    def __init__(self, db: sqlite3.Connection, keys: Keys, folder: Path, retention_ms: int, max_bytes: int) -> None:
        self._db = db
        self._keys = keys
        self._files = (folder / FILE_NAME, folder / f"{FILE_NAME}-wal")
        self._retention_ms = retention_ms
        self._max_bytes = max_bytes
        self.next_expiry = 0
        """Nothing expires before, in milliseconds since the epoch."""
        self.full = False
        """Whether the bound on the size is passed though no resolved event is left to delete."""
        self._giving_back = self._gave_back = False
        self._secret_ended = True  # by an earlier life of the process, perhaps

    def written(self, moves: Moves, earliest_expiry: int | None) -> None:
        """A transaction was committed."""
        if earliest_expiry is not None and earliest_expiry < self.next_expiry:
            self.next_expiry = earliest_expiry
        if not self._secret_ended:
            self._secret_ended = any(outcome != 0 and type_ in SECRET_TYPES for type_, outcome in moves)

    def expire(self, now: int) -> tuple[Sequence[Ended], Moves]:
        """End a slice of what has expired, inside a transaction."""
        moves: Moves = Counter()
        ended = []
        for ref, type_ in self._db.execute(_EXPIRE, (now, now, SLICE)).fetchall():
            moves[type_, int(Outcome.EXPIRED)] += 1
            ended.append(Ended(self._keys.key_of(ref), ref & SEQ_MASK, Outcome.EXPIRED))
        return ended, moves

    def look_ahead(self) -> None:
        """Find out when the next event expires."""
        row = self._db.execute("SELECT min(expires_at) FROM events WHERE outcome = 0").fetchone()
        self.next_expiry = _FOREVER if row[0] is None else row[0]

    def old_rows(self, now: int) -> list[int]:
        """A slice of resolved rows that may go: past the retention, or the oldest when the file is too big."""
        over = self._used() > self._max_bytes
        rows = self._db.execute(_OLDEST, (_FOREVER if over else now - self._retention_ms, SLICE)).fetchall()
        self.full = over and not rows
        return [row for (row,) in rows]

    def delete(self, rows: Sequence[int]) -> None:
        """Delete rows, inside a transaction. The sums keep them."""
        in_chunks(self._db, "DELETE FROM events WHERE row IN (VALUES {})", 1, rows)

    def give_back(self) -> bool:
        """Return a slice of free pages to the file system: begun when they are many, then until they are few. Whether
        there may be more."""
        free = self._pragma("freelist_count")
        many = max(_VACUUM_PAGES, 0 if self._giving_back else self._pragma("page_count") // 8)
        self._giving_back = free >= many and self._pragma("auto_vacuum") == INCREMENTAL
        if self._giving_back:
            # as a script, for a plain `execute` steps once, and a step frees one page
            self._db.executescript(f"PRAGMA incremental_vacuum({SLICE});")
            self._gave_back = True
        return self._giving_back

    def checkpoint(self) -> None:
        """Empty the write-ahead log if it is long, or if it still holds a secret that has ended. The file shrinks only
        here, by what was given back."""
        if self._secret_ended or self._gave_back or self.size(wal_only=True) > _WAL_LIMIT:
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._gave_back = self._secret_ended = bool(
                busy
            )  # somebody else reads the file: the next sweep tries again

    def size(self, *, wal_only: bool = False) -> int:
        """Bytes that the outbox takes on the disk."""
        return sum(path.stat().st_size for path in self._files[wal_only:] if path.exists())

    def _used(self) -> int:
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def _pragma(self, name: str) -> int:
        value: int = self._db.execute(f"PRAGMA {name}").fetchone()[0]
        return value


log = structlog.get_logger(__name__)

_LIMIT: Final = 100_000
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0
_MANY: Final = 1000
_SAY_EVERY: Final = 10.0


class RetriedWrites:
    """Waits longer after every failure, up to a second. Belongs to the writer thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is in seconds that never go back."""
        self._now = now
        self._writes: list[Kept] = []
        self._delay = 0.0
        self._retry_at = 0.0
        self._failures = 0
        self._say_at = 0.0
        self._ended: frozenset[tuple[BotKey, int]] | None = frozenset()

    def __len__(self) -> int:
        return len(self._writes)

    def keep(self, writes: Sequence[Kept]) -> None:
        """After a failure. Past the bound, notes of attempts are dropped first, then the newest resolutions: their
        events are delivered once more, or expire."""
        self._writes = [*writes, *self._writes]  # what was not taken is newer
        self._ended = None
        if len(self._writes) > _LIMIT:
            before = len(self._writes)
            ends: list[Kept] = [write for write in self._writes if not isinstance(write, Record)]
            moves: list[Kept] = [write for write in ends[_LIMIT:] if isinstance(write, Move)]
            self._writes = ends[:_LIMIT] + moves
            log.error("outbox_writes_dropped", count=before - len(self._writes))

    def succeeded(self) -> None:
        """A write went well."""
        if self._failures:
            log.info("outbox_recovered", failures=self._failures)
        self._failures = 0
        self._delay = self._retry_at = 0.0

    def failed(self, why: str) -> None:
        """A write failed: wait longer before the next. Says so at the first failure and then now and then."""
        self._failures += 1
        if self._failures == 1 or self._now() >= self._say_at:
            log.error("outbox_write_failed", error=why, failures=self._failures, kept=len(self._writes))
            self._say_at = self._now() + _SAY_EVERY
        self._delay = min(max(self._delay * 2, _FIRST_DELAY), _LONGEST_DELAY)
        self._retry_at = self._now() + self._delay

    def due(self) -> bool:
        """Whether it is time to try again."""
        return bool(self._writes) and self._now() >= self._retry_at

    def must_wait(self) -> bool:
        """Whether so much is kept that trying it with every new write would cost too much."""
        return len(self._writes) > _MANY and self._now() < self._retry_at

    def retry_in(self) -> float:
        """Seconds until it is time to try again."""
        return self._retry_at - self._now() if self._writes else float("inf")

    def take(self, limit: int | None = None) -> list[Kept]:
        """The oldest, or all of it; what fails again must be kept again before more is."""
        taken, self._writes = self._writes[:limit], [] if limit is None else self._writes[limit:]
        self._ended = None
        return taken

    def ended(self) -> Collection[tuple[BotKey, int]]:
        """Events whose end is among it."""
        if self._ended is None:
            self._ended = frozenset((write.key, write.seq) for write in self._writes if isinstance(write, Resolve))
        return self._ended
