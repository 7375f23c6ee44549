"""An outbox in memory: the contract of `base.Outbox`, but nothing outlasts the object.

Writes and reads wait in one queue, which the loop's next turn processes as one commit, so no call is answered in the
turn that made it. The events themselves are in `memory_table.py`, which never deletes one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog

from roundtrip.clock import SYSTEM, Clock, SteppedOffset
from roundtrip.identity import BotKey
from roundtrip.outbox.base import AppendCallback, OutboxError, outbox_closed, resolve_reply
from roundtrip.outbox.memory_table import MemoryTable, copies
from roundtrip.outbox.records import (
    Attempt,
    Draft,
    Ended,
    EventIds,
    LedgerEntry,
    Outcome,
    Resolution,
    StoredEvent,
    Totals,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

SWEEP: Final = 0.02
"""Seconds between two searches for what has expired, or could not be written."""


@dataclass
class Results:
    """What one commit reports, in the order of the fields."""

    ended_before: list[Ended] = field(default_factory=list)
    done: list[tuple[AppendCallback, StoredEvent | OutboxError, int]] = field(default_factory=list)
    """The number is the sum of all steps of the clock that the event's times include, in nanoseconds."""
    ended_within: list[Ended] = field(default_factory=list)
    replies: list[tuple[asyncio.Future[Any], Any]] = field(default_factory=list)
    created: set[tuple[BotKey, int]] = field(default_factory=set)
    """Events that the commit created. Not reported."""


