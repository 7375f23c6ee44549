"""The one thread that owns the SQLite outbox's connection: takes what the event loop asked, writes, reads, sweeps."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from roundtrip.clock import SteppedOffset
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.folder_lock import FolderLock
from roundtrip.outbox.records import EventIds, StoredEvent, Timestamps, Totals
from roundtrip.outbox.sqlite.batch import Batch, CommitResults
from roundtrip.outbox.sqlite.maintenance import SLICE, Maintenance, RetriedWrites
from roundtrip.outbox.sqlite.reads import Keys, LedgerSums, Reader
from roundtrip.outbox.sqlite.schema import (
    Append,
    Check,
    Discard,
    Move,
    Read,
    Record,
    Resolve,
    Stop,
    Upgrade,
    Write,
    open_database,
)

log = structlog.get_logger(__name__)

BATCH_LIMIT: Final = 2000
"""Most that is taken at once, so that a flood is answered in pieces."""


@dataclass(slots=True)
class Expiry:
    """Events that end by `now`, milliseconds of the writer's clock, do so when the `awaited` items that were in the
    queue by then are written: one of them may be an acknowledgement that was in time."""

    now: int
    awaited: int


class Writer:
    """Use `put` on the event loop; everything from `_run` on is the thread's."""

    def __init__(
        self, folder: Path, *, retention: float, max_bytes: int, sweep_every: float, frame: SteppedOffset
    ) -> None:
        """`frame` is the thread's own: it follows a step of the clock when the loop's `Move` is written."""
        self._folder = folder
        self._retention_ms = int(retention * 1000)
        self._max_bytes = max_bytes
        self._sweep_every = sweep_every
        self._frame = frame
        self._moved_ns = 0
        self._ahead_ns = 0
        self._queue: deque[Write | Read | Stop] = deque()
        self._wake = threading.Event()
        self._kept = RetriedWrites(
            lambda: time.monotonic()
        )  # the module's name, which a stepped clock may stand behind
        self._ids = EventIds()
        self._times = Timestamps()
        self._next_sweep = 0.0
        self._expiry: Expiry | None = None
        self.fault_delay = 0.0
        self.fault_down = False
        self.on_failure: Callable[[], object] = lambda: None
        """CommitResults of each commit that failed, on the writer thread."""
        self.totals: Totals | None = None
        self.full = False
        self.alive = False

    def start(self, loop: asyncio.AbstractEventLoop, tell: Callable[[CommitResults], None]) -> asyncio.Future[None]:
        """Start the thread. The future ends when the outbox is open, or with an `OutboxError`."""
        self._loop = loop
        self._tell = tell
        opened: asyncio.Future[None] = loop.create_future()
        threading.Thread(target=self._run, args=(opened,), name="outbox", daemon=True).start()
        return opened

    def put(self, item: Write | Read | Stop) -> None:
        """Hand an item to the thread. Neither call takes a lock while the thread is awake."""
        self._queue.append(item)
        if not self._wake.is_set():
            self._wake.set()
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
        except Exception as error:  # noqa: BLE001  # handed to whoever waits for the start
            self._answer([(opened, error)])
            return
        self.alive = True
        self._answer([(opened, None)])
        stopped: list[tuple[Any, Any]] = []
        try:
            while not stopped:
                stopped = self._turn()
        except Exception:
            log.exception("outbox_thread_died")
        finally:
            self.alive = False
            self._close()
            lock.release()
            self._answer(stopped)
            self._refuse_queued()

    def _open(self) -> None:
        self._db = open_database(self._folder)
        try:
            self._keys = Keys(self._db)
            self._reader = Reader(self._db, self._keys)
            self._sweep = Maintenance(self._db, self._keys, self._folder, self._retention_ms, self._max_bytes)
            self._ledger = LedgerSums(self._db)
        except sqlite3.Error as error:
            self._db.close()
            raise OutboxError("outbox_unavailable", f"The outbox in {self._folder} cannot be read: {error}.") from None
        self._publish(None)

    def _turn(self) -> list[tuple[Any, Any]]:
        """Take what waits: write it, then read, then sweep if it is time. Returns who waits for the stop."""
        if not self._queue:
            self._wake.wait(self._idle_time())
        self._wake.clear()
        writes: list[Write] = []
        reads: list[Read] = []
        stops: list[tuple[Any, Any]] = []
        while self._queue and len(writes) < BATCH_LIMIT and not stops:
            item = self._queue.popleft()
            if isinstance(item, Read):
                reads.append(item)
            elif isinstance(item, Stop):
                stops.append((item.answer, None))
            else:
                writes.append(item)
        if self._expiry is not None:
            self._expiry.awaited -= len(writes) + len(reads)
        if writes or self._kept.due() or (self._kept and stops):
            self._write(writes)
        if reads:
            self._read(reads)
        if not stops and time.monotonic() >= self._next_sweep:
            self._clean()
        return stops

    def _idle_time(self) -> float:
        now = time.monotonic()
        until_expiry = max(0.1, (self._sweep.next_expiry - self._frame.now_ms()) / 1000)
        self._next_sweep = min(self._next_sweep, now + until_expiry)
        wait = self._next_sweep - now
        return max(0.0, min(wait, self._kept.retry_in()))

    # writing

    def _write(self, writes: Sequence[Write]) -> None:
        while len(self._kept) > BATCH_LIMIT or self._kept.must_wait():
            if self._kept.must_wait() or not self._commit(self._kept.take(BATCH_LIMIT)):
                self._refuse([*self._kept.take(), *writes], "it could not a moment ago")
                return
        if writes or self._kept:
            self._commit([*self._kept.take(), *writes])

    def _commit(self, writes: Sequence[Write]) -> bool:
        """Write all of it in one transaction and tell of it; if that fails, keep or refuse each."""
        batch = Batch(self._db, self._keys, self._ids, self._times, self._frame.now_ms())
        started = time.perf_counter()
        try:
            with self._transaction():
                batch.run(writes)
                self._ledger.store(batch.moves)
        except Exception as error:  # noqa: BLE001  # whatever it is, each write is answered, kept or logged
            if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
                self.on_failure()  # counted before anybody is told
                self._refuse(writes, str(error))
                self._kept.failed(str(error))
                return False
            if len(writes) > 1:  # one of them cannot be written, the others can
                return all([self._commit([write]) for write in writes])  # noqa: C419  # each is tried
            log.error("outbox_write_malformed", kind=type(writes[0]).__name__, error=type(error).__name__)
            self._refuse(writes, "it is malformed", keep=False)
            return True
        if batch.moved is not None:
            self._moved_ns += batch.moved.ns
            self._ahead_ns = max(0, self._ahead_ns + batch.moved.ns)
            self._frame.set_offset(batch.moved.offset)
            self._expiry = None
        self._keys.committed()
        self._kept.succeeded()
        seconds = time.perf_counter() - started
        self._sweep.written(batch.moves, batch.earliest_expiry)
        self._publish(batch.moves)
        self._told(
            CommitResults(batch.ended_before, batch.done, batch.ended_within, batch.answers, self._moved_ns, seconds)
        )
        return True

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            if self.fault_delay > 0:
                time.sleep(self.fault_delay)
            if self.fault_down:
                raise sqlite3.OperationalError("the fault outbox_down is on")  # noqa: TRY301  # rolled back below
            self._db.execute("COMMIT")
        except BaseException:
            self._keys.rolled_back()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _refuse(self, writes: Sequence[Write], why: str, *, keep: bool = True) -> None:
        error = OutboxError("outbox_unavailable", f"The event store could not write: {why}.")
        refused = [(write.done, error) for write in writes if isinstance(write, Append)]
        answers = [(write.answer, error) for write in writes if isinstance(write, Discard | Check)]
        if keep:
            self._kept.keep([write for write in writes if isinstance(write, Record | Resolve | Upgrade | Move)])
        self._told(CommitResults(done=refused, answers=answers, moved_ns=self._moved_ns))

    def _refuse_queued(self) -> None:
        """Answer what nobody will take any more."""
        items: list[Write | Read | Stop] = []
        with suppress(IndexError):  # the loop and the ending thread may both be here
            while True:
                items.append(self._queue.popleft())
        if items:
            error = OutboxError("outbox_unavailable", "The event store has stopped.")
            stops = [(item.answer, None) for item in items if isinstance(item, Stop)]
            reads = [(item.answer, error) for item in items if isinstance(item, Read)]
            self._refuse([item for item in items if not isinstance(item, Read | Stop)], "it has stopped", keep=False)
            self._answer([*reads, *stops])

    # reading and sweeping

    def pending(self, reader: Reader, key: BotKey, after: int, limit: int) -> tuple[list[StoredEvent], int]:
        """Pending events, and how far the clock was set in all as far as their times know."""
        return reader.pending(key, after, limit, self._frame.now_ms()), self._moved_ns

    def _read(self, reads: Sequence[Read]) -> None:
        answers: list[tuple[Any, Any]] = []
        self._reader.ended = self._kept.ended()
        for read in reads:
            try:
                answers.append((read.answer, read.query(self._reader)))
            except Exception as error:  # noqa: BLE001  # whatever it is, whoever asked is answered
                log.error("outbox_read_failed", error=type(error).__name__)
                refusal = OutboxError("outbox_unavailable", f"The event store could not be read: {error}.")
                answers.append((read.answer, refusal))
        self._answer(answers)

    def _clean(self) -> None:
        """One step of cleaning; what is left over comes next, after the writes that wait by then."""
        more = False
        try:
            more = self._expire() or self._compact() or self._sweep.give_back()
            if not more:
                self._sweep.checkpoint()
        except Exception as error:  # noqa: BLE001  # cleaning is tried again; writing must go on
            log.error("outbox_sweep_failed", error=str(error))
        self._publish(None)
        self._next_sweep = time.monotonic() + (0.0 if more else self._sweep_every)

    def _expire(self) -> bool:
        """End a slice of what has expired; whether more is left. What was confirmed before is written first: an event
        whose end waits in the queue, or was kept while the store could not write, does not expire."""
        if self._expiry is None:
            now = self._frame.now_ms()
            if now < self._sweep.next_expiry:
                return False
            self._expiry = Expiry(now, len(self._queue))
        if self._expiry.awaited > 0:
            return True  # what came later comes too late for these events, so a flood puts nothing off
        if self._kept:
            self._write(())
            if self._kept:
                return False
        now, self._expiry = self._expiry.now, None
        with self._transaction():
            ended, moves = self._sweep.expire(now)
            self._ledger.store(moves)
        if ended:
            self._sweep.written(moves, None)
            self._publish(moves)
            self._told(CommitResults(ended_before=ended))
        if len(ended) == SLICE:
            return True
        self._sweep.look_ahead()
        return False

    def _compact(self) -> bool:
        rows = self._sweep.old_rows(self._frame.now_ms() - self._ahead_ns // 1_000_000)
        if rows:
            with self._transaction():
                self._sweep.delete(rows)
        return len(rows) == SLICE

    # telling

    def _publish(self, moves: Counter[tuple[int, int]] | None) -> None:
        self._ledger.publish(moves, self._sweep.size() if moves is None else None)
        self.totals = self._ledger.totals
        self.full = self._sweep.full

    def _answer(self, answers: Sequence[tuple[Any, Any]]) -> None:
        if answers:
            self._told(CommitResults(answers=answers))

    def _told(self, told: CommitResults) -> None:
        try:
            self._loop.call_soon_threadsafe(self._tell, told)
        except RuntimeError:  # the loop was closed before the outbox
            log.warning("outbox_has_no_loop")

    def _close(self) -> None:
        try:
            self._sweep.checkpoint()
            self._db.close()
        except sqlite3.Error as error:
            log.error("outbox_close_failed", error=str(error))
        if self._kept:
            log.error("outbox_closed_with_unwritten", count=len(self._kept))
