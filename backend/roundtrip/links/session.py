"""One link's session: at most one at a time, started within the limit of simultaneous starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from roundtrip.clock import TimerClock
from roundtrip.drivers.base import Driver, Exit, Report, Session, SessionSpec, WorkerDied, exit_of
from roundtrip.links.metrics import LinkMetrics
from roundtrip.links.queue import StartSlots
from roundtrip.telemetry.tracing import LINK_ID, OFF, RequestTracer

log = structlog.get_logger(__name__)

SLOT_HOLD: Final = 5.0
"""Seconds after which a started session that said nothing no longer counts as starting."""

STOP_LIMIT: Final = 15.0
"""Seconds that a session may take to stop or log out."""

START_REFUSED: Final = 127
"""Exit status given to a worker that could not even be started, as a shell has it."""


class SessionRunner:
    """Each session is a generation: what an older one still says is dropped."""

    def __init__(
        self,
        driver: Driver,
        turns: StartSlots,
        user: str,
        clock: TimerClock,
        deliver: Callable[[Report], None],
        meter: LinkMetrics,
        tracer: RequestTracer = OFF,
    ) -> None:
        self._driver = driver
        self._turns = turns
        self._user = user
        self._clock = clock
        self._deliver = deliver
        self._meter = meter
        self._tracer = tracer
        self._span: WorkerSpan | None = None
        self._generation = 0
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._dialing = False
        self._spoke = asyncio.Event()
        self.spoken = False
        """Whether the present session reported anything yet."""
        self.session: Session | None = None
        self.starts = 0

    @property
    def waiting(self) -> bool:
        """Whether a start is to come, or under way: it waits for its time, its turn or its driver."""
        return self.session is None and self._task is not None and not self._task.done()

    @property
    def pid(self) -> int | None:
        """The worker's process id, where the driver has one."""
        pid = getattr(self.session, "pid", None)
        return pid if isinstance(pid, int) else None

    def begin(self, spec: SessionSpec, delay: float = 0.0) -> None:
        """Start a session in `delay` seconds, once there is a free slot. Must not be called while one runs."""
        assert self._task is None, "one session at a time"  # noqa: S101  a programming error
        self._generation += 1
        self.spoken = False
        self._spoke = asyncio.Event()
        self._task = asyncio.create_task(self._start(self._generation, spec, delay, self._spoke))

    async def _start(self, generation: int, spec: SessionSpec, delay: float, spoke: asyncio.Event) -> None:
        if delay:
            await self._clock.sleep(delay)
        async with self._turns.turn(self._user):
            span = WorkerSpan(self._tracer, self._meter, spec)
            self._span = span
            await self._run(generation, msgspec.structs.replace(spec, traceparent=span.traceparent), spoke, span)

    async def _run(self, generation: int, spec: SessionSpec, spoke: asyncio.Event, span: WorkerSpan) -> None:
        """Start the driver's session, and wait until it has something to say."""

        def report(said: Report) -> None:
            if isinstance(said, WorkerDied):
                span.died(said.exit_status, said.unresponsive)
            spoke.set()
            if generation == self._generation:
                self.spoken = True
                self._deliver(said)

        self._dialing = True
        self.starts += 1
        try:
            session = await self._driver.start(spec, report)
        except Exception as error:  # noqa: BLE001  whatever the driver meets, the link must hear of it
            log.error("session_not_started", link_id=spec.link_id, error=type(error).__name__)
            report(WorkerDied(START_REFUSED))
            return
        finally:
            self._dialing = False
        if generation != self._generation:
            await _within(session.stop, spec.link_id)
            return
        self.session = session
        # The start costs until the session has something to say: hold the slot, but not for ever.
        handle = self._clock.call_later(SLOT_HOLD, spoke.set)
        try:
            await spoke.wait()
        finally:
            handle.cancel()

    async def stop(self, link_id: str, how: Exit = Exit.STOPPED) -> None:
        """End the session, or its start, and wait for it. Its reports no longer count from now on.

        An end that has begun is finished, also when whoever waits for it is cancelled: the next `stop` waits for it.
        It takes `STOP_LIMIT` at the most, once a start that is under way is over.
        """
        while self._ending is not None and not self._ending.done():
            await asyncio.wait([self._ending])
        self._ending = ending = asyncio.create_task(self._end(link_id, how), name="session-end")
        await asyncio.wait([ending])
        ending.result()

    async def _end(self, link_id: str, how: Exit) -> None:
        span, session = await self._let_go()
        try:
            if session is not None:
                await _within(session.stop, link_id)
        finally:
            if span is not None:
                span.ended(how)

    async def hand_over(self) -> Session | None:
        """Give the session away, still running, to whoever ends it; None when there is none."""
        span, session = await self._let_go()
        if span is not None:
            span.ended(Exit.STOPPED)
        return session

    async def _let_go(self) -> tuple[WorkerSpan | None, Session | None]:
        self._generation += 1
        self._spoke.set()
        if (task := self._task) is not None:
            if not self._dialing:
                task.cancel()
            # A start that is under way is not cut short, lest a process is left behind: it sees that it is too late.
            # Whoever is cancelled here leaves all of it to the next who comes.
            await asyncio.wait([task])
            self._task = None
        session, self.session = self.session, None
        span, self._span = self._span, None
        return span, session


async def _within(work: Callable[[], Awaitable[None]], link_id: str) -> bool:
    try:
        async with asyncio.timeout(STOP_LIMIT):
            await work()
    except Exception as error:  # noqa: BLE001  the session is over either way, and said so in the log
        log.warning("session_end_failed", link_id=link_id, error=type(error).__name__)
        return False
    return True


_EXIT_CODE: Final = "process.exit.code"


class WorkerSpan:
    """Begins now; its first end is the one that counts. `traceparent` is what the worker's own spans join."""

    def __init__(self, tracer: RequestTracer, meter: LinkMetrics, spec: SessionSpec) -> None:
        self._meter = meter
        self._step = tracer.start("worker", spec.traceparent, attributes={LINK_ID: spec.link_id})
        self._over = False
        self.traceparent = self._step.traceparent

    def died(self, status: int, unresponsive: bool = False) -> None:
        """It ended by itself, or the driver ended it because it no longer answered."""
        if not self._over:
            self._step.set(_EXIT_CODE, status)
            self.ended(Exit.UNRESPONSIVE if unresponsive else exit_of(status))

    def ended(self, how: Exit) -> None:
        """It is over."""
        if self._over:
            return
        self._over = True
        self._step.set("roundtrip.worker.exit", how.value)
        if how in (Exit.CRASHED, Exit.KILLED, Exit.UNRESPONSIVE):
            self._step.fail(f"worker_{how.value}")
        self._step.end()
        self._meter.worker_exit(how.value)
