"""One link's session: at most one at a time, started within the limit of simultaneous starts, traced by a span each."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog

from roundtrip.clock import TimerClock
from roundtrip.drivers.base import Driver, Exit, Report, Session, SessionSpec, WorkerDied, exit_of
from roundtrip.telemetry.tracing import LINK_ID, OFF, RequestTracer

log = structlog.get_logger(__name__)

SLOT_HOLD: Final = 5.0
"""Seconds after which a started session that reported nothing no longer counts as starting."""

STOP_LIMIT: Final = 15.0
"""Seconds that a session may take to stop or log out."""

START_REFUSED: Final = 127
"""Exit status of a worker that could not even be started, as a shell has it."""

_EXIT_CODE: Final = "process.exit.code"


class StartSlots:
    """`limit` starts at once, and one more for a user that has none under way: no user waits behind another's flood."""

    def __init__(self, limit: int, logins: int | None = None) -> None:
        """`logins` is the limit of paired accounts, which start at less cost: they are counted apart."""
        self._limit = limit
        self._logins = None if logins is None else StartSlots(logins)
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By user, in the order in which it is their turn."""

    @asynccontextmanager
    async def slot(self, user: str, *, paired: bool = False) -> AsyncIterator[None]:
        """Wait for a slot and hold it for as long as the block lasts."""
        if paired and self._logins is not None:
            async with self._logins.slot(user):
                yield
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(waiter)
        self._grant()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._release(user)  # granted and cancelled in one turn of the loop
            else:
                self._remove(user, waiter)
            raise
        try:
            yield
        finally:
            self._release(user)

    def _release(self, user: str) -> None:
        self._held[user] -= 1
        if self._held[user] <= 0:
            del self._held[user]
        self._grant()

    def _remove(self, user: str, waiter: asyncio.Future[None]) -> None:
        queue = self._waiting.get(user)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiting[user]

    def _grant(self) -> None:
        while self._waiting:
            # The first of those that hold least; `min` keeps the order in which they wait.
            user = min(self._waiting, key=lambda name: self._held[name])
            room = self._limit + (self._held[user] == 0)
            if self._held.total() >= room:
                return
            queue = self._waiting.pop(user)
            waiter = queue.popleft()
            if queue:
                self._waiting[user] = queue  # behind the others
            if not waiter.done():
                self._held[user] += 1
                waiter.set_result(None)


class Phase(enum.Enum):
    """Where a runner is with its session."""

    IDLE = enum.auto()
    WAITING = enum.auto()
    """For the delay to pass, or for a slot."""
    STARTING = enum.auto()
    """The driver starts it: this is never cancelled, lest a process is left behind."""
    RUNNING = enum.auto()
    FAILED = enum.auto()
    """The driver could not start it; `stop` makes room for the next."""


class SessionRunner:
    """Each session is a generation: reports of an older one are dropped."""

    def __init__(
        self,
        driver: Driver,
        slots: StartSlots,
        user: str,
        clock: TimerClock,
        deliver: Callable[[Report], None],
        tracer: RequestTracer = OFF,
    ) -> None:
        self._driver = driver
        self._slots = slots
        self._user = user
        self._clock = clock
        self._deliver = deliver
        self._tracer = tracer
        self._span: WorkerSpan | None = None
        self._generation = 0
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._first_report = asyncio.Event()
        self.phase = Phase.IDLE
        self.reported = False
        """Whether the newest session reported anything yet."""
        self.session: Session | None = None
        self.starts = 0
        """How many sessions were started: the number of the newest."""

    @property
    def pid(self) -> int | None:
        """The worker's process id, where the driver has one."""
        pid = getattr(self.session, "pid", None)
        return pid if isinstance(pid, int) and pid else None

    @property
    def worker(self) -> str | None:
        """The worker's name, where the driver has one."""
        name = getattr(self.session, "worker", None)
        return name if isinstance(name, str) else None

    async def is_connected(self, link_id: str, within: float) -> bool | None:
        """The session's own answer; None when there is none within that many seconds."""
        try:
            async with asyncio.timeout(within):
                return None if self.session is None else await self.session.alive()
        except Exception as error:  # noqa: BLE001  no answer is an answer
            log.warning("session_cannot_answer", link_id=link_id, error=type(error).__name__)
            return None

    def start(self, spec: SessionSpec, delay: float = 0.0) -> None:
        """Start a session in `delay` seconds, once there is a free slot. Only after `stop` or `detach`."""
        assert self.phase is Phase.IDLE, "one session at a time"  # noqa: S101  a programming error
        self._generation += 1
        self.phase = Phase.WAITING
        self.reported = False
        self._first_report = asyncio.Event()
        self._task = asyncio.create_task(self._wait_and_start(self._generation, spec, delay, self._first_report))

    async def _wait_and_start(
        self, generation: int, spec: SessionSpec, delay: float, first_report: asyncio.Event
    ) -> None:
        if delay:
            await self._clock.sleep(delay)
        async with self._slots.slot(self._user, paired=spec.account is not None):
            span = WorkerSpan(self._tracer, spec)
            self._span = span
            await self._run(generation, msgspec.structs.replace(spec, traceparent=span.traceparent), first_report, span)

    async def _run(self, generation: int, spec: SessionSpec, first_report: asyncio.Event, span: WorkerSpan) -> None:
        """Start the driver's session, and wait for its first report."""

        def on_report(report: Report) -> None:
            if isinstance(report, WorkerDied):
                span.died(report.exit_status, report.unresponsive)
            first_report.set()
            if generation == self._generation:
                self.reported = True
                self._deliver(report)

        self.phase = Phase.STARTING
        self.starts += 1
        try:
            session = await self._driver.start(spec, on_report)
        except Exception as error:  # noqa: BLE001  whatever the driver raises, it counts as the worker's death
            self.phase = Phase.FAILED
            log.error("session_not_started", link_id=spec.link_id, error=type(error).__name__)
            on_report(WorkerDied(START_REFUSED))
            return
        self.phase = Phase.RUNNING
        if generation != self._generation:
            await _within(session.stop, spec.link_id)
            return
        self.session = session
        if self.worker is not None:
            span.runs_in(self.worker)
        # The start costs until the session reports something: hold the slot, but not for ever.
        handle = self._clock.call_later(SLOT_HOLD, first_report.set)
        try:
            await first_report.wait()
        finally:
            handle.cancel()

    async def stop(self, link_id: str, how: Exit = Exit.STOPPED) -> None:
        """End the session, or its start, and wait for it. Its reports are dropped from now on.

        An end that has begun is finished, also when its waiter is cancelled: the next `stop` waits for it.
        It takes `STOP_LIMIT` at the most, once a start that is under way is over.
        """
        while self._ending is not None and not self._ending.done():
            await asyncio.wait([self._ending])
        self._ending = ending = asyncio.create_task(self._end(link_id, how), name="session-end")
        await asyncio.wait([ending])
        ending.result()

    async def _end(self, link_id: str, how: Exit) -> None:
        span, session = await self._detach()
        try:
            if session is not None:
                await _within(session.stop, link_id)
        finally:
            if span is not None:
                span.ended(how)

    async def detach(self) -> Session | None:
        """Hand the session over, still running, to a caller that ends it; None when there is none."""
        span, session = await self._detach()
        if span is not None:
            span.ended(Exit.STOPPED)
        return session

    async def _detach(self) -> tuple[WorkerSpan | None, Session | None]:
        self._generation += 1
        self._first_report.set()
        if (task := self._task) is not None:
            if self.phase is not Phase.STARTING:
                task.cancel()
            # Where this is cancelled, all of it is left to the next call.
            await asyncio.wait([task])
            self._task = None
        self.phase = Phase.IDLE
        worker = self.worker
        session, self.session = self.session, None
        if self._span is not None and worker is not None:
            self._span.runs_in(worker)
        span, self._span = self._span, None
        return span, session


