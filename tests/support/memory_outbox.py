"""An outbox in memory: the public fake beside the real one. It passes the same contract, but for durability."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from uuid import uuid4

import msgspec

from backend.delivery.outbox import Draft, Ended, LedgerEntry, OutboxError, Resolution, StoredEvent, Totals
from backend.delivery.outcome import Attempt, Outcome
from backend.events import TYPE_OF, EventType
from backend.identity import BotKey


class Row(msgspec.Struct):
    event: StoredEvent
    outcome: Outcome = Outcome.PENDING
    resolved_at: int | None = None
    attempts: tuple[Attempt, ...] = ()


class MemoryOutbox:
    """Commits on the next turn of the loop. `failing` makes every write fail; `held` keeps commits back."""

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now_ms = now_ms
        self.rows: dict[BotKey, dict[int, Row]] = defaultdict(dict)
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda _ended: None
        self.failing = False
        self.created: Counter[EventType] = Counter()
        self.resolved: Counter[tuple[EventType, Outcome]] = Counter()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def append(self, draft: Draft, done: Callable[[StoredEvent | OutboxError], None]) -> None:
        asyncio.get_running_loop().call_soon(self._commit, draft, done)

    def _commit(self, draft: Draft, done: Callable[[StoredEvent | OutboxError], None]) -> None:
        if self.failing:
            done(OutboxError("outbox_unavailable", "The outbox was told to fail."))
            return
        rows = self.rows[draft.key]
        type_ = TYPE_OF[type(draft.payload)]
        ended = []
        for seq, row in rows.items():
            if row.outcome is Outcome.PENDING and row.event.type in draft.supersedes:
                self._end(row, Outcome.SUPERSEDED, draft.created_at)
                ended.append(Ended(draft.key, seq, Outcome.SUPERSEDED))
        seq = len(rows) + 1
        fields = {
            "id": str(uuid4()),
            "seq": seq,
            "type": type_.wire,
            "userId": draft.key.user_id,
            "botId": draft.key.bot_id,
            "linkId": draft.link_id,
            "timestamp": "2026-01-01T00:00:00.000Z",
            "traceparent": draft.traceparent,
            **msgspec.to_builtins(draft.payload),
        }
        event = StoredEvent(
            draft.key,
            seq,
            str(fields["id"]),
            type_,
            draft.link_id,
            draft.created_at,
            draft.expires_at,
            draft.traceparent,
            msgspec.json.encode(fields),
        )
        rows[seq] = Row(event)
        self.created[type_] += 1
        if ended:
            self.on_ended(ended)
        done(event)

    def _end(self, row: Row, outcome: Outcome, at: int) -> None:
        row.outcome = outcome
        row.resolved_at = at
        self.resolved[row.event.type, outcome] += 1

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        self.rows[key][seq].attempts = tuple(attempts)

    def resolve(self, resolution: Resolution) -> None:
        row = self.rows[resolution.key][resolution.seq]
        if row.outcome is Outcome.PENDING:
            self._end(row, resolution.outcome, resolution.at)
            row.attempts = tuple(resolution.attempts)

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        row = self.rows[key][seq]
        if row.outcome is Outcome.RECEIVED:
            row.outcome = Outcome.ACKED
            row.attempts[-1].ack_at = at

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        await asyncio.sleep(0)
        now = self._now_ms()
        found = [
            msgspec.structs.replace(row.event, attempts=row.attempts)
            for seq, row in self.rows[key].items()
            if seq > after and row.outcome is Outcome.PENDING and row.event.expires_at > now
        ]
        return found[:limit]

    async def last_seq(self, key: BotKey) -> int:
        await asyncio.sleep(0)
        return len(self.rows[key])

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        return [self._entry(row) for seq, row in self.rows[key].items() if seq > after][:limit]

    async def find(self, event_id: str) -> LedgerEntry | None:
        return next(
            (self._entry(row) for rows in self.rows.values() for row in rows.values() if row.event.id == event_id),
            None,
        )

    @staticmethod
    def _entry(row: Row) -> LedgerEntry:
        event = row.event
        return LedgerEntry(
            event.key,
            event.seq,
            event.id,
            event.type,
            event.link_id,
            event.created_at,
            event.expires_at,
            event.traceparent,
            row.outcome,
            row.resolved_at,
            row.attempts,
        )

    async def discard(self, key: BotKey) -> int:
        pending = [row for row in self.rows[key].values() if row.outcome is Outcome.PENDING]
        for row in pending:
            self._end(row, Outcome.DISCARDED, self._now_ms())
        return len(pending)

    def expire(self) -> None:
        """Do what the real one's sweep does."""
        now = self._now_ms()
        ended = []
        for key, rows in self.rows.items():
            for seq, row in rows.items():
                if row.outcome is Outcome.PENDING and row.event.expires_at <= now:
                    self._end(row, Outcome.EXPIRED, now)
                    ended.append(Ended(key, seq, Outcome.EXPIRED))
        self.on_ended(ended)

    async def check(self) -> None:
        if self.failing:
            raise OutboxError("outbox_unavailable", "The outbox was told to fail.")

    def totals(self) -> Totals:
        pending = Counter(
            row.event.type for rows in self.rows.values() for row in rows.values() if row.outcome is Outcome.PENDING
        )
        return Totals(dict(self.created), dict(self.resolved), dict(pending), None, 0)
