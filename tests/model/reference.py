"""What must be true, in plain Python: who must have seen what in which order, and what the ledger must say.

It knows what was published, seen, acknowledged and answered, and how much time passed. It knows nothing of
channels, batches, timers or rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from roundtrip.delivery.inflight import REMEMBERED
from roundtrip.events import SUPERSEDES_ALWAYS, SUPERSEDES_UNSEEN, EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import LedgerEntry, Outcome, StoredEvent, Totals

GRAIN: Final = 0.05
"""Seconds by which two parts may differ about a moment."""


def supersedes(type_: EventType) -> frozenset[EventType]:
    """What ends with an event of this type, or may."""
    return SUPERSEDES_ALWAYS.get(type_, frozenset()) | SUPERSEDES_UNSEEN.get(type_, frozenset())


@dataclass
class Reference:
    published: dict[BotKey, list[StoredEvent]] = field(default_factory=dict)
    acked: set[tuple[BotKey, int]] = field(default_factory=set)
    answered: set[tuple[BotKey, int]] = field(default_factory=set)
    """Seen by a client that then answered a PING and had not promised to acknowledge."""
    acked_in_time: set[tuple[BotKey, int]] = field(default_factory=set)
    """Acknowledged by a socket that had it, before its time was up."""
    ends: dict[tuple[BotKey, int], float] = field(default_factory=dict)
    """When each event's time is up, on the clock that nobody sets."""
    now: float = 0.0
    """The same clock."""
    before: dict[tuple[BotKey, int], Outcome] = field(default_factory=dict)

    def ledger_is_true(self, key: BotKey, entries: list[LedgerEntry], *, writable: bool) -> None:
        """One row for each accepted event, `seq` without a gap, and each end explained by what happened."""
        published = self.published.get(key, [])
        assert [(e.seq, e.id) for e in entries] == [(e.seq, e.id) for e in published]
        assert [e.seq for e in entries] == list(range(1, len(entries) + 1))
        for entry in entries:
            event = (key, entry.seq)
            before = self.before.get(event, Outcome.PENDING)
            upgraded = (before, entry.outcome) == (Outcome.RECEIVED, Outcome.ACKED)
            assert before in {Outcome.PENDING, entry.outcome} or upgraded, f"{event} ended twice"
            self.before[event] = entry.outcome
            match entry.outcome:
                case Outcome.ACKED:
                    assert event in self.acked
                case Outcome.RECEIVED:
                    assert event in self.answered
                case Outcome.SUPERSEDED:
                    assert any(entry.type in supersedes(e.type) for e in published[entry.seq :])
                case Outcome.EXPIRED:
                    assert self.is_up(event, -GRAIN), f"{event} expired before its time"
                case Outcome.DISCARDED:
                    raise AssertionError("nobody discarded it")
            if writable and event in self.acked_in_time:
                forgotten = entry.outcome is Outcome.RECEIVED and len(published) - entry.seq >= REMEMBERED
                assert forgotten or entry.outcome in {Outcome.ACKED, Outcome.SUPERSEDED}, (
                    f"{event} was acknowledged in time and is {entry.outcome.name}"
                )

    def is_up(self, event: tuple[BotKey, int], late: float = 0.0) -> bool:
        """Whether an event's time is over; no setting of the clock brings that about, or puts it off."""
        return self.now >= self.ends[event] + late

    def sums_are_true(self, entries: list[LedgerEntry], totals: Totals) -> None:
        """created = resolved + pending for each type, and so many rows; a late upgrade moves no sum."""
        rows = Counter(e.type for e in entries)
        pending = Counter(e.type for e in entries if e.outcome is Outcome.PENDING)
        for type_, count in rows.items():
            resolved = sum(n for (of, _), n in totals.resolved.items() if of == type_)
            assert totals.created[type_] == count == resolved + totals.pending[type_]
            assert totals.pending[type_] == pending[type_]

    def due(self, key: BotKey, entries: list[LedgerEntry], *, writable: bool = True) -> list[int]:
        """What whoever is connected and reads must have seen by now; not what has ended and cannot be written."""
        ended = set() if writable else self.acked | self.answered
        return [
            e.seq
            for e in entries
            if e.outcome is Outcome.PENDING and not self.is_up((key, e.seq)) and (key, e.seq) not in ended
        ]
