"""An outbox in memory: the same contract as the one on disk, but for lasting longer than the process.

Writes and reads wait in one queue, which is worked off in the loop's next turn as one commit: nothing is answered in
the turn that asked. It keeps every event that it was ever given.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
import structlog

from roundtrip.clock import SYSTEM, Clock, SteppedOffset
from roundtrip.events import TYPE_OF, EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import (
    Attempt,
    Draft,
    Ended,
    EventIds,
    LedgerEntry,
    Outcome,
    Resolution,
    StoredEvent,
    Timestamps,
    Totals,
    body,
    key_part,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")
Done = Callable[[StoredEvent | OutboxError], None]

SWEEP: Final = 0.02
"""Seconds between two looks for what has expired, or could not be written."""


class Row(msgspec.Struct):
    """One event. `event.attempts` is empty, `attempts` has them."""

    event: StoredEvent
    outcome: Outcome = Outcome.PENDING
    resolved_at: int | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def pending(self) -> bool:
        return self.outcome is Outcome.PENDING


def _copies(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """The caller's attempts are the caller's: they change later."""
    return tuple(msgspec.structs.replace(attempt) for attempt in attempts)


class MemoryOutbox:
    """An `Outbox`. Open from the start; `rows` is what it holds, by key and `seq`."""

    def __init__(self, *, clock: Clock = SYSTEM, make_id: Callable[[int], str] | None = None) -> None:
        """`make_id` gives an event's id for its time of creation, in milliseconds since the epoch."""
        self._frame = SteppedOffset(clock)
        self._make_id = make_id or EventIds().make
        self._times = Timestamps()
        self._open = True
        self._queue: list[Callable[[], None]] = []
        self._kept: list[tuple[Callable[[], None], tuple[BotKey, int] | None]] = []
        """Writes that failed and nobody waits for, each with the event that it ends."""
        self._moved_ns = 0
        self._pump: asyncio.Handle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._created: set[tuple[BotKey, int]] = set()
        self._before: list[Ended] = []
        self._tell: list[Callable[[], None]] = []
        self._within: list[Ended] = []
        self.rows: dict[BotKey, dict[int, Row]] = {}
        self.created: Counter[EventType] = Counter()
        self.resolved: Counter[tuple[EventType, Outcome]] = Counter()
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda _ended: None
        self.fault_down = False
        """Fault: commits fail."""

    @property
    def full(self) -> bool:
        return False

    async def start(self) -> None:
        """As `Outbox.start`."""
        self._open = True
        self._sweep_later(0.0)

    async def close(self) -> None:
        """As `Outbox.close`. What it holds stays, for another `start`."""
        self._commit()
        self._open = False
        for handle in (self._pump, self._sweep):
            if handle is not None:
                handle.cancel()
        self._pump = self._sweep = None

    # writes

    def append(self, draft: Draft, done: Done) -> None:
        """As `Outbox.append`."""
        if not self._open:
            asyncio.get_running_loop().call_soon(done, _closed())
            return
        self._put(lambda: self._append(draft, done))

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        """As `Outbox.record`."""
        copies = _copies(attempts)

        def write() -> None:
            row = self._row(key, seq)
            if row is not None and row.pending:
                row.attempts = copies

        self._write(write)

    def resolve(self, resolution: Resolution) -> None:
        """As `Outbox.resolve`."""
        key, seq, outcome, at, attempts = resolution
        copies = _copies(attempts)

        def write() -> None:
            row = self._row(key, seq)
            if row is not None and row.pending:
                row.attempts = copies
                self._end(row, outcome, at)

        self._write(write, (key, seq))

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """As `Outbox.upgrade`."""

        def write() -> None:
            row = self._row(key, seq)
            if row is not None and row.outcome is Outcome.RECEIVED:
                row.outcome = Outcome.ACKED
                if row.attempts:
                    row.attempts[-1].ack_at = at

        self._write(write)

    def moved(self, ns: int) -> None:
        """As `Outbox.moved`. At once: nothing here is on another thread."""
        ms = ns // 1_000_000
        self._work_off()
        self._frame.apply_step(ns)
        self._moved_ns += ns
        for row in self._pending():
            row.event = row.event.moved(ms)
            for attempt in row.attempts:
                attempt.move(ms)

    async def discard(self, key: BotKey) -> int:
        """As `Outbox.discard`."""

        def write() -> int:
            self._must_be_up()
            pending = [row for row in self.rows.get(key, {}).values() if row.pending]
            for row in pending:
                self._end(row, Outcome.DISCARDED, self._frame.now_ms())
            return len(pending)

        return await self._ask(write)

    async def check(self) -> None:
        """As `Outbox.check`."""
        await self._ask(self._must_be_up)

    # reads

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """As `Outbox.pending`."""

        def read() -> list[Callable[[], StoredEvent]]:
            now, ended = self._frame.now_ms(), {end for _, end in self._kept}
            found = [
                msgspec.structs.replace(row.event, attempts=_copies(row.attempts))
                for seq, row in self.rows.get(key, {}).items()
                if seq > after and row.pending and row.event.expires_at > now and (key, seq) not in ended
            ]
            return [self._by_the_clock(event) for event in found[: max(0, limit)]]

        return [tell() for tell in await self._ask(read)]

    async def last_seq(self, key: BotKey) -> int:
        """As `Outbox.last_seq`."""
        return await self._ask(lambda: len(self.rows.get(key, {})))

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """As `Outbox.ledger`."""
        rows = self.rows.get
        return await self._ask(lambda: [_entry(row) for seq, row in rows(key, {}).items() if seq > after][:limit])

    async def find(self, event_id: str) -> LedgerEntry | None:
        """As `Outbox.find`."""
        every = self._all
        return await self._ask(lambda: next((_entry(row) for row in every() if row.event.id == event_id), None))

    def totals(self) -> Totals:
        """As `Outbox.totals`."""
        return Totals(
            self.created.copy(),
            self.resolved.copy(),
            Counter(row.event.type for row in self._pending()),
            min((row.event.created_at for row in self._pending()), default=None),
            0,
        )

    # the queue

    def _write(self, write: Callable[[], None], ends: tuple[BotKey, int] | None = None) -> None:
        """A write that nobody waits for: kept while it cannot be made."""

        def guarded() -> None:
            if self.fault_down:
                self._kept.append((write, ends))
            else:
                write()

        if self._open:
            self._put(guarded)
        else:
            log.warning("outbox_write_after_close")

    async def _ask(self, ask: Callable[[], T]) -> T:
        if not self._open:
            raise _closed()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def work() -> None:
            result: T | OutboxError
            try:
                result = ask()
            except OutboxError as error:
                result = error
            self._tell.append(lambda: _set(answer, result))

        self._put(work)
        return await answer

    def _put(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        if self._pump is None:
            self._pump = asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        """Work off the queue, then tell of it, in the contract's order."""
        self._pump = None
        self._work_off()
        before, self._before = self._before, []
        tell, self._tell = self._tell, []
        within, self._within = self._within, []
        self._created.clear()
        if before:
            self._call(self.on_ended, before)
        for one in tell:
            self._call(one)
        if within:
            self._call(self.on_ended, within)

    def _work_off(self) -> None:
        kept, self._kept = self._kept, []
        if self.fault_down:
            self._kept = kept
        else:
            for write, _ in kept:
                write()
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def _call(self, callback: Callable[..., Any], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:  # the others' results must still be told
            log.exception("outbox_callback_failed")

    def _append(self, draft: Draft, done: Done) -> None:
        try:
            self._must_be_up()
            tell = self._by_the_clock(self._stored(draft))
            self._tell.append(lambda: done(tell()))
        except OutboxError as error:
            refusal = error
            self._tell.append(lambda: done(refusal))

    def _by_the_clock(self, event: StoredEvent) -> Callable[[], StoredEvent]:
        """The event as it is to be told whenever that is: the clock may be set before."""
        then = self._moved_ns

        def tell() -> StoredEvent:
            return event if self._moved_ns == then else event.moved((self._moved_ns - then) // 1_000_000)

        return tell

    def _stored(self, draft: Draft) -> StoredEvent:
        key, type_ = draft.key, TYPE_OF[type(draft.payload)]
        rows = self.rows.setdefault(key, {})
        seq, event_id = len(rows) + 1, self._make_id(draft.created_at)
        try:
            text = body(draft, seq, event_id, self._times.text(draft.created_at), key_part(key))
        except (ValueError, TypeError, OverflowError):
            raise OutboxError("outbox_unavailable", "The event could not be encoded.") from None
        for old, row in rows.items():
            if row.pending and row.event.type in draft.supersedes:
                self._end(row, Outcome.SUPERSEDED, self._frame.now_ms())
                ended = self._within if (key, old) in self._created else self._before
                ended.append(Ended(key, old, Outcome.SUPERSEDED))
        times = (draft.created_at, draft.expires_at)
        event = StoredEvent(key, seq, event_id, type_, draft.link_id, *times, draft.traceparent, text)
        rows[seq] = Row(event)
        self.created[type_] += 1
        self._created.add((key, seq))
        self._sweep_later(SWEEP)
        return event

    # expiry

    def _sweep_later(self, seconds: float) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._sweep = None
        self._commit()
        now = self._frame.now_ms()
        if not self.fault_down:
            for row in [row for row in self._pending() if row.event.expires_at <= now]:
                self._end(row, Outcome.EXPIRED, now)
                self._before.append(Ended(row.event.key, row.event.seq, Outcome.EXPIRED))
            self._commit()
        if self._kept or any(self._pending()):
            self._sweep_later(SWEEP)

    # rows

    def _must_be_up(self) -> None:
        if self.fault_down:
            raise OutboxError("outbox_unavailable", "The event store could not write: the fault outbox_down is on.")

    def _all(self) -> Iterable[Row]:
        return (row for rows in self.rows.values() for row in rows.values())

    def _pending(self) -> Iterable[Row]:
        return (row for row in self._all() if row.pending)

    def _row(self, key: BotKey, seq: int) -> Row | None:
        return self.rows.get(key, {}).get(seq)

    def _end(self, row: Row, outcome: Outcome, at: int) -> None:
        row.outcome = outcome
        row.resolved_at = at
        row.event = msgspec.structs.replace(row.event, body=b"")
        self.resolved[row.event.type, outcome] += 1


def _entry(row: Row) -> LedgerEntry:
    event = row.event
    times = (event.created_at, event.expires_at)
    attempts = _copies(row.attempts)
    return LedgerEntry(
        event.key, event.seq, event.id, event.type, event.link_id, *times, event.traceparent, row.outcome,
        row.resolved_at, attempts,
    )  # fmt: skip


def _set(answer: asyncio.Future[T], result: T | OutboxError) -> None:
    if answer.done():  # whoever asked has gone
        return
    if isinstance(result, OutboxError):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def _closed() -> OutboxError:
    return OutboxError("outbox_unavailable", "The event store is not open.")
