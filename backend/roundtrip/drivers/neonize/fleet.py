"""The workers of one driver: which session is in which, and what follows when one dies or uses too much memory.

A session that has not paired has a worker of its own. Paired ones share *hosts*: workers with up to `limit` sessions,
filled one after the other, never two sessions of one account in the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Exit, MoveCause
from roundtrip.drivers.neonize import process as processes
from roundtrip.drivers.neonize import upkeep
from roundtrip.drivers.neonize.driver_session import NeonizeSession
from roundtrip.drivers.neonize.process import Launch, WorkerProcess
from roundtrip.drivers.neonize.shared_worker import Worker
from roundtrip.drivers.neonize.suspects import MEMORY, Suspects

log = structlog.get_logger(__name__)

SPAWN_AT_ONCE: Final = max(2, os.cpu_count() or 1)
"""Processes that may be loading the library at the same time."""
DRAIN_LIMIT: Final = 60.0
"""Seconds until a host that is being emptied is killed."""
EVICT_LIMIT: Final = 5.0
"""The same for a host with a session that does not end."""
END_LIMIT: Final = 6.0
"""Seconds that an empty worker may take to exit."""


class Fleet:
    """`launch` makes what starts a worker for key files in a folder; `memory_limit` is in bytes, for one host."""

    def __init__(self, launch: Callable[[Path], Launch], limit: int, memory_limit: int) -> None:
        self._launch = launch
        self._limit = limit
        self._memory_limit = memory_limit
        self._numbers = itertools.count(1)
        self._spawning = asyncio.Semaphore(SPAWN_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._promises: dict[NeonizeSession, Worker] = {}
        """Seats that are kept for sessions."""
        self.suspects = Suspects()
        self.workers: list[Worker] = []
        self.on_exit: Callable[[Exit], None] = lambda _cause: None
        self.closing = False

    def shares(self) -> bool:
        """Whether paired sessions share workers at all."""
        return self._limit > 1

    # where a session goes

    async def place(self, session: NeonizeSession) -> None:
        """Give a session a seat; none once the fleet closes. Raises `OSError` when no process can be started."""
        while not self.closing:
            worker = self._promises.pop(session, None)
            if worker is not None and worker.has_account_of(session):
                self.release(session, worker)
                worker = None
            worker = worker or self.choose(session)
            worker.members.add(session)
            try:
                await asyncio.shield(worker.start)
            except OSError:
                self.release(session, worker)
                raise
            if not session.wanted or self.closing:
                self.release(session, worker)
                return
            if worker.process.cause is None and not worker.process.exited.done():
                session.sit(WorkerSeat(self, worker, session, worker.process.seat(session)))
                return
            worker.members.discard(session)

    def choose(self, session: NeonizeSession) -> Worker:
        """The worker for a session: one of its own, or a host."""
        if not session.paired or self.suspects.alone(session.name, self._now()):
            return self.spawn(session.store.parent, 1, shared=False)
        return self._host(session)

    def _host(self, session: NeonizeSession) -> Worker:
        """The fullest host with room for a session, or a new one."""
        fitting = [worker for worker in self.workers if worker.takes(session)]
        fullest = max(fitting, key=lambda worker: len(worker.members), default=None)
        return fullest or self.spawn(session.store.parent, self._limit, shared=True)

    def promise(self, session: NeonizeSession) -> None:
        """Keep a seat for a session that may soon pair, and have its host ready."""
        if session not in self._promises and self.shares() and not self.closing:
            self._promises[session] = worker = self._host(session)
            worker.members.add(session)

    def withdraw(self, session: NeonizeSession) -> None:
        """Keep the seat no longer; harmless where there is none."""
        worker = self._promises.pop(session, None)
        if worker is not None and session not in worker.process.seats.values():
            self.release(session, worker)

    def spawn(self, folder: Path, limit: int, *, shared: bool) -> Worker:
        """Begin to start a worker."""
        process = WorkerProcess(f"w{next(self._numbers)}", self._launch(folder), self._exited)
        worker = Worker(process, folder, limit, shared=shared)
        self.workers.append(worker)
        worker.start = asyncio.create_task(self._start(worker))
        if self._watch is None:
            self._watch = asyncio.create_task(upkeep.watch(self, self._memory_limit))
        return worker

    async def _start(self, worker: Worker) -> None:
        await self._spawning.acquire()
        try:
            await worker.process.start()
        except OSError:
            self.workers.remove(worker)
            self._spawning.release()
            raise
        self.run(self._loaded(worker))

    async def _loaded(self, worker: Worker) -> None:
        """Let the next process start once this one has loaded the library."""
        await asyncio.wait({worker.process.began, worker.process.exited}, return_when=asyncio.FIRST_COMPLETED)
        self._spawning.release()

    def release(self, session: NeonizeSession, worker: Worker) -> None:
        """A session has left a worker, or will not come: an empty one ends."""
        worker.members.discard(session)
        if not worker.members and worker in self.workers and not worker.draining:
            self.run(self._end(worker))

    async def _end(self, worker: Worker) -> None:
        worker.draining = True
        with contextlib.suppress(OSError):
            await worker.start
            await worker.process.end_within(END_LIMIT)

    # deaths

    def _exited(self, process: WorkerProcess) -> None:
        worker = next(one for one in self.workers if one.process is process)
        self.workers.remove(worker)
        cause = process.cause or Exit.EXITED
        self.on_exit(cause)
        seated = process.seats.values()
        active = [session for session in worker.members if session in seated]
        for session in active:
            session.stand_up(handed_over=False)
        if self.closing:
            return
        rest = [session for session in active if session.wanted and session.paired and process.began.done()]
        for session in set(active) - set(rest):
            session.died(process.exit_status or 0, unresponsive=cause is Exit.UNRESPONSIVE)
        if rest:
            self._after_death(worker, cause, rest)

    def _after_death(self, worker: Worker, cause: Exit, sessions: Sequence[NeonizeSession]) -> None:
        for session in sessions:
            session.gone_offline()
        if cause not in d.UNEXPLAINED:
            for session in sessions:
                self.run(self.move(session, MoveCause.DEATH, worker, cause, delay=session.patience()))
            return
        by_name = {session.name: session for session in sessions}
        verdict = self.suspects.after_death(tuple(by_name), self._now())
        if verdict.guilty is not None:
            by_name[verdict.guilty].gives_up()
            return
        sizes = [len(group) for group in verdict.groups]
        log.warning("worker_suspects", worker=worker.process.name, cause=cause, groups=sizes)
        for group in verdict.groups:
            self.run(self._start_suspects([by_name[name] for name in group], worker, cause, verdict.delay))

    async def _start_suspects(self, group: Sequence[NeonizeSession], source: Worker, cause: Exit, delay: float) -> None:
        """Start sessions in a worker that takes no others for as long as they are suspects."""
        await asyncio.sleep(delay)
        wanted = [session for session in group if session.wanted]
        if not wanted or self.closing:
            return
        worker = self.spawn(source.folder, len(wanted), shared=False)
        for session in wanted:
            self._promises[session] = worker
            worker.members.add(session)
            self.run(self.move(session, MoveCause.DEATH, source, cause))
        await asyncio.sleep(MEMORY)
        if worker in self.workers and self.shares():
            worker.limit, worker.shared = self._limit, True

    # moves

    async def move(
        self,
        session: NeonizeSession,
        cause: MoveCause,
        source: Worker,
        exit_: Exit | None = None,
        delay: float = 0.0,
    ) -> None:
        session.begin_move(cause, source.process.name, exit_)
        try:
            await asyncio.sleep(delay)
            await session.leave()
            if session.wanted:
                await self.place(session)
        except OSError as error:
            log.error("session_not_moved", link_id=session.name, error=error.strerror)
            session.died(processes.START_REFUSED)

    def drain(self, worker: Worker, cause: MoveCause, exit_: Exit) -> None:
        """Begin to move all sessions of a host elsewhere, and end it."""
        worker.draining = True
        self.run(self._drain(worker, cause, exit_, DRAIN_LIMIT))

    async def _drain(self, worker: Worker, cause: MoveCause, exit_: Exit, limit: float) -> None:
        """Move all sessions of a host elsewhere, a few at a time, and end it."""
        log.warning("worker_drained", worker=worker.process.name, cause=cause, sessions=len(worker.members))
        await worker.empty(lambda session: self.move(session, cause, worker), limit)
        await worker.process.end_within(END_LIMIT if exit_ is Exit.MEMORY else 0.0, exit_)

    async def evict(self, worker: Worker) -> None:
        """A session of this worker does not end: end the worker, once the others are out, and wait for that."""
        log.warning("worker_blocked", worker=worker.process.name)
        if worker.process.silent_for > 1.5 * processes.HEARTBEAT_INTERVAL:
            worker.process.kill(Exit.UNRESPONSIVE)
        elif any(session.online for session in worker.members) and not (worker.draining or self.closing):
            await self._drain(worker, MoveCause.BALANCE, Exit.STOPPED, EVICT_LIMIT)
        elif not worker.draining or self.closing:
            worker.process.kill()
        await asyncio.wait({worker.process.exited})

    async def close(self, limit: float) -> None:
        """End every worker within so many seconds."""
        self.closing = True
        if self._watch is not None:
            self._watch.cancel()
        workers = list(self.workers)
        if workers:
            await asyncio.wait({worker.start for worker in workers})
        for worker in workers:
            worker.process.end()
        exits = {worker.process.exited for worker in workers}
        if exits:
            await asyncio.wait(exits, timeout=limit)
        for worker in workers:
            worker.process.kill()
        if exits:
            await asyncio.wait(exits)
        for task in list(self._tasks):
            task.cancel()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class WorkerSeat(NamedTuple):
    """A session's seat in a worker."""

    fleet: Fleet
    worker: Worker
    session: NeonizeSession
    number: int

    @property
    def process(self) -> WorkerProcess:
        return self.worker.process

    @property
    def last(self) -> bool:
        return self.worker.members == {self.session}

    def release(self) -> None:
        self.fleet.release(self.session, self.worker)

    def hand_over(self) -> None:
        self.fleet.run(self.fleet.move(self.session, MoveCause.PAIRED, self.worker))

    async def evict(self) -> None:
        await self.fleet.evict(self.worker)
