"""What the memory outbox holds: the events of each key, their states and the ledger's sums. Nothing here waits or fails
but for an event that cannot be encoded; the order of calls, faults and results are `memory.py`'s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from roundtrip.events import TYPE_OF, EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import (
    Attempt,
    Draft,
    Ended,
    LedgerEntry,
    Outcome,
    Resolution,
    StoredEvent,
    Timestamps,
    Totals,
    body,
    key_part,
)


class Row(msgspec.Struct):
    """One event. `event.attempts` is empty: `attempts` has them."""

    event: StoredEvent
    outcome: Outcome = Outcome.PENDING
    resolved_at: int | None = None
    attempts: tuple[Attempt, ...] = ()

    def entry(self) -> LedgerEntry:
        """The row as the ledger shows it."""
        event, attempts = self.event, copies(self.attempts)
        times = (event.created_at, event.expires_at)
        return LedgerEntry(
            event.key, event.seq, event.id, event.type, event.link_id, *times, event.traceparent, self.outcome,
            self.resolved_at, attempts,
        )  # fmt: skip


def copies(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Copies that no later change by the caller reaches."""
    return tuple(msgspec.structs.replace(attempt) for attempt in attempts)


class MemoryTable:
    """All events since it was created, by key and `seq`. Times are in milliseconds since the epoch."""

    def __init__(self, make_id: Callable[[int], str]) -> None:
        """`make_id` returns an event's id for its time of creation."""
        self._make_id = make_id
        self._times = Timestamps()
        self._rows: dict[BotKey, dict[int, Row]] = {}
        self._created: Counter[EventType] = Counter()
        self._resolved: Counter[tuple[EventType, Outcome]] = Counter()

    # writes

    def append(self, draft: Draft, now: int) -> tuple[StoredEvent, list[Ended]]:
        """Store an event; the second result is what it superseded. Raises `OutboxError`."""
        key, kind = draft.key, TYPE_OF[type(draft.payload)]
        rows = self._rows.setdefault(key, {})
        seq, event_id = len(rows) + 1, self._make_id(draft.created_at)
        try:
            text = body(draft, seq, event_id, self._times.text(draft.created_at), key_part(key))
        except (ValueError, TypeError, OverflowError):
            raise OutboxError("outbox_unavailable", "The event could not be encoded.") from None
        superseded = [
            self._end(row, Outcome.SUPERSEDED, now)
            for row in rows.values()
            if row.outcome is Outcome.PENDING and row.event.type in draft.supersedes
        ]
        times = (draft.created_at, draft.expires_at)
        event = StoredEvent(key, seq, event_id, kind, draft.link_id, *times, draft.traceparent, text)
        rows[seq] = Row(event)
        self._created[kind] += 1
        return event, superseded

    def record(self, key: BotKey, seq: int, attempts: tuple[Attempt, ...]) -> None:
        """As `Outbox.record`."""
        row = self._row(key, seq)
        if row is not None and row.outcome is Outcome.PENDING:
            row.attempts = attempts

    def resolve(self, resolution: Resolution, attempts: tuple[Attempt, ...]) -> None:
        """As `Outbox.resolve`, with `attempts` in place of the resolution's."""
        row = self._row(resolution.key, resolution.seq)
        if row is not None and row.outcome is Outcome.PENDING:  # or else it ended before, and that stands
            row.attempts = attempts
            self._end(row, resolution.outcome, resolution.at)

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """As `Outbox.upgrade`."""
        row = self._row(key, seq)
        if row is not None and row.outcome is Outcome.RECEIVED:
            row.outcome = Outcome.ACKED
            if row.attempts:
                row.attempts[-1].ack_at = at

    def step_clock(self, ms: int) -> None:
        """Move the times of pending events along."""
        for row in self._pending():
            row.event = row.event.moved(ms)
            for attempt in row.attempts:
                attempt.move(ms)

    def expire(self, now: int) -> list[Ended]:
        """End what has expired."""
        expired = [row for row in self._pending() if row.event.expires_at <= now]
        return [self._end(row, Outcome.EXPIRED, now) for row in expired]

    # reads

    def pending(self, key: BotKey, after: int, now: int) -> Iterator[StoredEvent]:
        """Pending, unexpired events with `seq > after`, in `seq` order."""
        for seq, row in self._rows.get(key, {}).items():
            if seq > after and row.outcome is Outcome.PENDING and row.event.expires_at > now:
                yield msgspec.structs.replace(row.event, attempts=copies(row.attempts))

    def last_seq(self, key: BotKey) -> int:
        """As `Outbox.last_seq`."""
        return len(self._rows.get(key, {}))

    def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """As `Outbox.ledger`."""
        rows = self._rows.get(key, {})
        return [row.entry() for seq, row in rows.items() if seq > after][: max(0, limit)]

    def find(self, event_id: str) -> LedgerEntry | None:
        """As `Outbox.find`."""
        return next((row.entry() for row in self._all() if row.event.id == event_id), None)

    def totals(self) -> Totals:
        """As `Outbox.totals`."""
        pending: Sequence[StoredEvent] = [row.event for row in self._pending()]
        return Totals(
            self._created.copy(),
            self._resolved.copy(),
            Counter(event.type for event in pending),
            min((event.created_at for event in pending), default=None),
            0,
        )

    def any_pending(self) -> bool:
        """Whether an event has not ended."""
        return any(self._pending())

    def _all(self) -> Iterator[Row]:
        return (row for rows in self._rows.values() for row in rows.values())

    def _pending(self) -> Iterator[Row]:
        return (row for row in self._all() if row.outcome is Outcome.PENDING)

    def _row(self, key: BotKey, seq: int) -> Row | None:
        return self._rows.get(key, {}).get(seq)

    def _end(self, row: Row, outcome: Outcome, at: int) -> Ended:
        row.outcome = outcome
        row.resolved_at = at
        row.event = msgspec.structs.replace(row.event, body=b"")
        self._resolved[row.event.type, outcome] += 1
        return Ended(row.event.key, row.event.seq, outcome)
