"""What is read from the SQLite outbox."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any, Final

from backend.delivery.outcome import LedgerEntry, Outcome, StoredEvent
from backend.delivery.sqlite_keys import Keys
from backend.delivery.sqlite_schema import SEQ_MASK
from backend.delivery.sqlite_values import decode_attempts
from backend.events import EventType
from backend.identity import BotKey

_ENTRY: Final = "ref, id, type, link_id, created_at, expires_at, traceparent, outcome, resolved_at, attempts"


class Reader:
    """Queries, on the writer thread, after the writes that were called before them."""

    def __init__(self, db: sqlite3.Connection, keys: Keys) -> None:
        self._db = db
        self._keys = keys
        self.ended: Collection[tuple[BotKey, int]] = ()
        """Events whose end could not be written yet."""

    def pending(self, key: BotKey, after: int, limit: int, now: int) -> list[StoredEvent]:
        """As `Outbox.pending`; `now` is in milliseconds since the epoch."""
        known = self._keys.find(key)
        if known is None or limit <= 0:
            return []
        found: list[StoredEvent] = []
        rows = self._db.execute(
            "SELECT ref, id, type, link_id, created_at, expires_at, traceparent, body, attempts FROM events "
            "WHERE ref > ? AND ref <= ? AND outcome = 0 AND expires_at > ? ORDER BY ref",
            (known.ref(min(max(after, 0), SEQ_MASK)), known.ref(SEQ_MASK), now),
        )
        for ref, event_id, type_, link_id, created_at, expires_at, traceparent, body, attempts in rows:
            seq = ref & SEQ_MASK
            if (key, seq) in self.ended:
                continue
            found.append(
                StoredEvent(
                    key,
                    seq,
                    event_id,
                    EventType(type_),
                    link_id,
                    created_at,
                    expires_at,
                    traceparent,
                    body,
                    () if attempts == "[]" else decode_attempts(attempts),
                )
            )
            if len(found) == limit:
                break
        rows.close()
        return found

    def last_seq(self, key: BotKey) -> int:
        """As `Outbox.last_seq`."""
        known = self._keys.find(key)
        return 0 if known is None else known.last_seq

    def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """As `Outbox.ledger`."""
        known = self._keys.find(key)
        if known is None or limit <= 0:
            return []
        rows = self._db.execute(
            f"SELECT {_ENTRY} FROM events WHERE ref > ? AND ref <= ? ORDER BY ref LIMIT ?",  # noqa: S608  # constant
            (known.ref(min(max(after, 0), SEQ_MASK)), known.ref(SEQ_MASK), limit),
        ).fetchall()
        return [self._entry(row) for row in rows]

    def find(self, event_id: str) -> LedgerEntry | None:
        """As `Outbox.find`."""
        row = self._db.execute(f"SELECT {_ENTRY} FROM events WHERE id = ?", (event_id,)).fetchone()  # noqa: S608  # constant
        return None if row is None else self._entry(row)

    def _entry(self, row: tuple[Any, ...]) -> LedgerEntry:
        ref, event_id, type_, link_id, created_at, expires_at, traceparent, outcome, resolved_at, attempts = row
        return LedgerEntry(
            self._keys.key_of(ref),
            ref & SEQ_MASK,
            event_id,
            EventType(type_),
            link_id,
            created_at,
            expires_at,
            traceparent,
            Outcome(outcome),
            resolved_at,
            decode_attempts(attempts),
        )
