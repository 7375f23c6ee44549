"""What is read from the store: many pending pages and newest numbers in one query each, the ledger, and the sums; and
what is remembered of keys.

Times are by the store's clock; the outbox converts them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import (
    Attempt,
    LedgerEntry,
    Outcome,
    StoredEvent,
    Totals,
    decode_attempts,
    key_part,
    whole_body,
)

log = structlog.get_logger(__name__)

_LIMIT: Final = 1 << 31

_PENDING: Final = (
    "SELECT r.o - 1 AS n, e.* FROM unnest($1::text[], $2::text[], $3::bigint[], $4::integer[]) WITH ORDINALITY "
    "AS r (u, b, after, size, o) JOIN keys k ON k.user_id = r.u AND k.bot_id = r.b CROSS JOIN LATERAL ("
    "SELECT seq, id, type, link_id, created_at, expires_at, traceparent, body, attempts FROM events "
    "WHERE key_id = k.key_id AND seq > r.after AND outcome = 0 AND expires_at > $5 ORDER BY seq LIMIT r.size) e "
    "ORDER BY r.o, e.seq"
)
_LAST: Final = (
    "SELECT r.o - 1 AS n, k.last_seq FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS r (u, b, o) "
    "JOIN keys k ON k.user_id = r.u AND k.bot_id = r.b"
)
_ENTRY: Final = (
    "SELECT k.user_id, k.bot_id, e.seq, e.id, e.type, e.link_id, e.created_at, e.expires_at, e.traceparent, e.outcome, "
    "e.resolved_at, e.attempts FROM events e JOIN keys k ON k.key_id = e.key_id"
)
_LEDGER: Final = f"{_ENTRY} WHERE k.user_id = $1 AND k.bot_id = $2 AND e.seq > $3 ORDER BY e.seq LIMIT $4"
_FIND: Final = f"{_ENTRY} WHERE e.id = $1"
_ENDINGS: Final = (
    "SELECT r.o - 1 AS n, e.outcome, CASE WHEN e.attempts <> '[]' THEN e.attempts::jsonb -> -1 ->> 'node' END "
    "FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS r (u, b, s, o) "
    "JOIN keys k ON k.user_id = r.u AND k.bot_id = r.b JOIN events e ON e.key_id = k.key_id AND e.seq = r.s "
    "WHERE e.outcome <> 0"
)
_SUMS: Final = (
    "SELECT (SELECT array_agg(ARRAY[type, outcome, n]) FROM "  # noqa: S608  # a number
    "(SELECT type, outcome, sum(n)::bigint AS n FROM totals GROUP BY type, outcome) t) AS sums, "
    f"(SELECT min(created_at) FROM events WHERE outcome = 0 AND type <> {EventType.CANARY:d}) AS oldest, "
    "pg_total_relation_size('events') AS size, "
    "(SELECT node_id FROM nodes WHERE lease_until > clock_timestamp() ORDER BY started_at, node_id LIMIT 1) AS first"
)
_COUNT: Final = "SELECT type, count(*) AS n FROM events WHERE outcome = 0 GROUP BY type"


KEY_LIMIT: Final = 50_000
"""Keys that the cache holds."""


class KnownKey:
    """What is remembered of a key. Other nodes may have moved it on: only `key_id` is certain.

    `may` has a bit for each type of which an event may be pending, and decides nothing but which writes share a batch.
    """

    __slots__ = ("json", "key_id", "last_seq", "may")

    def __init__(self, key: BotKey) -> None:
        self.key_id: int | None = None
        self.last_seq = 0
        self.may = -1
        self.json = key_part(key)


class KeyCache(dict[BotKey, KnownKey]):
    def of(self, key: BotKey) -> KnownKey:
        if (known := self.get(key)) is None:
            known = self[key] = KnownKey(key)
        return known

    def known_seq(self, key: BotKey) -> int:
        """The newest `seq` of this node's commits, 0 for a key that it has not written to."""
        return 0 if (known := self.get(key)) is None else known.last_seq

    def trim(self) -> None:
        """Between two batches: forget all when there are too many."""
        if len(self) > KEY_LIMIT:
            self.clear()


class Pending(NamedTuple):
    key: BotKey
    after: int
    limit: int
    reply: asyncio.Future[list[StoredEvent]]


class LastSeq(NamedTuple):
    key: BotKey
    reply: asyncio.Future[int]


class Flush(NamedTuple):
    """Replied to when all that was queued before it is written, or refused."""

    reply: asyncio.Future[None]


Read = Pending | LastSeq | Flush


async def pending(
    connection: Any, reads: Sequence[Pending], now: int, ended: frozenset[tuple[BotKey, int]]
) -> list[list[StoredEvent]]:
    """As `Outbox.pending`, for each of `reads`. `ended` are events whose end could not be written yet."""
    found: list[list[StoredEvent]] = [[] for _ in reads]
    extra = len(ended)
    rows = await connection.fetch(
        _PENDING,
        [read.key.user_id for read in reads],
        [read.key.bot_id for read in reads],
        [max(read.after, 0) for read in reads],
        [min(read.limit + extra, _LIMIT - 1) if read.limit > 0 else 0 for read in reads],
        now,
    )
    for n, seq, id_, type_, link_id, created_at, expires_at, traceparent, tail, attempts in rows:
        read = reads[n]
        if len(found[n]) >= read.limit or (extra and (read.key, seq) in ended):
            continue
        event_id = str(id_)
        tried = () if attempts == "[]" else decode_attempts(attempts)
        body = whole_body(event_id, seq, tail)
        times = (created_at, expires_at)
        found[n].append(
            StoredEvent(read.key, seq, event_id, EventType(type_), link_id, *times, traceparent, body, tried)
        )
    return found


