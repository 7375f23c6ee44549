"""`PostgresOutbox`, the side of the store that the program calls: many events in one durable commit, by one task.

Stored times are by the database's clock. Every call converts the times that it brings, every result those that it
takes back, so that setting this machine's clock changes one number here and no row, and nodes whose clocks differ agree
on when an event expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg
import structlog

from roundtrip.clock import SYSTEM, Clock, SteppedOffset
from roundtrip.identity import BotKey
from roundtrip.outbox.base import (
    AppendCallback,
    OutboxError,
    Record,
    Resolve,
    Stop,
    Upgrade,
    outbox_closed,
)
from roundtrip.outbox.batched import WEEK, BatchedOutbox
from roundtrip.outbox.postgres import reads
from roundtrip.outbox.postgres.batch import Append, Results
from roundtrip.outbox.postgres.connector import Connector
from roundtrip.outbox.postgres.database import LOST, Database, Pool, reason, store_away
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.postgres.reads import Flush, LastSeq, Pending
from roundtrip.outbox.postgres.sweep import Sweep
from roundtrip.outbox.postgres.writer import Writer
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

log = structlog.get_logger(__name__)

SAME_CLOCK: Final = 500
"""Milliseconds by which two clocks may differ and count as one: what measuring over a network can tell."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a close waits for a store that is away."""

READERS: Final = 4
"""Connections for the ledger's pages: they are opened when they are needed."""

_ID_LENGTH: Final = 36


