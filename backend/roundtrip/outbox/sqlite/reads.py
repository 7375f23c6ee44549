"""What is read from the tables: queries, and two caches in memory, of the keys and of the ledger's sums.

All of it is used on the writer thread, but `LedgerSums.totals`, which any thread may read.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import LedgerEntry, Outcome, StoredEvent, Totals, decode_attempts, key_part
from roundtrip.outbox.sqlite.schema import SEQ_BITS, SEQ_MASK, in_chunks

log = structlog.get_logger(__name__)

SumChanges: TypeAlias = Counter[tuple[int, int]]
"""How many events of a type were created (outcome 0) or ended with an outcome, in one transaction."""

_ENTRY: Final = "ref, id, type, link_id, created_at, expires_at, traceparent, outcome, resolved_at, attempts"
_ADD: Final = "INSERT INTO totals VALUES {} ON CONFLICT DO UPDATE SET n = n + excluded.n"
_STORE_KEYS: Final = "INSERT INTO keys VALUES {} ON CONFLICT (key_id) DO UPDATE SET last_seq = excluded.last_seq"
_OLDEST: Final = f"SELECT min(created_at) FROM events WHERE outcome = 0 AND type <> {EventType.CANARY:d}"  # noqa: S608
_KEY_LIMIT: Final = 50_000
"""Keys that the cache holds."""


class CachedKey:
    """A key's number, its newest `seq`, and its part of the JSON.

    `may_be_pending` has a bit for every type of which an event may be pending: without that bit a new event supersedes
    none of the type, and no statement is needed. `superseded_in` is the batch part that last superseded events of the
    key.
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
        """The `ref` of an event."""
        return self.key_id << SEQ_BITS | seq


class KeyCache:
    """A bounded cache of the table `keys`. Within a transaction it may be ahead of the table."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._by_key: dict[BotKey, CachedKey] = {}
        self._by_id: dict[int, BotKey] = {}
        self._changed: dict[int, CachedKey] = {}
        self._next_id: int = db.execute("SELECT coalesce(max(key_id), 0) + 1 FROM keys").fetchone()[0]

    def find(self, key: BotKey) -> CachedKey | None:
        """A key, None if it never had an event."""
        known = self._by_key.get(key)
        if known is not None:
            return known
        row = self._db.execute(
            "SELECT key_id, last_seq FROM keys WHERE user_id = ? AND bot_id = ?", (key.user_id, key.bot_id)
        ).fetchone()
        if row is None:
            return None
        self._evict()
        return self._add(CachedKey(row[0], key, row[1]))

    def advance(self, key: BotKey) -> CachedKey:
        """Assign the key's next `seq`, in `last_seq`. It is valid once `store` is committed."""
        known = self.find(key)
        if known is None:
            known = self._add(CachedKey(self._next_id, key, 0))
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
        in_chunks(self._db, _STORE_KEYS, 4, rows)

    def committed(self) -> None:
        """The transaction of `store` was committed."""
        self._changed.clear()
        self._evict()

    def _evict(self) -> None:
        """Empty a cache that is past its limit, but never of what a transaction has yet to store."""
        if max(len(self._by_key), len(self._by_id)) > _KEY_LIMIT and not self._changed:
            self._by_key.clear()
            self._by_id.clear()

    def rolled_back(self) -> None:
        """The transaction failed: remove what it changed, so that it is read again."""
        for known in self._changed.values():
            self._by_key.pop(known.key, None)
            self._by_id.pop(known.key_id, None)
        self._changed.clear()

    def key_of(self, ref: int) -> BotKey:
        """The key of an event's `ref`. It must be in the table."""
        key_id = ref >> SEQ_BITS
        key = self._by_id.get(key_id)
        if key is None:
            user_id, bot_id = self._db.execute(
                "SELECT user_id, bot_id FROM keys WHERE key_id = ?", (key_id,)
            ).fetchone()
            self._evict()
            key = self._by_id[key_id] = BotKey(user_id, bot_id)
        return key

    def _add(self, known: CachedKey) -> CachedKey:
        self._by_key[known.key] = known
        self._by_id[known.key_id] = known.key
        return known


