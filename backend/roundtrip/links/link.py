"""One link: a serial queue, so that what happens to it is taken up one thing after the other.

What follows from each thing is `life.py`'s.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.identity import BotKey
from roundtrip.links import payloads as faces
from roundtrip.links import startup as starting
from roundtrip.links.context import LinkContext
from roundtrip.links.machine import ENDED, Input, Timer
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.links.policy import meaning
from roundtrip.links.queue import ExpiredTimer, InputQueue
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkRecord, LinkState
from roundtrip.links.transition import LOOK_AGAIN, Lifecycle
from roundtrip.telemetry import redaction

log = structlog.get_logger(__name__)

_ENDS_OF: Final = {
    Timer.PAIRING: Input.PAIRING_OVER,
    Timer.PATIENCE: Input.PATIENCE_OVER,
    Timer.BAN: Input.BAN_OVER,
    Timer.PAIRED: Input.PAIRING_INCOMPLETE,
    Timer.GRACE: Input.GRACE_OVER,
}


class Order(enum.Enum):
    """What somebody can ask of a link."""

    START = enum.auto()
    LOGOUT = enum.auto()
    RESTORE = enum.auto()


@dataclass(frozen=True, slots=True)
class Command:
    """An order and whoever waits for it."""

    order: Order
    done: asyncio.Future[None]
    phone_number: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class WatchResult:
    """What somebody who watches the session found; worth nothing once another session runs."""

    cause: Input
    starts: int


@dataclass(frozen=True, slots=True)
class ExternalInput:
    """Something that concerns the link `link_id`, from outside it."""

    cause: Input
    link_id: str


Item: TypeAlias = Report | ExpiredTimer | WatchResult | ExternalInput | Command

_LOGIN_ANSWER: Final = 2.0
"""Seconds that a session may take to say whether it was let in."""


class Link:
    """One key's link, from its first start on. Its session may end and another begin; the link stays."""

    def __init__(self, key: BotKey, context: LinkContext, record: LinkRecord | None = None) -> None:
        self.key = key
        self._context = context
        self._clock = context.clock
        self._flooded_start: int | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self.inbox: InputQueue[Item] = InputQueue(self._handle, self._broken)
        self.lifecycle = Lifecycle(key, context, record, self.report, self.inbox.put, self._stall)
        if record is not None and starting.restorable(record):
            self.lifecycle.record = starting.awaiting_restore(record, context.clock.now())

    # what others see

    @property
    def state(self) -> LinkState:
        return self.lifecycle.state

    @property
    def record(self) -> LinkRecord | None:
        return self.lifecycle.record

    def snapshot(self) -> Snapshot:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        return faces.snapshot(self.key, self.lifecycle.record, self.lifecycle.code, now, monotonic, shared=self.shared)

    def view(self) -> LinkView | None:
        """None while there was never a link."""
        return None if self.lifecycle.record is None else faces.view(self.lifecycle.record, self)

    @property
    def restarts(self) -> int:
        return self.lifecycle.restarts

    @property
    def worker_pid(self) -> int | None:
        return self.lifecycle.runner.pid

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
        handle = self._clock.call_later(within, self.lifecycle.moved.set)
        try:
            while self.state is state and self._clock.monotonic() < end:
                self.lifecycle.moved.clear()
                await self.lifecycle.moved.wait()
        finally:
            handle.cancel()
        return self.state is not state

    # what others ask

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
        """What the session said."""
        starts = self.lifecycle.runner.starts
        if self._flooded_start == starts:
            return
        if self.lifecycle.policy.flooding(self._clock.monotonic()):
            self._flooded_start = starts
            log.error("session_floods", link_id=self._id)
            self.inbox.drop(lambda item: isinstance(item, Report))
            self.found(Input.WORKER_DIED)
            return
        self.inbox.put(report)

    def found(self, cause: Input) -> None:
        """What a watch over the session found."""
        self.inbox.put(WatchResult(cause, self.lifecycle.runner.starts))

    def told(self, cause: Input, link_id: str | None = None) -> None:
        """What became known elsewhere about this link, or about the one with that id."""
        self.inbox.put(ExternalInput(cause, self._id if link_id is None else link_id))

    async def close(self) -> None:
        """End the session, keep everything."""
        self.lifecycle.timers.drop_all()
        await self.inbox.close()
        self._refuse_all(_shutting_down())
        await self.lifecycle.runner.stop(self._id)

    def _stall(self) -> None:
        """An event cannot be stored, and everything waits for that: nobody is kept waiting."""
        self._refuse_all(self.lifecycle.writer.refusal())

    def _refuse_all(self, error: LinkError) -> None:
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
                    return  # whoever asked was told no
                await self._obey(item)
                if not item.done.done():
                    item.done.set_result(None)
            case ExpiredTimer():
                if self.lifecycle.timers.take(item):
                    await self._deadline(item.timer)
            case ExternalInput():
                if record is not None and item.link_id == record.link_id:
                    await self.lifecycle.happen(item.cause, None)
            case _ if record is None or record.state in ENDED:
                pass  # the session is being ended and says its last words
            case WatchResult():
                if item.starts == self.lifecycle.runner.starts:
                    await self._checked(item.cause)
            case _:
                await self._hear(item, record)

    async def _hear(self, report: Report, record: LinkRecord) -> None:
        report, now = meaning(report), self._clock.monotonic()
        if isinstance(report, d.Outdated):
            self._context.version_refused(now)
        _note(record.link_id, report)
        await self.lifecycle.happen(self.lifecycle.policy.classify(report, record.paired, now), report)

    def _broken(self, item: Item, error: Exception) -> None:
        if isinstance(item, Command):
            if not item.done.done():
                item.done.set_exception(error)
            if isinstance(error, LinkError):
                return
        log.error("link_step_failed", link_id=self._id, item=type(item).__name__, error=redaction.message_of(error))

    async def _obey(self, command: Command) -> None:
        match command.order:
            case Order.START:
                await starting.start(self.key, self.lifecycle, self._context, command.phone_number, command.traceparent)
            case Order.LOGOUT:
                await self.lifecycle.log_out()
            case Order.RESTORE:
                await starting.restore(self.lifecycle, self._context)

    async def _checked(self, cause: Input) -> None:
        if cause is not Input.WORKER_DIED:
            log.warning("link_corrected", link_id=self._id, state=self.state.value, found=cause.name.lower())
            self._context.metrics.correction()
        if cause in (Input.WORKER_DIED, Input.WORKER_HUNG):
            paired = self.lifecycle.record is not None and self.lifecycle.record.paired
            cause = self.lifecycle.policy.died(cause, paired, self._clock.monotonic())
        await self.lifecycle.happen(cause, None)

    async def _deadline(self, timer: Timer) -> None:  # noqa: C901  one case per deadline
        lifecycle = self.lifecycle
        match timer:
            case Timer.CALM:
                lifecycle.damper.calm()
                online = Input.CALM_AILING if lifecycle.ailing else Input.CALM_ONLINE
                await lifecycle.happen(online if lifecycle.damper.online else Input.CALM_OFFLINE, None)
            case Timer.STUCK if lifecycle.record is not None and not self._waits_for_a_turn(timer):
                # A network that swallows packets looks like this. It is no fault of the worker's.
                await self._hear(d.Unreachable("nothing came"), lifecycle.record)
            case Timer.UNREACHED if lifecycle.policy.dialed or not self._waits_for_a_turn(timer):
                lifecycle.timers.drop(timer)
                await lifecycle.happen(Input.UNREACHED, None)
            case Timer.LOGIN if not self._waits_for_a_turn(timer):
                if await self._is_let_in():
                    lifecycle.timers.arm(timer, self._context.settings.login_timeout)
                else:
                    await lifecycle.happen(Input.LOGIN_LATE, None)
            case Timer.SILENT if lifecycle.ailing or not lifecycle.damper.flapping:
                await lifecycle.happen(Input.SILENT, None)
            case Timer.AGAIN:
                if await self._may_try_again():
                    await lifecycle.happen(Input.TRY_AGAIN, None)
                elif not lifecycle.rejected:
                    lifecycle.timers.arm(timer, LOOK_AGAIN)
            case _ if timer in _ENDS_OF:
                await lifecycle.happen(_ENDS_OF[timer], None)

    def _waits_for_a_turn(self, timer: Timer) -> bool:
        """Whether there is no session yet, so that the deadline has to begin anew: it does."""
        if self.lifecycle.runner.session is not None:
            return False
        self.lifecycle.again(timer)
        return True

    async def _is_let_in(self) -> bool:
        """The library's own word, in time: its report may be on the way."""
        session = self.lifecycle.runner.session
        try:
            async with asyncio.timeout(_LOGIN_ANSWER):
                return session is not None and await session.alive() is True
        except Exception as error:  # noqa: BLE001  no answer is an answer
            log.warning("session_cannot_answer", link_id=self._id, error=type(error).__name__)
            return False

    async def _may_try_again(self) -> bool:
        """Whether what keeps a paired account away is over."""
        record = self.lifecycle.record
        if record is None or self.lifecycle.rejected:
            return False
        if record.state is LinkState.CLIENT_OUTDATED:
            return not self._context.starts_blocked(self._clock.monotonic())
        return await self.lifecycle.writer.key_state(record) is KeyFileState.GOOD


def _shutting_down() -> LinkError:
    return LinkError("shutting_down", "The server is shutting down.", 5)


def _note(link_id: str, report: Report) -> None:
    """Log what the table does not keep: WhatsApp's own codes."""
    match report:
        case d.StreamFailed(code=code):
            log.warning("stream_error", link_id=link_id, code=code[:32])
        case d.ConnectFailed(reason=reason):
            log.error("connect_failure", link_id=link_id, whatsapp_reason=reason[:64])
        case d.WorkerDied(exit_status=status):
            log.warning("worker_died", link_id=link_id, exit_status=status)
        case d.Unreachable(message=message):
            log.warning("whatsapp_unreachable", link_id=link_id, error=message[:200])
        case d.Outdated():
            log.error("client_outdated", link_id=link_id)
        case _:
            pass
