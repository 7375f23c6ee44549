"""A session as the links have it, in this process: it stays the same while workers come and go under it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from roundtrip.backoff import Backoff, Budget
from roundtrip.drivers import base as d
from roundtrip.drivers import key_files as files
from roundtrip.drivers.base import Exit, MoveCause
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.library_events import TERMINAL
from roundtrip.drivers.neonize.process import WorkerProcess
from roundtrip.telemetry.tracing import LINK_ID, RequestTracer, Step

log = structlog.get_logger()

STOP_TIMEOUT: Final = 5.0
LOGOUT_TIMEOUT: Final = 12.0
ALIVE_TIMEOUT: Final = 5.0
LEAVE_TIMEOUT: Final = 5.0
"""Seconds that a session may take to leave a worker that it is moved out of."""

WORKER: Final = "roundtrip.worker.id"
_EXITS: Final = (3, 60.0)
"""So many deaths of its workers within so many seconds are followed by a new seat at once."""
_PATIENCE: Final = Backoff(0.5, 30.0)


class Seat(Protocol):
    """Where a session runs: `fleet.WorkerSeat`."""

    @property
    def number(self) -> int: ...

    @property
    def process(self) -> WorkerProcess: ...

    @property
    def last(self) -> bool:
        """Whether no other session is in that worker, or expected there."""

    def release(self) -> None:
        """The session has left it."""

    def hand_over(self) -> None:
        """The session has paired, and is to log in in another worker."""

    async def evict(self) -> None:
        """The session does not leave: end the worker, and wait for that."""


class Seats(Protocol):
    """What gives seats: the fleet."""

    def shares(self) -> bool:
        """Whether paired sessions share workers."""

    def promise(self, session: NeonizeSession) -> None:
        """Keep a seat for a session that may soon pair."""

    def withdraw(self, session: NeonizeSession) -> None:
        """Keep it no longer."""


class NeonizeSession:
    """One session, from its start to its end. `start` of the driver makes it, `Fleet.place` gives it a seat."""

    def __init__(
        self,
        spec: d.SessionSpec,
        report: Callable[[d.Report], None],
        fleet: Seats,
        tracer: RequestTracer,
        *,
        paired: bool,
        code_life: float,
    ) -> None:
        self.spec = spec
        self.store = spec.store
        self.name = spec.link_id
        self.paired = paired
        self.account = spec.account
        """The number of its account, where it is known."""
        self._online = asyncio.Event()
        self.wanted = True
        """False from its last report, a stop or a logout on: nothing more is reported."""
        self.pid = 0
        """Of its worker, or of the last one that it had; 0 before the first."""
        self.worker: str | None = None
        """The name of the same worker."""
        self._callback = report
        self._fleet = fleet
        self._tracer = tracer
        self._code_life = code_life
        self._seat: Seat | None = None
        self._seated, self._vacant = asyncio.Event(), asyncio.Event()
        self._vacant.set()
        self._device_removed = False  # until WhatsApp confirms it
        self._deaths = Budget(*_EXITS)
        self._move: Step | None = None
        self._log = log.bind(link_id=spec.link_id)

    # the seat

    def sit(self, seat: Seat) -> None:
        """Start in a seat."""
        process = seat.process
        self._seat, self.pid, self.worker = seat, process.pid or 0, process.name
        self._vacant.clear()
        self._seated.set()
        if self._move is not None:
            self._move.set(WORKER, process.name)
        process.send(
            pipe.Open(
                seat.number,
                self.name,
                self.store.name,
                None if self.paired else self.spec.phone_number,
                self.paired,
                self._code_life,
                hand_over=not self.paired and self._fleet.shares(),
            )
        )
        self._log.info("session_started", worker=process.name, pid=process.pid)

    def stand_up(self, *, handed_over: bool) -> None:
        """The seat is free: the worker has closed the session, or is gone."""
        seat, self._seat = self._seat, None
        if seat is None:
            return
        self._seated.clear()
        self._vacant.set()
        seat.release()
        if handed_over and self.wanted:
            seat.hand_over()

    async def leave(self) -> None:
        """Have the worker close the session, the keys kept, and wait until it has."""
        if self._seat is not None:
            self.gone_offline()
            await self._vacate(pipe.Close(self._seat.number), LEAVE_TIMEOUT)

    async def _vacate(self, command: pipe.Command, timeout: float) -> None:  # noqa: ASYNC109 -- then the worker is ended
        seat = self._seat
        if seat is None:
            return
        seat.process.send(command)
        try:
            await asyncio.wait_for(self._vacant.wait(), timeout)
        except TimeoutError:
            await seat.evict()

    # what comes from the worker

    def on_message(self, message: pipe.Reported | pipe.LoggedOut | pipe.Closed) -> None:
        """Take a message of the session's."""
        match message:
            case pipe.Closed():
                self.stand_up(handed_over=message.handed_over)
            case pipe.LoggedOut():
                self._device_removed = self._device_removed or message.removed
                self._log.info("worker_logged_out", removed=message.removed)
            case pipe.Reported():
                self._report(message.report)

    def _report(self, report: d.Report) -> None:
        match report:
            case d.QrShown() | d.PairingCodeShown():
                self._fleet.promise(self)
            case d.PairSucceeded():
                self.paired, self.account = True, report.phone_number
            case d.Online():
                self.paired, self.account = True, report.phone_number
                self._online.set()
                self._end_move()
            case d.Offline():
                self._online.clear()
            case d.LoggedOutByPhone():
                self._device_removed = True
        if not self.wanted:
            return
        if isinstance(report, (*TERMINAL, d.WorkerDied, d.SessionCrashes)):
            self._over()
        try:
            self._callback(report)
        except Exception:  # noqa: BLE001 -- one report that the callback cannot handle must not end the reading
            self._log.exception("report_refused", report=type(report).__name__)

    @property
    def online(self) -> bool:
        return self._online.is_set()

    async def connected(self, within: float) -> None:
        """Wait until it is, but for so many seconds only."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._online.wait(), within)

    def _over(self) -> None:
        self.wanted = False
        self._online.clear()
        self._end_move(failed=True)
        self._fleet.withdraw(self)

    # what becomes of its worker

    def gone_offline(self) -> None:
        """Its connection is lost with its worker, or about to be given up: the link says so unless it is back soon."""
        if self.online:
            self._report(d.Offline())

    def died(self, status: int, *, unresponsive: bool = False) -> None:
        """It is over with its worker: no other is tried."""
        self._report(d.WorkerDied(status, unresponsive))

    def gives_up(self) -> None:
        """Its worker dies again and again, with no other session in it."""
        self._log.error("session_crashes")
        self._report(d.SessionCrashes())

    def patience(self) -> float:
        """Seconds to wait, after one more death, before it is given a new seat."""
        now = asyncio.get_running_loop().time()
        if self._deaths.spend(now):
            return 0.0
        return _PATIENCE.delay(self._deaths.spent(now) - self._deaths.limit)

    def begin_move(self, cause: MoveCause, source: str, exit_: Exit | None) -> None:
        """Trace a move, from now until it is connected again."""
        self._end_move(failed=True)
        attributes = {LINK_ID: self.name, "roundtrip.move.cause": cause.value, "roundtrip.worker.from": source}
        if exit_ is not None:
            attributes["roundtrip.worker.exit"] = exit_.value
        self._move = self._tracer.start("worker move", self.spec.traceparent, attributes=attributes)
        self._log.info("session_moves", cause=cause, source=source)

    def _end_move(self, *, failed: bool = False) -> None:
        if self._move is not None:
            if failed:
                self._move.fail("not_connected")
            self._move.end()
            self._move = None

    # the links' side

    async def stop(self) -> None:
        """End it and keep the account's keys. Takes `STOP_TIMEOUT` seconds, unless others have to be moved first."""
        self._over()
        if (seat := self._seat) is not None:
            # The last one takes its process along, whatever the library waits for.
            if seat.last:
                await seat.process.end_within(STOP_TIMEOUT)
            else:
                await self._vacate(pipe.Close(seat.number), STOP_TIMEOUT)

    async def logout(self) -> None:
        """Remove the device from the account, end the session, delete the store. Takes `LOGOUT_TIMEOUT` at most.

        Raises `DeviceNotRemovedError`, with the store kept, when it holds a device and WhatsApp did not confirm.
        """
        if self.wanted and self._seat is None:
            with contextlib.suppress(TimeoutError):  # it is being moved
                await asyncio.wait_for(self._seated.wait(), LEAVE_TIMEOUT)
        self._over()
        if self._seat is not None:
            await self._vacate(pipe.LogOut(self._seat.number), LOGOUT_TIMEOUT)
        if not self._device_removed and await asyncio.to_thread(files.holds_device, self.store):
            raise d.DeviceNotRemovedError("WhatsApp did not confirm that the device was removed")
        files.remove(self.store)

    async def alive(self) -> bool | None:
        """Whether an authenticated connection stands; False as well while it is between two workers.

        None when the worker does not reply in `ALIVE_TIMEOUT`, and after the session's end.
        """
        if (seat := self._seat) is not None:
            answer = await seat.process.alive(seat.number, ALIVE_TIMEOUT)
            if answer is not None or seat is self._seat:
                return answer
        return False if self.wanted else None
