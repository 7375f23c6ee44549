"""The sums of the SQLite outbox: kept with the rows in one transaction, read without I/O."""

from __future__ import annotations

import sqlite3
from collections import Counter

import structlog

from backend.delivery.outcome import Outcome, Totals
from backend.delivery.sqlite_values import in_chunks
from backend.events import EventType

log = structlog.get_logger(__name__)

_ADD = "INSERT INTO totals VALUES {} ON CONFLICT DO UPDATE SET n = n + excluded.n"

Moves = Counter[tuple[int, int]]
"""How many events of a type were created (outcome 0) or ended with an outcome, in one transaction."""


class Ledger:
    """Created, resolved and pending, per type. Belongs to the writer thread; `totals` may be read from anywhere."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read the sums, count what is pending from its rows, and say so if the two do not agree."""
        self._db = db
        self._created: dict[EventType, int] = dict.fromkeys(EventType, 0)
        self._pending: dict[EventType, int] = dict.fromkeys(EventType, 0)
        self._resolved: dict[tuple[EventType, Outcome], int] = {
            (t, o): 0 for t in EventType for o in Outcome if o is not Outcome.PENDING
        }
        self._sizes = 0
        for type_, outcome, n in db.execute("SELECT type, outcome, n FROM totals"):
            if outcome == Outcome.PENDING:
                self._created[EventType(type_)] = n
            else:
                self._resolved[EventType(type_), Outcome(outcome)] = n
        for type_, n in db.execute("SELECT type, count(*) FROM events WHERE outcome = 0 GROUP BY type"):
            self._pending[EventType(type_)] = n
        for kind in EventType:
            ended = sum(n for (t, _), n in self._resolved.items() if t is kind)
            if self._created[kind] != ended + self._pending[kind]:
                log.error(
                    "ledger_unbalanced",
                    type=kind.wire,
                    created=self._created[kind],
                    resolved=ended,
                    pending=self._pending[kind],
                )
        self.publish()

    def store(self, moves: Moves) -> None:
        """Add to the stored sums, in the transaction that makes the moves."""
        in_chunks(self._db, _ADD, 3, [value for (type_, outcome), n in moves.items() for value in (type_, outcome, n)])

    def publish(self, moves: Moves | None = None, size_bytes: int | None = None) -> None:
        """After a commit: make its moves, or a new size, what `totals` shows."""
        for (type_, outcome), n in moves.items() if moves else ():
            kind = EventType(type_)
            if outcome == Outcome.PENDING:
                self._created[kind] += n
                self._pending[kind] += n
            else:
                self._resolved[kind, Outcome(outcome)] += n
                self._pending[kind] -= n
        if size_bytes is not None:
            self._sizes = size_bytes
        oldest = None
        if any(self._pending.values()):
            oldest = self._db.execute("SELECT min(created_at) FROM events WHERE outcome = 0").fetchone()[0]
        self.totals = Totals(dict(self._created), dict(self._resolved), dict(self._pending), oldest, self._sizes)
