"""Writes that failed, that nobody waits for, and that must not be lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import structlog

from backend.delivery.sqlite_ops import Kept, Move, Record, Resolve
from backend.identity import BotKey

log = structlog.get_logger(__name__)

_LIMIT: Final = 100_000
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0
_MANY: Final = 1000
_SAY_EVERY: Final = 10.0


class KeptWrites:
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