class Reader:
    """Queries. Each runs after the writes that were called before it."""

    def __init__(self, db: sqlite3.Connection, keys: KeyCache) -> None:
        self._db = db
        self._keys = keys
        self.prepare(0, 0, ())

    def prepare(self, now: int, stepped_ns: int, ended: Collection[tuple[BotKey, int]]) -> None:
        """What the next queries need to know: the time in milliseconds since the epoch, the sum of all steps of the
        clock that the stored times include, in nanoseconds, and the events whose end could not be written yet."""
        self._now = now
        self.stepped_ns = stepped_ns
        self._ended = ended

    def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """As `Outbox.pending`."""
        known = self._keys.find(key)
        if known is None or limit <= 0:
            return []
        found: list[StoredEvent] = []
        rows = self._db.execute(
            "SELECT ref, id, type, link_id, created_at, expires_at, traceparent, body, attempts FROM events "
            "WHERE ref > ? AND ref <= ? AND outcome = 0 AND expires_at > ? ORDER BY ref",
            (known.ref(min(max(after, 0), SEQ_MASK)), known.ref(SEQ_MASK), self._now),
        )
        for ref, event_id, type_, link_id, created_at, expires_at, traceparent, body, attempts in rows:
            seq, kind = ref & SEQ_MASK, EventType(type_)
            if (key, seq) in self._ended:
                continue
            tried = () if attempts == "[]" else decode_attempts(attempts)
            found.append(
                StoredEvent(key, seq, event_id, kind, link_id, created_at, expires_at, traceparent, body, tried)
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
        key, seq, kind = self._keys.key_of(ref), ref & SEQ_MASK, EventType(type_)
        state, tried = Outcome(outcome), decode_attempts(attempts)
        return LedgerEntry(
            key, seq, event_id, kind, link_id, created_at, expires_at, traceparent, state, resolved_at, tried
        )


class Read(NamedTuple):
    """A query that the event loop queues. `query` runs on the writer thread, its result goes to `reply`."""

    query: Callable[[Reader], Any]
    reply: asyncio.Future[Any]


class LedgerSums:
    """Created, resolved and pending, per type. `totals` is replaced, never changed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read the sums, count the pending rows, and log an error if the two do not agree."""
        self._db = db
        self._created: dict[EventType, int] = dict.fromkeys(EventType, 0)
        self._pending: dict[EventType, int] = dict.fromkeys(EventType, 0)
        self._resolved: dict[tuple[EventType, Outcome], int] = {
            (t, o): 0 for t in EventType for o in Outcome if o is not Outcome.PENDING
        }
        self._size_bytes = 0
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

    def store(self, changes: SumChanges) -> None:
        """Add to the stored sums, in the transaction that makes the changes."""
        in_chunks(
            self._db, _ADD, 3, [value for (type_, outcome), n in changes.items() for value in (type_, outcome, n)]
        )

    def publish(self, changes: SumChanges | None = None, size_bytes: int | None = None) -> None:
        """After a commit: include its changes, or a new size, in `totals`."""
        for (type_, outcome), n in changes.items() if changes else ():
            kind = EventType(type_)
            if outcome == Outcome.PENDING:
                self._created[kind] += n
                self._pending[kind] += n
            else:
                self._resolved[kind, Outcome(outcome)] += n
                self._pending[kind] -= n
        if size_bytes is not None:
            self._size_bytes = size_bytes
        oldest = None
        if any(self._pending.values()):
            oldest = self._db.execute(_OLDEST).fetchone()[0]
        self.totals = Totals(dict(self._created), dict(self._resolved), dict(self._pending), oldest, self._size_bytes)