class PostgresOutbox(BatchedOutbox):
    """An `Outbox`. Create it with a lease that has joined, set `on_ended` and `on_write`, then `start`."""

    _writer: Writer

    def __init__(
        self,
        database: Database,
        lease: NodeLease,
        *,
        retention: float = WEEK,
        sweep_every: float = 1.0,
        clock: Clock = SYSTEM,
        store_clock: Callable[[], int] | None = None,
    ) -> None:
        """`retention` is how many seconds a resolved event stays in the ledger, `sweep_every` is in seconds.
        `store_clock` stands for the database's clock in tests: milliseconds since the epoch."""
        super().__init__()
        self._clock = clock
        self._store_clock = store_clock
        self._frame = SteppedOffset(clock)
        self._offset = 0
        self._lease = lease
        self._connector = Connector(database, lease)
        self._pool = Pool(database, READERS)
        sweep = Sweep(sweep_every, int(retention * 1000), lambda: self._offset)
        self._writer = Writer(self._connector, sweep, self._on_results, self._on_refusal, self._now)
        self._task: asyncio.Task[None] | None = None
        self.on_commit: Callable[[bool], None] = lambda _others: None
        """Called before the callbacks of a commit: whether another node was alive then."""

    def watch(self, on_change: Callable[[bool], None]) -> None:
        """Have it reported when the store is reached, and when it no longer is."""
        self._connector.on_change = on_change

    async def start(self) -> None:
        """As `Outbox.start`."""
        try:
            connection = await self._connector.get(None if self._store_clock else 30.0)
            await self._writer.sums.read(connection, check=True)
        except (*LOST, asyncpg.PostgresError) as error:
            await self._connector.close()
            raise store_away(reason(error)) from None
        self._frame = SteppedOffset(self._clock)
        store_now = self._store_clock() if self._store_clock else self._lease.store_now
        offset = self._frame.now_ms() - store_now
        self._offset = offset if self._store_clock or abs(offset) >= SAME_CLOCK else 0
        if self._offset and not self._store_clock:
            log.warning("store_clock_differs", seconds=round(self._offset / 1000, 1))
        self._task = asyncio.create_task(self._writer.run(), name="outbox")
        self._open = True

    async def close(self) -> None:
        """As `Outbox.close`. A second call does nothing."""
        if self._open:
            self._open = False
            stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._writer.put(Stop(stopped))
            await asyncio.wait((stopped,), timeout=CLOSE_TIMEOUT)
            if not stopped.done():  # it waits for a store that is away
                await self._connector.close()
                await stopped
            if self._task is not None:
                await self._task
        self._pool.close()
        await self._connector.close()

    @property
    def up(self) -> bool:
        """Whether the store is reached, as far as is known."""
        return self._connector.up

    @property
    def full(self) -> bool:
        """As `Outbox.full`: never, the room is the database's to watch; a full disk refuses each write."""
        return False

    # writes

    def append(self, draft: Draft, done: AppendCallback) -> None:
        """As `Outbox.append`."""
        if self._open:
            self._writer.put(Append(draft, done, self._offset))
        else:
            asyncio.get_running_loop().call_soon(done, outbox_closed())

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        """As `Outbox.record`."""
        self._put(Record(key, seq, self._encoded(attempts)))

    def resolve(self, resolution: Resolution) -> None:
        """As `Outbox.resolve`."""
        if resolution.outcome is Outcome.PENDING:
            raise ValueError("an event does not end as pending")
        at, text = resolution.at - self._offset, self._encoded(resolution.attempts)
        self._put(Resolve(resolution.key, resolution.seq, resolution.outcome, at, text))

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """As `Outbox.upgrade`."""
        self._put(Upgrade(key, seq, at - self._offset))

    def moved(self, ns: int) -> None:
        """As `Outbox.moved`. What is stored stays as it is."""
        self._offset += ns // 1_000_000
        self._frame.apply_step(ns)

    def _encoded(self, attempts: Sequence[Attempt]) -> str:
        node = self._lease.node_id
        for attempt in attempts:
            if attempt.node is None:
                attempt.node = node
        return encode_attempts(reads.moved(attempts, -self._offset) if self._offset else attempts)

    # reads: each may raise `OutboxError`

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """As `Outbox.pending`."""
        reply: asyncio.Future[list[StoredEvent]] = self._new_reply()
        self._writer.put(Pending(key, after, limit, reply))
        return [reads.local(event, self._offset) for event in await reply]

    async def last_seq(self, key: BotKey) -> int:
        """As `Outbox.last_seq`."""
        reply: asyncio.Future[int] = self._new_reply()
        self._writer.put(LastSeq(key, reply))
        return await reply

    def known_seq(self, key: BotKey) -> int:
        """As `Outbox.known_seq`."""
        return self._writer.known_seq(key)

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """As `Outbox.ledger`."""
        found = await self._query(lambda connection: reads.ledger(connection, key, after, limit))
        return [reads.local_entry(entry, self._offset) for entry in found]

    async def find(self, event_id: str) -> LedgerEntry | None:
        """As `Outbox.find`."""
        if len(event_id) != _ID_LENGTH or event_id.strip("0123456789abcdef-"):
            return None
        found = await self._query(lambda connection: reads.find(connection, event_id))
        return None if found is None else reads.local_entry(found, self._offset)

    async def endings(self, events: Sequence[tuple[BotKey, int]]) -> list[tuple[Outcome, str | None] | None]:
        """How each of these events ended, and which node made its last attempt; None for one that is pending or gone.
        Sees what was called before, as every read."""
        found: list[tuple[Outcome, str | None] | None] = await self._query(
            lambda connection: reads.endings(connection, events)
        )
        return found

    async def _query(self, work: Callable[[Any], Any]) -> Any:
        """A query beside the writer, once all that was called before it is written."""
        flushed: asyncio.Future[None] = self._new_reply()
        self._writer.put(Flush(flushed))
        await flushed
        try:
            return await self._pool.run(work)
        except asyncpg.DataError:
            return None
        except (*LOST, asyncpg.PostgresError) as error:
            raise store_away(reason(error)) from None

    def totals(self) -> Totals:
        """As `Outbox.totals`: this node's commits at once, those of others within a sweep's interval."""
        sums, lease = self._writer.sums, self._lease
        return sums.totals(self._offset)._replace(exported=lease.held and sums.first == lease.node_id)

    # times and results

    def _now(self) -> int:
        """By the store's clock, as this machine reckons it."""
        return self._frame.now_ms() - self._offset

    def _on_results(self, results: Results, seconds: float) -> None:
        if results.done:
            self._call(self.on_commit, results.others)
        if results.ended_before:
            self._call(self.on_ended, results.ended_before)
        for append, result in results.done:
            self._call(append.done, reads.local(result, self._offset) if isinstance(result, StoredEvent) else result)
        if results.ended_within:
            self._call(self.on_ended, results.ended_within)
        if seconds >= 0:
            self._call(self.on_write, seconds)

    def _on_refusal(self, append: Append, error: OutboxError) -> None:
        self._call(append.done, error)
