"""The task that writes: it takes what was queued, commits it in few transactions, reads, and sweeps.

One batch is one round trip; what a failure of it means is decided in `commits.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

import asyncpg
import structlog

from roundtrip.identity import BotKey
from roundtrip.outbox.base import Check, OutboxError, Record, Resolve, Stop, Upgrade, outbox_closed, resolve_reply
from roundtrip.outbox.batched import CommitFaults
from roundtrip.outbox.postgres import reads as queries
from roundtrip.outbox.postgres.batch import Append, Batch, Results, Write
from roundtrip.outbox.postgres.commits import GRACE, Committer, Refusal
from roundtrip.outbox.postgres.connector import Connector, Lost
from roundtrip.outbox.postgres.database import LOST, reason, store_away
from roundtrip.outbox.postgres.reads import Flush, KeyCache, LastSeq, Pending, Read, Sums
from roundtrip.outbox.postgres.sweep import Sweep
from roundtrip.outbox.records import EventIds, Timestamps
from roundtrip.outbox.sqlite.maintenance import RetryQueue

log = structlog.get_logger(__name__)

BATCH_LIMIT: Final = 2000
"""Most writes in one round, so that a flood is answered in pieces."""

COMMIT_LIMIT: Final = 512
"""Most writes in one commit. While the database is at one, the callers of the one before are called back: with larger
ones the two wait for each other, with smaller ones both wait for the disk."""

_READS: Final = (Pending, LastSeq, Flush)
_WRITES: Final = frozenset((Append, Check, Record, Resolve, Upgrade))

TRIES: Final = 3
"""Of one batch that conflicts, or whose connection is lost, before its callers are refused."""


class Writer:
    """Runs on the event loop, as one task for as long as the outbox is open."""

    def __init__(
        self,
        connector: Connector,
        sweep: Sweep,
        report: Callable[[Results, float], None],
        refuse: Callable[[Append, OutboxError], None],
        now: Callable[[], int],
    ) -> None:
        """`report` receives each committed batch with the seconds that it took, `refuse` an append that failed; `now`
        is in milliseconds by the store's clock."""
        self._connector = connector
        self._sweep = sweep
        self._report = report
        self._refuse_append = refuse
        self._now = now
        self._queue: deque[Write | Read | Stop] = deque()
        self._wake = asyncio.Event()
        self._retries = RetryQueue()
        self._keys = KeyCache()
        self.failing, self.known_seq = self._retries.is_failing, self._keys.known_seq
        self.sums = Sums()
        self.faults = CommitFaults()
        self._commits = Committer(connector, self._keys, self.sums, self.faults, now)
        self._ids = EventIds()
        self._times = Timestamps()
        self._commits.while_away = self._refuse_waiting
        self.on_failure: Callable[[], object] = lambda: None
        """Called for each commit that failed."""
        self._untold: tuple[Batch, Results, float] | None = None
        """The newest commit, with the seconds that it took, while its callers do not know of it."""
        self.alive = True
        self.round_began = 0.0
        """When the round under way began, on the monotonic clock; 0.0 between two."""

    def put(self, item: Write | Read | Stop) -> None:
        """Queue an item."""
        if not self._queue:
            self._wake.set()
        self._queue.append(item)
        if not self.alive:
            self._refuse_all(outbox_closed(), stopped=True)

    @property
    def ended_unwritten(self) -> frozenset[tuple[BotKey, int]]:
        """Events whose end could not be written yet."""
        return frozenset(self._retries.ended_events())

    async def run(self) -> None:
        """Until a `Stop` is taken from the queue."""
        stops: list[Stop] = []
        try:
            while not stops:
                stops = await self._round()
        except Exception:
            log.exception("outbox_writer_died")
        finally:
            self.alive = False
            self._tell()
            if self._retries:
                log.error("outbox_closed_with_unwritten", count=len(self._retries))
            for stop in stops:
                resolve_reply(stop.reply, None)
            self._refuse_all(outbox_closed(), stopped=True)

    async def _round(self) -> list[Stop]:
        if not self._queue:
            try:
                async with asyncio.timeout(max(0.0, min(self._sweep.due_in(), self._retries.retry_in()))):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()
        self.round_began = time.monotonic()
        self._sweep.begin(self._now(), len(self._queue))
        writes, reads, stops = list[Write](), list[Read](), list[Stop]()
        while self._queue and len(writes) < BATCH_LIMIT and not stops:
            item = self._queue.popleft()
            if type(item) in _WRITES:
                writes.append(item)  # type: ignore[arg-type]  # it is one
            elif isinstance(item, Stop):
                stops.append(item)
            else:
                reads.append(item)  # type: ignore[arg-type]  # nothing else is left
        self._sweep.processed(len(writes) + len(reads) + len(stops))
        if writes or self._retries.due() or (self._retries and stops):
            await self._write(writes)
        if reads or stops or self._sweep.ready() or not self._queue:
            self._tell()
        if reads:
            await self._read(reads)
        if not stops and self._sweep.ready():
            await self._maintain()
        self.round_began = 0.0
        return stops

    # writes

    async def _write(self, writes: list[Write]) -> None:
        if self._retries.must_wait():
            self._refuse(writes, store_away("it could not write a moment ago"))
            return
        rest: deque[Write] = deque([*self._taken(), *writes])
        tries = 0
        while rest:
            batch = self._next_batch(rest, await self._commits.know(list(islice(rest, COMMIT_LIMIT))))
            if batch is None:
                return
            started = time.perf_counter()
            try:
                results = await self._committed(batch)
            except Refusal as refusal:
                batch.forget()
                self.on_failure()
                tries += 1
                if refusal.again and tries < TRIES:
                    rest.extendleft(reversed(batch.writes))
                    continue
                if refusal.malformed:
                    self._split(batch, rest, refusal.error)
                    continue
                self._retries.failed(refusal.error.message)
                self._refuse([*batch.writes, *rest], refusal.error)
                return
            tries = 0
            self._retries.succeeded()
            self._keys.trim()
            self._untold = (batch, results, time.perf_counter() - started)

    async def _committed(self, batch: Batch) -> Results:
        """Send a batch and, while the database is at it, tell what became of the one before."""
        if self._untold is None:
            return await self._commits.commit(batch)
        commit = asyncio.create_task(self._commits.commit(batch), name="outbox-commit")
        await asyncio.sleep(0)  # it is sent
        self._tell()
        return await commit

    def _tell(self) -> None:
        """Call back for the newest commit, if that was not done yet."""
        if self._untold is None:
            return
        (batch, results, seconds), self._untold = self._untold, None
        for append, error in batch.refused:
            self._refuse_append(append, error)
        self._report(results, seconds)
        for check in batch.checks:
            resolve_reply(check.reply, None)

    def _taken(self) -> list[Record | Resolve | Upgrade]:
        return [write for write in self._retries.take() if isinstance(write, Record | Resolve | Upgrade)]

    def _split(self, batch: Batch, rest: deque[Write], error: OutboxError) -> None:
        """One of its writes cannot be written: try each alone, and refuse the one that fails alone."""
        if len(batch.writes) > 1:
            self._alone = len(batch.writes)
            rest.extendleft(reversed(batch.writes))
            return
        log.error("outbox_write_malformed", kind=type(batch.writes[0]).__name__)
        self._refuse(batch.writes, error, retry=False)

    _alone = 0
    """How many of the next writes are sent one by one."""

    def _next_batch(self, rest: deque[Write], known: bool) -> Batch | None:
        if not known:
            self.on_failure()
            self._retries.failed("the store is away")
            self._refuse(list(rest), store_away("no connection"))
            return None
        batch = Batch(self._keys, self._ids, self._times)
        limit = 1 if self._alone else COMMIT_LIMIT
        while rest and len(batch.writes) < limit and batch.add(rest[0]):
            rest.popleft()
        self._alone = max(0, self._alone - 1)
        return batch

    def _refuse(self, writes: Sequence[Write], error: OutboxError, *, retry: bool = True) -> None:
        self._tell()  # what came before these
        if retry:
            self._retries.add([write for write in writes if isinstance(write, Record | Resolve | Upgrade)])
        for write in writes:
            if isinstance(write, Append):
                self._refuse_append(write, error)
            elif isinstance(write, Check):
                resolve_reply(write.reply, error)

    def _refuse_waiting(self) -> None:
        """The store is away and a batch waits for it: refuse what came after."""
        self._sweep.processed(self._refuse_all(store_away("no connection"), stopped=False))

    def _refuse_all(self, error: OutboxError, *, stopped: bool) -> int:
        items, self._queue = self._queue, deque()
        for item in items:
            if isinstance(item, Stop):
                resolve_reply(item.reply, None) if stopped else self._queue.append(item)
            elif isinstance(item, _READS):
                resolve_reply(item.reply, error)
            else:
                self._refuse([item], error, retry=not stopped)
        return len(items)

    # reads

    async def _read(self, reads: Sequence[Read]) -> None:
        pages = [read for read in reads if isinstance(read, Pending)]
        seqs = [read for read in reads if isinstance(read, LastSeq)]
        answers: list[Any] = []
        try:
            if pages or seqs:
                connection = await self._connector.get(GRACE)
            if pages:
                answers += await queries.pending(connection, pages, self._now(), self.ended_unwritten)
            if seqs:
                answers += await queries.last_seqs(connection, seqs)
        except (*LOST, Lost, asyncpg.PostgresError) as error:
            self._connector.failed(error)
            refusal = store_away(str(error) if isinstance(error, Lost) else reason(error))
            answers = [refusal] * (len(pages) + len(seqs))
        except Exception as error:  # noqa: BLE001  # raised where the read is awaited
            log.error("outbox_read_failed", error=type(error).__name__)
            refusal = OutboxError("outbox_unavailable", f"The event store could not be read: {type(error).__name__}.")
            answers = [refusal] * (len(pages) + len(seqs))
        replies: list[asyncio.Future[Any]] = [*(read.reply for read in pages), *(read.reply for read in seqs)]
        for reply, answer in zip(replies, answers, strict=True):
            resolve_reply(reply, answer)
        for flush in reads:
            if isinstance(flush, Flush):
                resolve_reply(flush.reply, None)

    # maintenance

    async def _maintain(self) -> None:
        """Expire and forget. What was confirmed before is written first: an event whose end is queued, or could not be
        written, does not expire."""
        if self._retries and not self.faults.down:
            await self._write([])
        writable = not self._retries and not self.faults.down
        try:
            connection = await self._connector.get(0.0)
            ended = await self._sweep.run(connection, self._connector.lease, writable=writable)
            await self.sums.read(connection)
        except (*LOST, asyncpg.PostgresError) as error:
            self._connector.failed(error)
            self._sweep.later()
        except Lost:
            self._sweep.later()
        else:
            if ended:
                self._report(Results(ended, (), ()), -1.0)
