"""`SqliteOutbox`, the event loop's side of the store: many events in one durable commit, written by one thread.

Every call queues an item for the thread (`writer.py`); every batch comes back as one message with its results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from roundtrip.clock import SYSTEM, Clock, SteppedOffset
from roundtrip.identity import BotKey
from roundtrip.outbox.base import (
    Append,
    AppendCallback,
    Record,
    Resolve,
    Stop,
    Upgrade,
    outbox_closed,
    resolve_reply,
)
from roundtrip.outbox.batched import WEEK, BatchedOutbox
from roundtrip.outbox.records import (
    Attempt,
    Draft,
    LedgerEntry,
    Outcome,
    Resolution,
    StoredEvent,
    Totals,
    encode_attempts,
)
from roundtrip.outbox.sqlite.batch import ClockStep, CommitResults
from roundtrip.outbox.sqlite.reads import Read, Reader
from roundtrip.outbox.sqlite.writer import Writer

GIBIBYTE: Final = 1 << 30

_T = TypeVar("_T")


class SqliteOutbox(BatchedOutbox):
    """An `Outbox` in `folder/outbox.db`. Create it, set `on_ended` and `on_write`, then `start`."""

    _writer: Writer

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
        take before the oldest of them are deleted earlier, and before `full` is true when that does not help.
        `sweep_every` is in seconds; `clock` is read on the writer thread too. `moved` must be called when it is set."""
        super().__init__()
        self._clock = clock
        self._writer = Writer(
            folder, retention=retention, max_bytes=max_bytes, sweep_every=sweep_every, frame=SteppedOffset(clock)
        )
        self._stepped_ns = 0

    async def start(self) -> None:
        """As `Outbox.start`."""
        self._loop = asyncio.get_running_loop()
        await self._writer.start(self._loop, self._on_results)
        self._open = True

    async def close(self) -> None:
        """As `Outbox.close`. A second call does nothing."""
        if self._open:
            self._open = False
            stopped: asyncio.Future[None] = self._loop.create_future()
            self._writer.put(Stop(stopped))
            await stopped

    @property
    def up(self) -> bool:
        """Whether the writer thread runs."""
        return self._writer.alive

    @property
    def full(self) -> bool:
        """As `Outbox.full`: the file is over its bound and nothing resolved is left to delete."""
        return self._writer.full

    # writes

    def append(self, draft: Draft, done: AppendCallback) -> None:
        """As `Outbox.append`."""
        if self._open:
            self._writer.put(Append(draft, done))
        else:
            asyncio.get_running_loop().call_soon(done, outbox_closed())

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        """As `Outbox.record`."""
        self._put(Record(key, seq, encode_attempts(attempts)))

    def resolve(self, resolution: Resolution) -> None:
        """As `Outbox.resolve`."""
        if resolution.outcome is Outcome.PENDING:
            raise ValueError("an event does not end as pending")
        text = encode_attempts(resolution.attempts)
        self._put(Resolve(resolution.key, resolution.seq, resolution.outcome, resolution.at, text))

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """As `Outbox.upgrade`."""
        self._put(Upgrade(key, seq, at))

    def moved(self, ns: int) -> None:
        """As `Outbox.moved`."""
        self._stepped_ns += ns
        self._put(ClockStep(ns, SteppedOffset(self._clock).offset))

    # reads: each may raise `OutboxError`

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """As `Outbox.pending`."""
        found, stepped_ns = await self._read(lambda reader: (reader.pending(key, after, limit), reader.stepped_ns))
        behind_ms = (self._stepped_ns - stepped_ns) // 1_000_000
        return [event.moved(behind_ms) for event in found] if behind_ms else found

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
            raise outbox_closed()
        return totals

    async def _read(self, query: Callable[[Reader], _T]) -> _T:
        reply: asyncio.Future[_T] = self._new_reply()
        self._writer.put(Read(query, reply))
        return await reply

    # results

    def _on_results(self, results: CommitResults) -> None:
        """A batch's results, on the event loop."""
        if results.ended_before:
            self._call(self.on_ended, results.ended_before)
        behind_ms = (self._stepped_ns - results.stepped_ns) // 1_000_000
        for done, result in results.done:
            self._call(done, result.moved(behind_ms) if behind_ms and isinstance(result, StoredEvent) else result)
        if results.ended_within:
            self._call(self.on_ended, results.ended_within)
        if results.seconds is not None:
            self._call(self.on_write, results.seconds)
        for reply, result in results.replies:
            resolve_reply(reply, result)
