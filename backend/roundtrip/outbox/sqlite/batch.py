"""The writes of one transaction: the items that the event loop queues, what each of them means for the tables, and the
results that go back."""

from __future__ import annotations

import functools
import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from roundtrip.events import TYPE_OF, EventType
from roundtrip.outbox.base import Append, AppendCallback, Check, OutboxError, Record, Reply, Resolve, Upgrade
from roundtrip.outbox.records import (
    Ended,
    EventIds,
    Outcome,
    StoredEvent,
    Timestamps,
    body,
    decode_attempts,
    encode_attempts,
)
from roundtrip.outbox.sqlite.reads import KeyCache, SumChanges
from roundtrip.outbox.sqlite.schema import SEQ_MASK, in_chunks

log = structlog.get_logger(__name__)

_INSERT: Final = (
    "INSERT INTO events (ref, id, type, link_id, created_at, expires_at, traceparent, body, attempts) VALUES {}"
)
_RECORD: Final = (
    "UPDATE events SET attempts = v.column2 FROM (VALUES {}) v WHERE events.ref = v.column1 AND events.outcome = 0"
)
_RESOLVE: Final = (
    "UPDATE events SET outcome = v.column2, resolved_at = v.column3, attempts = v.column4, body = NULL "
    "FROM (VALUES {}) v WHERE events.ref = v.column1 AND events.outcome = 0 RETURNING type, outcome"
)
_SUPERSEDE: Final = (  # a row is (a key's first row number, the new event's row number, a bit per type, the time)
    f"UPDATE events SET outcome = {Outcome.SUPERSEDED:d}, resolved_at = v.column4, body = NULL "  # noqa: S608
    "FROM (VALUES {}) v WHERE events.ref >= v.column1 AND events.ref < v.column2 AND events.outcome = 0 "
    "AND (v.column3 >> events.type) & 1 RETURNING ref, type"
)
_UPGRADE: Final = (
    f"UPDATE events SET outcome = {Outcome.ACKED:d}, attempts = json_set(attempts, '$[#-1].ack_at', v.column2) "  # noqa: S608
    f"FROM (VALUES {{}}) v WHERE events.ref = v.column1 AND events.outcome = {Outcome.RECEIVED:d}"
)
_MOVE: Final = "UPDATE events SET created_at = created_at + ?, expires_at = expires_at + ? WHERE outcome = 0"
_ATTEMPTED: Final = "SELECT ref, attempts FROM events WHERE outcome = 0 AND attempts <> '[]'"


class ClockStep(NamedTuple):
    """The clock was set by `ns`; `offset` is wall minus steady time from now on, in nanoseconds."""

    ns: int
    offset: int


Retriable: TypeAlias = Record | Resolve | Upgrade | ClockStep
"""Writes without a caller to notify: they are retried after a failure."""

Write: TypeAlias = Append | Check | Retriable


class CommitResults(NamedTuple):
    """What a batch reports to the event loop, in the order of the fields."""

    ended_before: Sequence[Ended] = ()
    """Superseded events of earlier commits, or expired ones."""
    done: Sequence[tuple[AppendCallback, StoredEvent | OutboxError]] = ()
    ended_within: Sequence[Ended] = ()
    """Superseded events that the batch itself created."""
    replies: Sequence[Reply] = ()
    stepped_ns: int = 0
    """The sum of all steps of the clock that the times in these results include."""
    seconds: float | None = None
    """How long the commit took, None if there was none."""


@functools.cache
def _mask(types: frozenset[EventType]) -> int:
    return sum(1 << type_ for type_ in types)