async def last_seqs(connection: Any, reads: Sequence[LastSeq]) -> list[int]:
    """As `Outbox.last_seq`, for each of `reads`."""
    found = [0] * len(reads)
    for n, seq in await connection.fetch(
        _LAST, [read.key.user_id for read in reads], [read.key.bot_id for read in reads]
    ):
        found[n] = seq
    return found


async def endings(connection: Any, events: Sequence[tuple[BotKey, int]]) -> list[tuple[Outcome, str | None] | None]:
    """As `PostgresOutbox.endings`."""
    found: list[tuple[Outcome, str | None] | None] = [None] * len(events)
    rows = await connection.fetch(
        _ENDINGS, [key.user_id for key, _ in events], [key.bot_id for key, _ in events], [seq for _, seq in events]
    )
    for n, outcome, node in rows:
        found[n] = Outcome(outcome), node
    return found


async def ledger(connection: Any, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
    """As `Outbox.ledger`."""
    rows = await connection.fetch(_LEDGER, key.user_id, key.bot_id, max(after, 0), min(max(limit, 0), _LIMIT - 1))
    return [_entry(row) for row in rows]


async def find(connection: Any, event_id: str) -> LedgerEntry | None:
    """As `Outbox.find`. `event_id` is a UUID."""
    row = await connection.fetchrow(_FIND, event_id)
    return None if row is None else _entry(row)


def _entry(row: Any) -> LedgerEntry:
    user_id, bot_id, seq, id_, type_, link_id, created_at, expires_at, traceparent, outcome, resolved_at, attempts = row
    return LedgerEntry(
        BotKey(user_id, bot_id),
        seq,
        str(id_),
        EventType(type_),
        link_id,
        created_at,
        expires_at,
        traceparent,
        Outcome(outcome),
        resolved_at,
        tuple(sorted(decode_attempts(attempts), key=lambda attempt: attempt.at)),  # those of several nodes
    )


def local(event: StoredEvent, offset: int) -> StoredEvent:
    """An event by this machine's clock. `offset` is that clock minus the store's, in milliseconds."""
    if not offset:
        return event
    return msgspec.structs.replace(event.moved(offset), attempts=moved(event.attempts, offset))


def local_entry(entry: LedgerEntry, offset: int) -> LedgerEntry:
    """A ledger's entry by this machine's clock."""
    if not offset:
        return entry
    return msgspec.structs.replace(
        entry,
        created_at=entry.created_at + offset,
        expires_at=entry.expires_at + offset,
        resolved_at=None if entry.resolved_at is None else entry.resolved_at + offset,
        attempts=moved(entry.attempts, offset),
    )


def moved(attempts: Sequence[Attempt], ms: int) -> tuple[Attempt, ...]:
    """Copies of attempts, by a clock that differs by `ms`."""
    copies = tuple(msgspec.structs.replace(attempt) for attempt in attempts)
    for attempt in copies:
        attempt.move(ms)
    return copies


class Sums:
    """The ledger's sums: this writer's own commits at once, those of others whenever they are read again."""

    def __init__(self) -> None:
        self._created: dict[EventType, int] = dict.fromkeys(EventType, 0)
        self._resolved: dict[tuple[EventType, Outcome], int] = {
            (t, o): 0 for t in EventType for o in Outcome if o is not Outcome.PENDING
        }
        self._oldest: int | None = None
        self._size = 0
        self.first: str | None = None
        """The node that has been in the store for longest: it exports the sums, so that nobody counts them twice."""

    async def read(self, connection: Any, *, check: bool = False) -> None:
        """Read all of them; with `check`, count what is pending too, and log an error if the two do not agree."""
        if check:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                row = await connection.fetchrow(_SUMS)
                counted = {EventType(type_): n for type_, n in await connection.fetch(_COUNT)}
        else:
            row, counted = await connection.fetchrow(_SUMS), None
        for kind in self._created:
            self._created[kind] = 0
        for pair in self._resolved:
            self._resolved[pair] = 0
        for type_, outcome, n in row["sums"] or ():
            if outcome == Outcome.PENDING:
                self._created[EventType(type_)] = n
            else:
                self._resolved[EventType(type_), Outcome(outcome)] = n
        self._oldest, self._size, self.first = row["oldest"], row["size"], row["first"]
        for kind, open_ in self._pending().items() if counted is not None else ():
            if counted is not None and counted.get(kind, 0) != open_:
                log.error("ledger_unbalanced", type=kind.wire, expected=open_, pending=counted.get(kind, 0))

    def add(self, created: Mapping[EventType, int], ended: Sequence[tuple[int, int, int]], oldest: int | None) -> None:
        """A commit: what it created, what it ended (type, outcome, how many), and the oldest pending event after it."""
        for kind, n in created.items():
            self._created[kind] += n
        for type_, outcome, n in ended:
            self._resolved[EventType(type_), Outcome(outcome)] += n
        self._oldest = oldest

    def oldest(self, now: int) -> int:
        """No pending event that is known was created before this. `now` when none is pending."""
        return now if self._oldest is None else min(now, self._oldest)

    def _pending(self) -> dict[EventType, int]:
        pending = dict(self._created)
        for (kind, _), n in self._resolved.items():
            pending[kind] -= n
        return pending

    def totals(self, offset: int) -> Totals:
        """`offset` is this machine's clock minus the store's, in milliseconds. What this node ended and another created
        may not have been read as created yet: it counts as created all the same."""
        oldest = None if self._oldest is None else self._oldest + offset
        pending = self._pending()
        created = {kind: n - min(0, pending[kind]) for kind, n in self._created.items()}
        pending = {kind: max(0, n) for kind, n in pending.items()}
        return Totals(created, dict(self._resolved), pending, oldest, self._size)