async def _within(work: Callable[[], Awaitable[None]], link_id: str) -> None:
    try:
        async with asyncio.timeout(STOP_LIMIT):
            await work()
    except Exception as error:  # noqa: BLE001  the session is over either way
        log.warning("session_end_failed", link_id=link_id, error=type(error).__name__)


class WorkerSpan:
    """The span of one session, from now to its first end. The worker's own spans are children of `traceparent`."""

    def __init__(self, tracer: RequestTracer, spec: SessionSpec) -> None:
        self._span = tracer.start("worker", spec.traceparent, attributes={LINK_ID: spec.link_id})
        self._over = False
        self.traceparent = self._span.traceparent

    def runs_in(self, worker: str) -> None:
        """The worker that the session is in, the last one when it was moved."""
        if not self._over:
            self._span.set("roundtrip.worker.id", worker)

    def died(self, status: int, unresponsive: bool = False) -> None:
        """It ended by itself, or the driver ended it because it no longer answered."""
        if not self._over:
            self._span.set(_EXIT_CODE, status)
            self.ended(Exit.UNRESPONSIVE if unresponsive else exit_of(status))

    def ended(self, how: Exit) -> None:
        """It is over."""
        if self._over:
            return
        self._over = True
        self._span.set("roundtrip.worker.exit", how.value)
        if how in (Exit.CRASHED, Exit.KILLED, Exit.UNRESPONSIVE):
            self._span.fail(f"worker_{how.value}")
        self._span.end()
