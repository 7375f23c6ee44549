"""What is read from the SQLite outbox."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

import structlog

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import LedgerEntry, Outcome, StoredEvent, Totals, key_part
from roundtrip.outbox.sqlite.schema import SEQ_BITS, SEQ_MASK, decode_attempts, in_chunks

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


log = structlog.get_logger(__name__)

_ADD = "INSERT INTO totals VALUES {} ON CONFLICT DO UPDATE SET n = n + excluded.n"

Moves = Counter[tuple[int, int]]
"""How many events of a type were created (outcome 0) or ended with an outcome, in one transaction."""


class LedgerSums:
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


_LIMIT: Final = 50_000
_STORE: Final = "INSERT INTO keys VALUES {} ON CONFLICT (key_id) DO UPDATE SET last_seq = excluded.last_seq"


class KnownKey:
    """A key's number, its newest `seq`, and its part of the JSON.

    `may_be_pending` has a bit for every type of which an event may be pending: without it nothing need be looked for
    that a new event supersedes. `superseded_in` is the batch part that last superseded events of the key.
    """

    __slots__ = ("json", "key", "key_id", "last_seq", "may_be_pending", "superseded_in")

    def __init__(self, key_id: int, key: BotKey, last_seq: int) -> None:
        self.key_id = key_id
        self.key = key
        self.last_seq = last_seq
        self.json = key_part(key)
        self.may_be_pending = -1
        self.superseded_in = -1

    def ref(self, seq: int) -> int:
        """The row number of an event."""
        return self.key_id << SEQ_BITS | seq


class Keys:
    """A cache of the table `keys`, bounded. What it holds may be ahead of the table within a transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._by_key: dict[BotKey, KnownKey] = {}
        self._by_id: dict[int, BotKey] = {}
        self._changed: dict[int, KnownKey] = {}
        self._next_id: int = db.execute("SELECT coalesce(max(key_id), 0) + 1 FROM keys").fetchone()[0]

    def find(self, key: BotKey) -> KnownKey | None:
        """A key that had an event before."""
        known = self._by_key.get(key)
        if known is not None:
            return known
        row = self._db.execute(
            "SELECT key_id, last_seq FROM keys WHERE user_id = ? AND bot_id = ?", (key.user_id, key.bot_id)
        ).fetchone()
        if row is None:
            return None
        self._bound()
        return self._remember(KnownKey(row[0], key, row[1]))

    def advance(self, key: BotKey) -> KnownKey:
        """Give the key its next `seq`, in `last_seq`. It counts once `store` is committed."""
        known = self.find(key)
        if known is None:
            known = self._remember(KnownKey(self._next_id, key, 0))
            self._next_id += 1
        known.last_seq += 1
        self._changed[known.key_id] = known
        return known

    def store(self) -> None:
        """Write what `advance` changed."""
        rows = [
            value
            for known in self._changed.values()
            for value in (known.key_id, known.key.user_id, known.key.bot_id, known.last_seq)
        ]
        in_chunks(self._db, _STORE, 4, rows)

    def committed(self) -> None:
        """What was stored holds."""
        self._changed.clear()
        self._bound()

    def _bound(self) -> None:
        """Forget all when it is too much, but never what a transaction has yet to store."""
        if max(len(self._by_key), len(self._by_id)) > _LIMIT and not self._changed:
            self._by_key.clear()
            self._by_id.clear()

    def rolled_back(self) -> None:
        """Forget what was not stored after all."""
        for known in self._changed.values():
            self._by_key.pop(known.key, None)
            self._by_id.pop(known.key_id, None)
        self._changed.clear()

    def key_of(self, ref: int) -> BotKey:
        """Whose event a row is."""
        key_id = ref >> SEQ_BITS
        key = self._by_id.get(key_id)
        if key is None:
            user_id, bot_id = self._db.execute(
                "SELECT user_id, bot_id FROM keys WHERE key_id = ?", (key_id,)
            ).fetchone()
            self._bound()
            key = self._by_id[key_id] = BotKey(user_id, bot_id)
        return key

    def _remember(self, known: KnownKey) -> KnownKey:
        self._by_key[known.key] = known
        self._by_id[known.key_id] = known.key
        return known
