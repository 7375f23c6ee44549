"""The one thread that owns the database connection: it takes what the event loop queued, writes, reads, and maintains.

One round takes what is queued and commits all of its writes in one transaction. So the longer a commit takes, the more
events share the next one.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import structlog

from roundtrip.clock import SteppedOffset
from roundtrip.outbox.base import Append, Check, OutboxError, Reply, Stop
from roundtrip.outbox.batched import CommitFaults
from roundtrip.outbox.records import EventIds, Timestamps, Totals
from roundtrip.outbox.sqlite.batch import Batch, CommitResults, Retriable, Write
from roundtrip.outbox.sqlite.inbox import BATCH_LIMIT, Inbox
from roundtrip.outbox.sqlite.maintenance import SLICE, Maintenance, RetryQueue
from roundtrip.outbox.sqlite.reads import KeyCache, LedgerSums, Read, Reader, SumChanges
from roundtrip.outbox.sqlite.schema import FolderLock, open_database, transaction

log = structlog.get_logger(__name__)


class Writer:
    """`start` and `put` are for the event loop; everything from `_run` on runs on the thread."""

    def __init__(
        self, folder: Path, *, retention: float, max_bytes: int, sweep_every: float, frame: SteppedOffset
    ) -> None:
        """`frame` is the thread's own: it follows a step of the clock when the loop's `ClockStep` is committed."""
        self._folder = folder
        self._retention_ms = int(retention * 1000)
        self._max_bytes = max_bytes
        self._sweep_every = sweep_every
        self._frame = frame
        self._stepped_ns = 0
        self._ahead_ns = 0
        self._inbox = Inbox()
        self._retries = RetryQueue(lambda: time.monotonic())  # looked up at each call: a test may replace it
        self._ids = EventIds()
        self._times = Timestamps()
        self._next_sweep = 0.0
        self.failing = self._retries.is_failing
        self.faults = CommitFaults()
        self.on_failure: Callable[[], object] = lambda: None
        """Called on the thread for each commit that failed."""
        self.totals: Totals | None = None
        self.full = False
        self.alive = False
        self.round_began = 0.0  # monotonic; 0.0 between two rounds

    def start(self, loop: asyncio.AbstractEventLoop, notify: Callable[[CommitResults], None]) -> asyncio.Future[None]:
        """Start the thread. The future ends when the outbox is open, or with an `OutboxError`. `notify` is called on
        the loop."""
        self._loop = loop
        self._notify_loop = notify
        opened: asyncio.Future[None] = loop.create_future()
        threading.Thread(target=self._run, args=(opened,), name="outbox", daemon=True).start()
        return opened

    def put(self, item: Write | Read | Stop) -> None:
        """Queue an item for the thread."""
        self._inbox.put(item)
        if not self.alive:
            self._refuse_queued()

    # the thread

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            lock = FolderLock(self._folder)
            try:
                self._open()
            except BaseException:
                lock.release()
                raise
        except Exception as error:  # noqa: BLE001  # raised where `start` is awaited
            self._reply([(opened, error)])
            return
        self.alive = True
        self._reply([(opened, None)])
        stopped: list[Reply] = []
        try:
            while not stopped:
                stopped = self._run_once()
        except Exception:
            log.exception("outbox_thread_died")
        finally:
            self.alive = False
            self._close()
            lock.release()
            self._reply(stopped)
            self._refuse_queued()

    def _open(self) -> None:
        self._db = db = open_database(self._folder)
        try:
            self._keys = KeyCache(db)
            self._transaction = partial(transaction, db, self.faults, self._keys.rolled_back)
            self._reader = Reader(db, self._keys)
            self._sums = LedgerSums(db)
            self._maintenance = Maintenance(
                db, self._keys, self._sums, self._transaction, self._folder, self._retention_ms, self._max_bytes
            )
        except sqlite3.Error as error:
            db.close()
            raise OutboxError("outbox_unavailable", f"The outbox in {self._folder} cannot be read: {error}.") from None
        self._publish_totals(None)

    def _close(self) -> None:
        try:
            self._maintenance.checkpoint()
            self._db.close()
        except sqlite3.Error as error:
            log.error("outbox_close_failed", error=str(error))
        if self._retries:
            log.error("outbox_closed_with_unwritten", count=len(self._retries))

    def _run_once(self) -> list[Reply]:
        """Take what is queued: write it, then read, then maintain if it is time. Returns the replies to a stop."""
        self._inbox.wait(self._idle_time())
        self.round_began = time.monotonic()
        writes, reads, stops = self._inbox.take()
        self._maintenance.processed(len(writes) + len(reads))
        if writes or self._retries.due() or (self._retries and stops):
            self._write(writes)
        if reads:
            self._read(reads)
        if not stops and time.monotonic() >= self._next_sweep:
            self._maintain()
        self.round_began = 0.0
        return stops

    def _idle_time(self) -> float:
        now = time.monotonic()
        until_expiry = max(0.1, (self._maintenance.next_expiry - self._frame.now_ms()) / 1000)
        self._next_sweep = min(self._next_sweep, now + until_expiry)
        return max(0.0, min(self._next_sweep - now, self._retries.retry_in()))

    # writes

    def _write(self, writes: Sequence[Write]) -> None:
        while len(self._retries) > BATCH_LIMIT or self._retries.must_wait():
            if self._retries.must_wait() or not self._commit(self._retries.take(BATCH_LIMIT)):
                self._refuse([*self._retries.take(), *writes], "it could not a moment ago")
                return
        if writes or self._retries:
            self._commit([*self._retries.take(), *writes])

    def _commit(self, writes: Sequence[Write]) -> bool:
        """Write all of it in one transaction and report the results; if that fails, retry or refuse each."""
        batch = Batch(self._db, self._keys, self._ids, self._times, self._frame.now_ms())
        started = time.perf_counter()
        try:
            with self._transaction():
                batch.run(writes)
                self._sums.store(batch.changes)
        except Exception as error:  # noqa: BLE001  # whatever it is, each write is retried or refused
            if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
                self.on_failure()  # counted before any caller is notified
                self._refuse(writes, str(error))
                self._retries.failed(str(error))
                return False
            if len(writes) > 1:  # one of them cannot be written, the others can
                return all([self._commit([write]) for write in writes])  # noqa: C419  # each is tried
            log.error("outbox_write_malformed", kind=type(writes[0]).__name__, error=type(error).__name__)
            self._refuse(writes, "it is malformed", retry=False)
            return True
        if batch.clock_step is not None:
            self._stepped_ns += batch.clock_step.ns
            self._ahead_ns = max(0, self._ahead_ns + batch.clock_step.ns)
            self._frame.set_offset(batch.clock_step.offset)
            self._maintenance.clock_stepped()
        self._keys.committed()
        self._retries.succeeded()
        seconds = time.perf_counter() - started
        self._maintenance.committed(batch.changes, batch.earliest_expiry)
        self._publish_totals(batch.changes)
        self._notify(
            CommitResults(batch.ended_before, batch.done, batch.ended_within, batch.replies, self._stepped_ns, seconds)
        )
        return True

    def _refuse(self, writes: Sequence[Write], why: str, *, retry: bool = True) -> None:
        error = OutboxError("outbox_unavailable", f"The event store could not write: {why}.")
        refused = [(write.done, error) for write in writes if isinstance(write, Append)]
        replies = [(write.reply, error) for write in writes if isinstance(write, Check)]
        if retry:
            self._retries.add([write for write in writes if isinstance(write, Retriable)])
        self._notify(CommitResults(done=refused, replies=replies, stepped_ns=self._stepped_ns))

    def _refuse_queued(self) -> None:
        """Refuse what is still queued when no thread takes it any more."""
        if items := self._inbox.rest():
            error = OutboxError("outbox_unavailable", "The event store has stopped.")
            stops = [(item.reply, None) for item in items if isinstance(item, Stop)]
            reads = [(item.reply, error) for item in items if isinstance(item, Read)]
            self._refuse([item for item in items if not isinstance(item, Read | Stop)], "it has stopped", retry=False)
            self._reply([*reads, *stops])

    # reads

    def _read(self, reads: Sequence[Read]) -> None:
        replies: list[Reply] = []
        self._reader.prepare(self._frame.now_ms(), self._stepped_ns, self._retries.ended_events())
        for read in reads:
            try:
                replies.append((read.reply, read.query(self._reader)))
            except Exception as error:  # noqa: BLE001  # raised where the read is awaited
                log.error("outbox_read_failed", error=type(error).__name__)
                refusal = OutboxError("outbox_unavailable", f"The event store could not be read: {error}.")
                replies.append((read.reply, refusal))
        self._reply(replies)

    # maintenance

    def _maintain(self) -> None:
        """One step of maintenance. If there is more, the next round continues, after the writes queued by then."""
        more = False
        try:
            more = (
                self._expire()
                or self._maintenance.delete_old_rows(self._frame.now_ms() - self._ahead_ns // 1_000_000)
                or self._maintenance.release_pages()
            )
            if not more:
                self._maintenance.checkpoint()
        except Exception as error:  # noqa: BLE001  # tried again by the next step; writing must go on
            log.error("outbox_sweep_failed", error=str(error))
        self._publish_totals(None)
        self._next_sweep = time.monotonic() + (0.0 if more else self._sweep_every)

    def _expire(self) -> bool:
        """End a slice of what has expired; whether there may be more. What was confirmed before is written first: an
        event whose end is queued, or was not written because the store failed, does not expire."""
        expiry = self._maintenance.expiry(self._frame.now_ms(), len(self._inbox))
        if expiry is None:
            return False
        if expiry.awaited > 0:
            return True  # only what was queued at its begin is awaited, so a flood delays no expiry
        if self._retries:
            self._write(())
            if self._retries:
                return False
        ended, changes = self._maintenance.expire(expiry)
        if ended:
            self._publish_totals(changes)
            self._notify(CommitResults(ended_before=ended))
        if len(ended) == SLICE:
            return True
        self._maintenance.find_next_expiry()
        return False

    # results

    def _publish_totals(self, changes: SumChanges | None) -> None:
        self._sums.publish(changes, self._maintenance.size() if changes is None else None)
        self.totals = self._sums.totals
        self.full = self._maintenance.full

    def _reply(self, replies: Sequence[Reply]) -> None:
        if replies:
            self._notify(CommitResults(replies=replies))

    def _notify(self, results: CommitResults) -> None:
        try:
            self._loop.call_soon_threadsafe(self._notify_loop, results)
        except RuntimeError:  # the loop was closed before the outbox
            log.warning("outbox_has_no_loop")