class Batch:
    """One transaction's writes, in the order of the calls.

    Writes of one kind share a statement as long as that changes nothing: a part of the batch is run when the next write
    could see a difference.
    """

    def __init__(self, db: sqlite3.Connection, keys: KeyCache, ids: EventIds, times: Timestamps, now: int) -> None:
        """`now` is in milliseconds since the epoch."""
        self._db = db
        self._keys = keys
        self._ids = ids
        self._times = times
        self._now = now
        self.changes: SumChanges = Counter()
        self.done: list[tuple[AppendCallback, StoredEvent | OutboxError]] = []
        self.ended_before: list[Ended] = []
        self.ended_within: list[Ended] = []
        self.replies: list[Reply] = []
        self.earliest_expiry: int | None = None
        self.clock_step: ClockStep | None = None
        """The newest step of the clock, with the sum of all of the batch's."""
        self._created: set[int] = set()
        self._part = 0
        self._clear()

    def _clear(self) -> None:
        self._part += 1
        self._inserts: list[Any] = []
        self._supersedes: dict[tuple[int, int], int] = {}
        self._records: dict[int, str] = {}
        self._resolves: dict[int, Resolve] = {}
        self._upgrades: dict[int, int] = {}

    def run(self, writes: Sequence[Write]) -> None:
        """Apply them inside an open transaction. Raises `sqlite3.Error`."""
        for write in writes:
            if isinstance(write, Append):
                self._append(write)
            elif isinstance(write, Check):
                self._db.execute("INSERT OR REPLACE INTO probe VALUES (1, ?)", (self._now,))
                self.replies.append((write.reply, None))
            elif isinstance(write, ClockStep):
                self._step_clock(write)
            else:
                self._change(write)
        self._run_part()
        self._keys.store()

    def _append(self, write: Append) -> None:
        draft = write.draft
        known = self._keys.advance(draft.key)
        seq = known.last_seq
        event_id = self._ids.make(draft.created_at)
        try:
            text = body(draft, seq, event_id, self._times.text(draft.created_at), known.json)
        except (ValueError, TypeError, OverflowError) as error:
            known.last_seq -= 1
            log.error("event_not_encoded", type=type(draft.payload).__name__, error=type(error).__name__)
            self.done.append((write.done, OutboxError("outbox_unavailable", "The event could not be encoded.")))
            return
        ref = known.ref(seq)
        if ref in self._resolves or ref in self._records or ref in self._upgrades:
            self._run_part()  # they were called before this event existed
        kind = TYPE_OF[type(draft.payload)]
        link_id, traceparent = draft.link_id, draft.traceparent
        created_at, expires_at = draft.created_at, draft.expires_at
        event = StoredEvent(draft.key, seq, event_id, kind, link_id, created_at, expires_at, traceparent, text)
        self._inserts += (ref, event_id, int(kind), link_id, created_at, expires_at, traceparent, text, "[]")
        self._created.add(ref)
        self.changes[kind, 0] += 1
        self.done.append((write.done, event))
        if self.earliest_expiry is None or expires_at < self.earliest_expiry:
            self.earliest_expiry = expires_at
        types = known.may_be_pending & _mask(draft.supersedes)
        if types:
            self._supersedes[known.ref(0), types] = ref  # the newest covers what older ones of the batch would end
            known.superseded_in = self._part
        known.may_be_pending = known.may_be_pending & ~types | 1 << kind

    def _change(self, write: Record | Resolve | Upgrade) -> None:
        known = self._keys.find(write.key)
        if known is None or not 0 < write.seq <= SEQ_MASK:
            return
        ref = known.ref(write.seq)
        if known.superseded_in == self._part or ref in self._upgrades:
            self._run_part()
        if isinstance(write, Resolve):
            self._resolves.setdefault(ref, write)  # the first end stands
        elif isinstance(write, Upgrade):
            self._upgrades[ref] = write.at
        elif ref not in self._resolves:
            self._records[ref] = write.attempts

    def _step_clock(self, write: ClockStep) -> None:
        self._run_part()
        ms = write.ns // 1_000_000
        self._db.execute(_MOVE, (ms, ms))
        rows: list[Any] = []
        for ref, text in self._db.execute(_ATTEMPTED).fetchall():
            attempts = decode_attempts(text)
            for attempt in attempts:
                attempt.move(ms)
            rows += (ref, encode_attempts(attempts))
        in_chunks(self._db, _RECORD, 2, rows)
        self.done = [(done, e.moved(ms) if isinstance(e, StoredEvent) else e) for done, e in self.done]
        self._now += ms
        self.earliest_expiry = 0  # it has to be queried again
        self.clock_step = ClockStep(write.ns + (self.clock_step.ns if self.clock_step else 0), write.offset)

    def _run_part(self) -> None:
        db = self._db
        if self._inserts:
            in_chunks(db, _INSERT, 9, self._inserts)
        if self._records:
            in_chunks(db, _RECORD, 2, [value for item in self._records.items() for value in item])
        if self._resolves:
            rows = [
                value
                for ref, write in self._resolves.items()
                for value in (ref, int(write.outcome), write.at, write.attempts)
            ]
            for change in in_chunks(db, _RESOLVE, 4, rows):
                self.changes[change] += 1
        if self._supersedes:
            rows = [
                value
                for (first, types), newest in self._supersedes.items()
                for value in (first, newest, types, self._now)
            ]
            for ref, type_ in in_chunks(db, _SUPERSEDE, 4, rows):
                self.changes[type_, Outcome.SUPERSEDED] += 1
                ended = self.ended_within if ref in self._created else self.ended_before
                ended.append(Ended(self._keys.key_of(ref), ref & SEQ_MASK, Outcome.SUPERSEDED))
        if self._upgrades:
            in_chunks(db, _UPGRADE, 2, [value for item in self._upgrades.items() for value in item])
        self._clear()