class MemoryOutbox:
    """An `Outbox`. It is open from the start; `close` and `start` act like a restart over the same store."""

    def __init__(
        self, *, clock: Clock = SYSTEM, make_id: Callable[[int], str] | None = None, sweep_every: float = SWEEP
    ) -> None:
        """`make_id` returns an event's id for its time of creation, in milliseconds since the epoch. `sweep_every` is
        in seconds."""
        self._sweep_every = sweep_every
        self._clock = clock
        self._frame = SteppedOffset(clock)
        self._table = MemoryTable(make_id or EventIds().make)
        self._open = True
        self._queue: list[Callable[[], None]] = []
        self._retries: list[tuple[Callable[[], None], tuple[BotKey, int] | None]] = []
        """Failed writes without a caller to notify, each with the event that it ends."""
        self._results = Results()
        self._stepped_ns = 0
        """The sum of all steps of the clock, in nanoseconds."""
        self._applied_ns = 0
        """The part of it that the stored times include."""
        self._commit_handle: asyncio.Handle | None = None
        self._sweep_handle: asyncio.TimerHandle | None = None
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda _ended: None
        self.fault_down = False
        """Fault: commits fail."""

    @property
    def full(self) -> bool:
        """As `Outbox.full`: never."""
        return False

    @property
    def away(self) -> bool:
        """As `Outbox.away`."""
        return self.fault_down

    async def start(self) -> None:
        """As `Outbox.start`."""
        self._open = True
        self._frame = SteppedOffset(self._clock)
        self._applied_ns = self._stepped_ns
        self._sweep_later(0.0)

    async def close(self) -> None:
        """As `Outbox.close`. The committed events stay for another `start`."""
        self._commit()
        self._open = False
        for handle in (self._commit_handle, self._sweep_handle):
            if handle is not None:
                handle.cancel()
        self._commit_handle = self._sweep_handle = None
        if self._retries:
            log.error("outbox_closed_with_unwritten", count=len(self._retries))
            self._retries.clear()

    # writes

    def append(self, draft: Draft, done: AppendCallback) -> None:
        """As `Outbox.append`."""
        if self._open:
            self._put(lambda: self._append(draft, done))
        else:
            asyncio.get_running_loop().call_soon(done, outbox_closed())

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        """As `Outbox.record`."""
        copied = copies(attempts)
        self._put_write(lambda: self._table.record(key, seq, copied))

    def resolve(self, resolution: Resolution) -> None:
        """As `Outbox.resolve`."""
        if resolution.outcome is Outcome.PENDING:
            raise ValueError("an event does not end as pending")
        copied = copies(resolution.attempts)
        self._put_write(lambda: self._table.resolve(resolution, copied), (resolution.key, resolution.seq))

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """As `Outbox.upgrade`."""
        self._put_write(lambda: self._table.upgrade(key, seq, at))

    def moved(self, ns: int) -> None:
        """As `Outbox.moved`."""
        self._stepped_ns += ns

        def step() -> None:
            self._table.step_clock(ns // 1_000_000)
            self._frame.apply_step(ns)
            self._applied_ns += ns

        self._put_write(step)

    async def check(self) -> None:
        """As `Outbox.check`."""
        await self._ask(self._require_up)

    # reads

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """As `Outbox.pending`."""

        def read() -> tuple[list[StoredEvent], int]:
            ended = {event for _, event in self._retries}
            events = self._table.pending(key, after, self._frame.now_ms())
            found = [event for event in events if (key, event.seq) not in ended]
            return found[: max(0, limit)], self._applied_ns

        found, applied_ns = await self._ask(read)
        return [self._by_the_clock(event, applied_ns) for event in found]

    async def last_seq(self, key: BotKey) -> int:
        """As `Outbox.last_seq`."""
        return await self._ask(lambda: self._table.last_seq(key))

    def known_seq(self, key: BotKey) -> int:
        """As `Outbox.known_seq`."""
        return self._table.last_seq(key)

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """As `Outbox.ledger`."""
        return await self._ask(lambda: self._table.ledger(key, after, limit))

    async def find(self, event_id: str) -> LedgerEntry | None:
        """As `Outbox.find`."""
        return await self._ask(lambda: self._table.find(event_id))

    def totals(self) -> Totals:
        """As `Outbox.totals`."""
        return self._table.totals()

    # the queue

    def _put(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        if self._commit_handle is None:
            self._commit_handle = asyncio.get_running_loop().call_soon(self._commit)

    def _put_write(self, write: Callable[[], None], ends: tuple[BotKey, int] | None = None) -> None:
        """Queue a write without a caller to notify, `ends` being the event that it ends."""

        def write_or_retry() -> None:
            if self.fault_down:
                self._retries.append((write, ends))
            else:
                write()

        if self._open:
            self._put(write_or_retry)
        else:
            log.warning("outbox_write_after_close")

    async def _ask(self, query: Callable[[], T]) -> T:
        if not self._open:
            raise outbox_closed()
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def work() -> None:
            try:
                self._results.replies.append((reply, query()))
            except OutboxError as error:
                self._results.replies.append((reply, error))

        self._put(work)
        return await reply

    def _append(self, draft: Draft, done: AppendCallback) -> None:
        results = self._results
        try:
            self._require_up()
            event, superseded = self._table.append(draft, self._frame.now_ms())
        except OutboxError as error:
            results.done.append((done, error, 0))
            return
        for ended in superseded:
            within = (ended.key, ended.seq) in results.created
            (results.ended_within if within else results.ended_before).append(ended)
        results.created.add((event.key, event.seq))
        results.done.append((done, event, self._applied_ns))
        self._sweep_later(self._sweep_every)

    def _require_up(self) -> None:
        if self.fault_down:
            raise OutboxError("outbox_unavailable", "The event store could not write: the fault outbox_down is on.")

    def _commit(self) -> None:
        """Process the queue, after the failed writes, and report the results."""
        self._commit_handle = None
        if not self.fault_down:
            retries, self._retries = self._retries, []
            for write, _ in retries:
                write()
        queue, self._queue = self._queue, []
        for work in queue:
            work()
        self._report()

    def _report(self) -> None:
        results, self._results = self._results, Results()
        if results.ended_before:
            self._call(self.on_ended, results.ended_before)
        for done, result, applied_ns in results.done:
            self._call(done, self._by_the_clock(result, applied_ns) if isinstance(result, StoredEvent) else result)
        if results.ended_within:
            self._call(self.on_ended, results.ended_within)
        for reply, result in results.replies:
            resolve_reply(reply, result)

    def _by_the_clock(self, event: StoredEvent, applied_ns: int) -> StoredEvent:
        """The event by the clock as it is now: it may have been set since the event was read."""
        behind_ms = (self._stepped_ns - applied_ns) // 1_000_000
        return event.moved(behind_ms) if behind_ms else event

    def _call(self, callback: Callable[[Any], None], argument: object) -> None:
        try:
            callback(argument)
        except Exception:  # the other callbacks must still be called
            log.exception("outbox_callback_failed")

    # expiry

    def _sweep_later(self, seconds: float) -> None:
        if self._sweep_handle is None:
            self._sweep_handle = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Retry failed writes, then end what has expired."""
        self._sweep_handle = None
        self._commit()
        if not self.fault_down:
            self._results.ended_before += self._table.expire(self._frame.now_ms())
            self._report()
        if self._retries or self._table.any_pending():
            self._sweep_later(self._sweep_every)
