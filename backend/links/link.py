"""One link: a serial queue, so that what happens to it is taken up one thing after the other.

What follows from each thing is `life.py`'s.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog

from backend.identity import BotKey
from backend.links import driver as d
from backend.links import faces, starting
from backend.links.driver import Report
from backend.links.errors import LinkError
from backend.links.faces import LinkView
from backend.links.house import House
from backend.links.inbox import Inbox
from backend.links.life import Life
from backend.links.machine import ENDED, Input, Timer, step
from backend.links.record import LinkRecord
from backend.links.snapshot import LinkState, Snapshot
from backend.links.timers import Struck
from backend.telemetry import redaction

log = structlog.get_logger(__name__)

_ENDS_OF: Final = {
    Timer.PAIRING: Input.PAIRING_OVER,
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
class Finding:
    """What somebody who watches the session found; worth nothing once another session runs."""

    cause: Input
    starts: int


Item: TypeAlias = Report | Struck | Finding | Command


class Link:
    """One key's link, from its first start on. Its session may end and another begin; the link stays."""

    def __init__(self, key: BotKey, house: House, record: LinkRecord | None = None) -> None:
        self.key = key
        self._house = house
        self._clock = house.clock
        self._flooded_start: int | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self.inbox: Inbox[Item] = Inbox(self._handle, self._broken)
        self.life = Life(key, house, record, self.report, self.inbox.put)
        if record is not None and starting.comes_back(record):
            self.life.record = starting.not_back_yet(record, house.clock.now())

    # what others see

    @property
    def state(self) -> LinkState:
        return self.life.state

    @property
    def record(self) -> LinkRecord | None:
        return self.life.record

    def snapshot(self) -> Snapshot:
        record = self.life.record
        shared = record is not None and record.also_linked and self._house.shared(record.phone_number)
        return faces.snapshot(self.key, record, self.life.code, self._clock.now(), shared)

    def view(self) -> LinkView | None:
        """None while there was never a link."""
        return None if self.life.record is None else faces.view(self.life.record, self)

    @property
    def restarts(self) -> int:
        return self.life.restarts

    @property
    def worker_pid(self) -> int | None:
        return self.life.runner.pid

    @property
    def flaps(self) -> int:
        return self.life.damper.flaps

    @property
    def flapping(self) -> bool:
        return self.life.damper.flapping

    @property
    def waiting(self) -> int:
        return len(self.inbox)

    @property
    def stalled(self) -> bool:
        return self.life.scribe.stalled

    async def leaves(self, state: LinkState, within: float) -> bool:
        """Wait until the link is in another state; False when that took more than `within` seconds."""
        end = self._clock.now() + within
        handle = self._clock.call_later(within, self.life.moved.set)
        try:
            while self.state is state and self._clock.now() < end:
                self.life.moved.clear()
                await self.life.moved.wait()
        finally:
            handle.cancel()
        return self.state is not state

    # what others ask

    async def order(self, order: Order, phone_number: str | None = None, traceparent: str | None = None) -> None:
        """Carry out an order, after what waits before it. Raises `LinkError`."""
        if self.stalled:
            raise self.life.scribe.refusal()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.inbox.put(Command(order, done, phone_number, traceparent)):
            raise _shutting_down()
        self._waiters.add(done)
        done.add_done_callback(self._waiters.discard)
        await done

    def report(self, report: Report) -> None:
        """What the session said."""
        starts = self.life.runner.starts
        if self._flooded_start == starts:
            return
        if self.life.judge.flooding(self._clock.now()):
            self._flooded_start = starts
            log.error("session_floods", link_id=self._id)
            self.inbox.drop(lambda item: isinstance(item, Report))
            self.found(Input.WORKER_DIED)
            return
        self.inbox.put(report)

    def found(self, cause: Input) -> None:
        """What a watch over the session found."""
        self.inbox.put(Finding(cause, self.life.runner.starts))

    async def close(self) -> None:
        """End the session, keep everything."""
        self.life.timers.drop_all()
        await self.inbox.close()
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_exception(_shutting_down())
        await self.life.runner.stop(self._id)

    # the serial queue

    @property
    def _id(self) -> str:
        return "" if self.life.record is None else self.life.record.link_id

    async def _handle(self, item: Item) -> None:
        record = self.life.record
        if isinstance(item, Command):
            await self._obey(item)
            if not item.done.done():
                item.done.set_result(None)
        elif isinstance(item, Struck):
            if self.life.timers.take(item):
                await self._deadline(item.timer)
        elif record is None or record.state in ENDED:
            pass  # the session is being ended and says its last words
        elif isinstance(item, Finding):
            if item.starts == self.life.runner.starts:
                await self._checked(item.cause)
        else:
            if isinstance(item, d.Outdated):
                self._house.outdated = True
            _note(record.link_id, item)
            await self.life.happen(self.life.judge.judge(item, record.paired, self._clock.now()), item)

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
                await starting.start(self.key, self.life, self._house, command.phone_number, command.traceparent)
            case Order.LOGOUT:
                if self.life.record is not None:
                    await self.life.apply(Input.LOGOUT, step(self.state, Input.LOGOUT), None, patient=False)
            case Order.RESTORE:
                await starting.come_back(self.life, self._house)

    async def _checked(self, cause: Input) -> None:
        if cause is not Input.WORKER_DIED:
            log.warning("link_corrected", link_id=self._id, state=self.state.value, found=cause.name.lower())
            self._house.meter.correction()
        if cause in (Input.WORKER_DIED, Input.WORKER_HUNG):
            cause = self.life.judge.died(cause, self._clock.now())
        await self.life.happen(cause, None)

    async def _deadline(self, timer: Timer) -> None:
        life = self.life
        if timer is Timer.CALM:
            life.damper.calm()
            await life.happen(Input.CALM_ONLINE if life.damper.online else Input.CALM_OFFLINE, None)
        elif timer is not Timer.STUCK:
            await life.happen(_ENDS_OF[timer], None)
        elif life.runner.session is None:  # it waits for its turn or for the next try
            life.timers.arm(timer, self._house.settings.stuck_timeout)
        else:
            # A network that swallows packets looks like this. It is no fault of the worker and does not count as one.
            stuck = d.Unreachable("nothing came")
            await self._handle(stuck)


def _shutting_down() -> LinkError:
    return LinkError("shutting_down", "The server is shutting down.", 503, 5)


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
