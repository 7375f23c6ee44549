"""One link: what happens to it is put in its serial queue, and handled by `transition.py` one thing after the other."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.errors import IllegalTransitionError
from roundtrip.identity import BotKey
from roundtrip.links import payloads, startup
from roundtrip.links.context import LinkContext
from roundtrip.links.machine import ENDED, Input, Timer
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.links.policy import log_report, normalize
from roundtrip.links.queue import CheckResult, Command, ExpiredTimer, ExternalInput, InputQueue, Item, Order
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkRecord, LinkState
from roundtrip.links.transition import Lifecycle
from roundtrip.telemetry import redaction

log = structlog.get_logger(__name__)

_INPUT_OF_TIMER: Final = {
    Timer.PAIRING: Input.PAIRING_OVER,
    Timer.PATIENCE: Input.PATIENCE_OVER,
    Timer.BAN: Input.BAN_OVER,
    Timer.PAIRED: Input.PAIRING_INCOMPLETE,
    Timer.GRACE: Input.GRACE_OVER,
}
"""Timers that are inputs as they are; `_on_timer` has the others."""

_LOGIN_ANSWER: Final = 2.0
"""Seconds that a session may take to answer whether it is connected, before a late login is restarted."""


class Link:
    """One key's link, from its first start on. Its session may end and another begin; the link stays."""

    def __init__(
        self, key: BotKey, context: LinkContext, record: LinkRecord | None = None, since: float | None = None
    ) -> None:
        """`since` is when its account began to wait for its session, in seconds since the epoch: None for now."""
        self.key = key
        self._context = context
        self._clock = context.clock
        self._flooded_start: int | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self.inbox: InputQueue[Item] = InputQueue(self._handle, self._on_error)
        self.lifecycle = Lifecycle(key, context, record, self.report, self.inbox.put, self._on_stall)
        if record is not None and startup.restorable(record):
            self.lifecycle.record = startup.awaiting_restore(record, since or context.clock.now())

    # views

    @property
    def state(self) -> LinkState:
        return self.lifecycle.state

    @property
    def record(self) -> LinkRecord | None:
        return self.lifecycle.record

    def snapshot(self) -> Snapshot:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        return payloads.snapshot(
            self.key, self.lifecycle.record, self.lifecycle.code, now, monotonic, shared=self.shared
        )

    def view(self) -> LinkView | None:
        """None while there was never a link."""
        return None if self.lifecycle.record is None else payloads.view(self.lifecycle.record, self)

    @property
    def restarts(self) -> int:
        return self.lifecycle.restarts

    @property
    def worker_pid(self) -> int | None:
        return self.lifecycle.runner.pid

    @property
    def worker_id(self) -> str | None:
        return self.lifecycle.runner.worker

    @property
    def flaps(self) -> int:
        return self.lifecycle.damper.flaps

    @property
    def flapping(self) -> bool:
        return self.lifecycle.damper.flapping

    @property
    def waiting(self) -> int:
        return len(self.inbox)

    @property
    def deadlines(self) -> tuple[str, ...]:
        return self.lifecycle.timers.names()

    @property
    def shared(self) -> bool:
        """Whether the account is linked under another key too."""
        return self.lifecycle.record is not None and self.lifecycle.linked_elsewhere(self.lifecycle.record)

    @property
    def stalled(self) -> bool:
        return self.lifecycle.writer.stalled

    async def leaves(self, state: LinkState, within: float) -> bool:
        """Wait until the link is in another state; False when that took more than `within` seconds."""
        end = self._clock.monotonic() + within
        handle = self._clock.call_later(within, self.lifecycle.changed.set)
        try:
            while self.state is state and self._clock.monotonic() < end:
                self.lifecycle.changed.clear()
                await self.lifecycle.changed.wait()
        finally:
            handle.cancel()
        return self.state is not state

    # what comes in

    async def order(self, order: Order, phone_number: str | None = None, traceparent: str | None = None) -> None:
        """Carry out an order, after what waits before it. Raises `LinkError`."""
        if self.stalled:
            raise self.lifecycle.writer.refusal()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.inbox.put(Command(order, done, phone_number, traceparent)):
            raise _shutting_down()
        self._waiters.add(done)
        done.add_done_callback(self._waiters.discard)
        await done

    def report(self, report: Report) -> None:
        """Take a report of the session."""
        starts = self.lifecycle.runner.starts
        if self._flooded_start == starts:
            return
        if self.lifecycle.policy.flooding(self._clock.monotonic()):
            self._flooded_start = starts
            log.error("session_floods", link_id=self._id)
            self.inbox.discard(lambda item: isinstance(item, Report))
            self.check_result(Input.WORKER_DIED)
            return
        self.inbox.put(report)

    def check_result(self, cause: Input) -> None:
        """Take what a check of the present session found."""
        self.inbox.put(CheckResult(cause, self.lifecycle.runner.starts))

    def notify(self, cause: Input, link_id: str | None = None) -> None:
        """Take news from outside about this link, or about the earlier one with that id."""
        self.inbox.put(ExternalInput(cause, self._id if link_id is None else link_id))

    async def close(self) -> None:
        """End the session, keep everything."""
        self.lifecycle.timers.cancel_all()
        await self.inbox.close()
        self._fail_waiters(_shutting_down())
        await self.lifecycle.runner.stop(self._id)

    def _on_stall(self) -> None:
        """An event cannot be stored, and everything waits for that: the callers get an error at once."""
        self._fail_waiters(self.lifecycle.writer.refusal())

    def _fail_waiters(self, error: LinkError) -> None:
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_exception(error)

    # the serial queue

    @property
    def _id(self) -> str:
        return "" if self.lifecycle.record is None else self.lifecycle.record.link_id

    async def _handle(self, item: Item) -> None:  # noqa: C901  one case per kind of item
        record = self.lifecycle.record
        match item:
            case Command():
                if item.done.done():
                    return  # its caller got an error meanwhile
                await self._execute(item)
                if not item.done.done():
                    item.done.set_result(None)
            case ExpiredTimer():
                if self.lifecycle.timers.consume(item):
                    await self._on_timer(item.timer)
            case ExternalInput():
                if record is not None and item.link_id == record.link_id:
                    await self.lifecycle.handle(item.cause, None)
            case _ if record is None or record.state in ENDED:
                pass  # a late report of a session that is being ended
            case CheckResult():
                if item.starts == self.lifecycle.runner.starts:
                    await self._on_check_result(item.cause)
            case _:
                await self._on_report(item, record)

    def _on_error(self, item: Item, error: Exception) -> None:
        if isinstance(item, Command) and not item.done.done():
            item.done.set_exception(error)
        if isinstance(item, Command) and isinstance(error, LinkError):
            return
        if isinstance(error, IllegalTransitionError):
            _refuse(self._id, error)
            return
        log.error("link_step_failed", link_id=self._id, item=type(item).__name__, error=redaction.message_of(error))

    async def _execute(self, command: Command) -> None:
        match command.order:
            case Order.START:
                await startup.start(self.key, self.lifecycle, self._context, command.phone_number, command.traceparent)
            case Order.LOGOUT:
                await self.lifecycle.log_out()
            case Order.RESTORE:
                await startup.restore(self.lifecycle, self._context)

    async def _on_report(self, report: Report, record: LinkRecord) -> None:
        report, now = normalize(report), self._clock.monotonic()
        if isinstance(report, d.Outdated):
            self._context.version_refused(now)
        log_report(record.link_id, report)
        await self.lifecycle.handle(self.lifecycle.policy.classify(report, record.paired, now), report)

    async def _on_check_result(self, cause: Input) -> None:
        if cause is not Input.WORKER_DIED:
            log.warning("link_corrected", link_id=self._id, state=self.state.value, found=cause.name.lower())
            self._context.metrics.correction()
        if cause in (Input.WORKER_DIED, Input.WORKER_HUNG):
            paired = self.lifecycle.record is not None and self.lifecycle.record.paired
            cause = self.lifecycle.policy.count_death(cause, paired, self._clock.monotonic())
        await self.lifecycle.handle(cause, None)

    async def _on_timer(self, timer: Timer) -> None:  # noqa: C901  one case per timer
        lifecycle = self.lifecycle
        match timer:
            case Timer.CALM:
                lifecycle.damper.clear()
                online = Input.CALM_AILING if lifecycle.pings_unanswered else Input.CALM_ONLINE
                await lifecycle.handle(online if lifecycle.damper.online else Input.CALM_OFFLINE, None)
            case Timer.STUCK if lifecycle.record is not None and not self._rearm_without_session(timer):
                # A network that swallows packets looks like this: it does not count as the worker's failure.
                await self._on_report(d.Unreachable("nothing came"), lifecycle.record)
            case Timer.UNREACHED if lifecycle.policy.dial_failed or not self._rearm_without_session(timer):
                lifecycle.timers.cancel(timer)
                await lifecycle.handle(Input.UNREACHED, None)
            case Timer.LOGIN if not self._rearm_without_session(timer):
                # Its report may be on the way.
                if await lifecycle.runner.is_connected(self._id, _LOGIN_ANSWER):
                    lifecycle.timers.arm(timer, self._context.settings.login_timeout)
                else:
                    await lifecycle.handle(Input.LOGIN_LATE, None)
            case Timer.SILENT if lifecycle.pings_unanswered or not lifecycle.damper.flapping:
                await lifecycle.handle(Input.SILENT, None)
            case Timer.AGAIN:
                if await self._may_try_again():
                    await lifecycle.handle(Input.TRY_AGAIN, None)
                elif not lifecycle.keys_rejected:
                    lifecycle.rearm(timer)
            case _ if timer in _INPUT_OF_TIMER:
                await lifecycle.handle(_INPUT_OF_TIMER[timer], None)

    def _rearm_without_session(self, timer: Timer) -> bool:
        """Arm a timer anew, and return True, where there is no session yet that it could measure."""
        if self.lifecycle.runner.session is not None:
            return False
        self.lifecycle.rearm(timer)
        return True

    async def _may_try_again(self) -> bool:
        """Whether what keeps a paired account from connecting is over."""
        record = self.lifecycle.record
        if record is None or self.lifecycle.keys_rejected:
            return False
        if record.state is LinkState.CLIENT_OUTDATED:
            return not self._context.starts_blocked(self._clock.monotonic())
        return await self.lifecycle.writer.key_state(record) is KeyFileState.GOOD


def _shutting_down() -> LinkError:
    return LinkError("shutting_down", "The server is shutting down.", 5)


def _refuse(link_id: str, error: IllegalTransitionError) -> None:
    """Log an illegal transition, and count it: `roundtrip_task_failures_total` has what reaches the loop's handler."""
    log.error("link_transition_refused", link_id=link_id, state=error.state, cause=error.cause)
    asyncio.get_running_loop().call_exception_handler({"message": str(error), "exception": error})
