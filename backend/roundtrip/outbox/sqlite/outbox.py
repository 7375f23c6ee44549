"""The outbox that ships: SQLite in one file, written by one thread, many events in one durable commit.

This is the event loop's side: every call appends an item for the thread (`sqlite_writer.py`), and every batch comes
back as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from roundtrip.clock import SYSTEM, Clock, SteppedOffset
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Attempt, Draft, Ended, LedgerEntry, Outcome, Resolution, StoredEvent, Totals
from roundtrip.outbox.sqlite.batch import CommitResults
from roundtrip.outbox.sqlite.reads import Reader
from roundtrip.outbox.sqlite.schema import (
    Append,
    Check,
    Discard,
    Done,
    Move,
    Read,
    Record,
    Resolve,
    Stop,
    Upgrade,
    encode_attempts,
)
from roundtrip.outbox.sqlite.writer import Writer

log = structlog.get_logger(__name__)

WEEK: Final = 7 * 86400.0
GIBIBYTE: Final = 1 << 30

_T = TypeVar("_T")


class SqliteOutbox:
    """An `Outbox` in `folder/outbox.db`. Make it, set `on_ended` and `on_write`, then `start`."""

    def __init__(
        self,
        folder: Path,
        *,
        retention: float = WEEK,
        max_bytes: int = GIBIBYTE,
        sweep_every: float = 1.0,
        clock: Clock = SYSTEM,
    ) -> None:
        """`retention` is how many seconds a resolved event stays in the ledger; `max_bytes` is what the file may
        take before the oldest of them go earlier, and `full` is said when that does not help. `sweep_every` is in
        seconds; `clock` is read on the writer thread too. What it is set by must be told to `moved`."""
        self._clock = clock
        self._writer = Writer(
            folder, retention=retention, max_bytes=max_bytes, sweep_every=sweep_every, frame=SteppedOffset(clock)
        )
        self._moved_ns = 0
        self._open = False
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda _ended: None
        self.on_write: Callable[[float], None] = lambda _seconds: None
        """CommitResults the seconds that each committed batch took."""
        self.on_error: Callable[[], object] = lambda: None
        """CommitResults when a callback raised."""

    def count_failures(self, count: Callable[[], object]) -> None:
        """Have each failed commit counted; `count` is called on the writer thread."""
        self._writer.on_failure = count

    async def start(self) -> None:
        """As `Outbox.start`."""
        self._loop = asyncio.get_running_loop()
        await self._writer.start(self._loop, self._told)
        self._open = True

    async def close(self) -> None:
        """As `Outbox.close`. A second call does nothing."""
        if self._open:
            self._open = False
            stopped: asyncio.Future[None] = self._loop.create_future()
            self._writer.put(Stop(stopped))
            await stopped

    @property
    def full(self) -> bool:
        """Whether the file is over its bound and nothing resolved is left to delete: start no new links then."""
        return self._writer.full

    @property
    def fault_delay(self) -> float:
        """Fault: seconds that every commit takes longer."""
        return self._writer.fault_delay

    @fault_delay.setter
    def fault_delay(self, seconds: float) -> None:
        self._writer.fault_delay = seconds

    @property
    def fault_down(self) -> bool:
        """Fault: commits fail."""
        return self._writer.fault_down

    @fault_down.setter
    def fault_down(self, down: bool) -> None:
        self._writer.fault_down = down

    # writes

    def append(self, draft: Draft, done: Done) -> None:
        """As `Outbox.append`."""
        if self._open:
            self._writer.put(Append(draft, done))
        else:
            asyncio.get_running_loop().call_soon(done, _closed())

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        """As `Outbox.record`."""
        self._put(Record(key, seq, encode_attempts(attempts)))

    def resolve(self, resolution: Resolution) -> None:
        """As `Outbox.resolve`."""
        key, seq, outcome, at, attempts = resolution
        if outcome is Outcome.PENDING:
            raise ValueError("an event does not end as pending")
        self._put(Resolve(key, seq, outcome, at, encode_attempts(attempts)))

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """As `Outbox.upgrade`."""
        self._put(Upgrade(key, seq, at))

    def moved(self, ns: int) -> None:
        """As `Outbox.moved`."""
        self._moved_ns += ns
        self._put(Move(ns, SteppedOffset(self._clock).offset))

    def _put(self, write: Record | Resolve | Upgrade | Move) -> None:
        if self._open:
            self._writer.put(write)
        else:
            log.warning("outbox_write_after_close", kind=type(write).__name__)

    async def discard(self, key: BotKey) -> int:
        """As `Outbox.discard`. Raises `OutboxError`."""
        answer: asyncio.Future[int] = self._answer()
        self._writer.put(Discard(key, answer))
        return await answer

    async def check(self) -> None:
        """As `Outbox.check`."""
        answer: asyncio.Future[None] = self._answer()
        self._writer.put(Check(answer))
        await answer

    # reads: each may raise `OutboxError`

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """As `Outbox.pending`."""
        found, moved_ns = await self._read(lambda reader: self._writer.pending(reader, key, after, limit))
        behind = (self._moved_ns - moved_ns) // 1_000_000
        return [event.moved(behind) for event in found] if behind else found

    async def last_seq(self, key: BotKey) -> int:
        """As `Outbox.last_seq`."""
        return await self._read(lambda reader: reader.last_seq(key))

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """As `Outbox.ledger`."""
        return await self._read(lambda reader: reader.ledger(key, after, limit))

    async def find(self, event_id: str) -> LedgerEntry | None:
        """As `Outbox.find`."""
        return await self._read(lambda reader: reader.find(event_id))

    def totals(self) -> Totals:
        """As `Outbox.totals`. Raises `OutboxError` before the start."""
        totals = self._writer.totals
        if totals is None:
            raise _closed()
        return totals

    async def _read(self, query: Callable[[Reader], _T]) -> _T:
        answer: asyncio.Future[_T] = self._answer()
        self._writer.put(Read(query, answer))
        return await answer

    def _answer(self) -> asyncio.Future[Any]:
        if not self._open:
            raise _closed()
        return self._loop.create_future()

    def _told(self, told: CommitResults) -> None:
        """A batch's results, on the event loop."""
        if told.ended_before:
            self._call(self.on_ended, told.ended_before)
        behind = (self._moved_ns - told.moved_ns) // 1_000_000
        for done, result in told.done:
            self._call(done, result.moved(behind) if behind and isinstance(result, StoredEvent) else result)
        if told.ended_within:
            self._call(self.on_ended, told.ended_within)
        if told.seconds is not None:
            self._call(self.on_write, told.seconds)
        for answer, result in told.answers:
            if answer.done():  # whoever asked has gone
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def _call(self, callback: Callable[[Any], None], argument: object) -> None:
        try:
            callback(argument)
        except Exception:  # the others' results must still be told
            log.exception("outbox_callback_failed")
            self.on_error()


def _closed() -> OutboxError:
    return OutboxError("outbox_unavailable", "The event store is not open.")
