"""One link: takes what happens to it, one thing after the other, through the table of `machine.py`.

An event is committed before the state moves, so nobody sees a state whose event could still be lost.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from backend.events import SECRET_TYPES
from backend.identity import BotKey
from backend.links import driver as d
from backend.links import faces
from backend.links.changes import after, is_news
from backend.links.damping import Damper
from backend.links.driver import Report
from backend.links.errors import LinkError
from backend.links.faces import Code, LinkView
from backend.links.files import Condition
from backend.links.house import House
from backend.links.inbox import Inbox
from backend.links.judge import Judge
from backend.links.machine import ENDED, LIVE, SHOWING, STATE_TIMERS, UP, Fate, Input, Move, Timer, step
from backend.links.record import LinkRecord, new_record
from backend.links.runner import Runner
from backend.links.scribe import Scribe
from backend.links.snapshot import LinkState, Snapshot
from backend.links.timers import Struck, Timers
from backend.telemetry import redaction

log = structlog.get_logger(__name__)

_LOSSES: Final = frozenset(
    {
        Input.OFFLINE,
        Input.WORKER_DIED,
        Input.WORKER_HUNG,
        Input.UNREACHABLE,
        Input.UNREACHABLE_FOR_LONG,
        Input.FOUND_OFFLINE,
    }
)
_GAINS: Final = frozenset({Input.ONLINE, Input.FOUND_ONLINE})
_DAMPED: Final = _LOSSES | _GAINS | {Input.KEEPALIVE_LOST, Input.KEEPALIVE_RESTORED, Input.GRACE_OVER}

_KEYS_LOST: Final = frozenset({"store_missing", "store_corrupt"})


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


class Link:
    """One key's link, from its first start on. Its session may end and another begin; the link stays."""

    def __init__(self, key: BotKey, house: House, record: LinkRecord | None = None) -> None:
        self.key = key
        self._house = house
        self._settings = house.settings
        self._clock = house.clock
        self._record = record
        self._code: Code | None = None
        self._phone_wanted: str | None = None
        self._traceparent: str | None = None
        self._seed = hashlib.sha256(msgspec.json.encode(key)).hexdigest()
        self._timing = False
        self._flooded = False
        self.inbox: Inbox[Report | Struck | Finding | Command] = Inbox(self._handle, self._broken)
        self.timers = Timers(house.clock, self._strike)
        self.runner = Runner(house.driver, house.slots, house.clock, self.report)
        self.judge = Judge(house.settings, house.retries)
        self.damper = Damper(house.settings.flap_limit, house.settings.flap_window)
        self.scribe = Scribe(house, record)
        self.restarts = 0
        self._moved = asyncio.Event()
        if record is not None and self._comes_back(record):
            # Silent and in memory only: for the frontend it is not a new link, only not back yet.
            self._record = msgspec.structs.replace(record, state=LinkState.CONNECTING, since=house.clock.now())

    # what others see

    @property
    def state(self) -> LinkState:
        return LinkState.IDLE if self._record is None else self._record.state

    @property
    def record(self) -> LinkRecord | None:
        return self._record

    def snapshot(self) -> Snapshot:
        record = self._record
        shared = record is not None and record.also_linked and self._house.shared(record.phone_number)
        return faces.snapshot(self.key, record, self._code, self._clock.now(), shared)

    def view(self) -> LinkView | None:
        """None while there was never a link."""
        return None if self._record is None else faces.view(self._record, self)

    @property
    def worker_pid(self) -> int | None:
        return self.runner.pid

    @property
    def flaps(self) -> int:
        return self.damper.flaps

    @property
    def flapping(self) -> bool:
        return self.damper.flapping

    @property
    def waiting(self) -> int:
        return len(self.inbox)

    @property
    def stalled(self) -> bool:
        return self.scribe.stalled

    async def leaves(self, state: LinkState, within: float) -> bool:
        """Wait until the link is in another state; False when that took more than `within` seconds."""
        end = self._clock.now() + within
        handle = self._clock.call_later(within, self._moved.set)
        try:
            while self.state is state and self._clock.now() < end:
                self._moved.clear()
                await self._moved.wait()
        finally:
            handle.cancel()
        return self.state is not state

    # what others ask

    async def order(self, order: Order, phone_number: str | None = None, traceparent: str | None = None) -> None:
        """Carry out an order, after what waits before it. Raises `LinkError`."""
        if self.scribe.stalled:
            raise self.scribe.refusal()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.inbox.put(Command(order, done, phone_number, traceparent)):
            raise LinkError("shutting_down", "The server is shutting down.", 503, 5)
        await done

    def report(self, report: Report) -> None:
        """What the session said."""
        if self._flooded:
            return
        if self.judge.flooding(self._clock.now()):
            self._flooded = True
            log.error("session_floods", link_id=self._record and self._record.link_id)
            self.found(Input.WORKER_DIED)
            return
        self.inbox.put(report)

    def found(self, cause: Input) -> None:
        """What a watch over the session found."""
        self.inbox.put(Finding(cause, self.runner.starts))

    async def close(self) -> None:
        """End the session, keep everything."""
        self.timers.drop_all()
        await self.inbox.close()
        await self.runner.stop(self._record.link_id if self._record else "")

    # the serial queue

    def _strike(self, struck: Struck) -> None:
        self.inbox.put(struck)

    def _broken(self, item: Report | Struck | Finding | Command, error: Exception) -> None:
        if isinstance(item, Command) and not item.done.done():
            item.done.set_exception(error)
            if isinstance(error, LinkError):
                return
        link_id = self._record and self._record.link_id
        log.error("link_step_failed", link_id=link_id, item=type(item).__name__, error=redaction.message_of(error))

    async def _handle(self, item: Report | Struck | Finding | Command) -> None:
        if isinstance(item, Command):
            await self._obey(item)
            if not item.done.done():
                item.done.set_result(None)
        elif isinstance(item, Struck):
            if self.timers.take(item):
                await self._deadline(item.timer)
        elif self._record is None or self.state in ENDED:
            pass  # the session is being ended and says its last words
        elif isinstance(item, Finding):
            if item.starts == self.runner.starts:
                await self._checked(item.cause)
        else:
            if isinstance(item, d.Outdated):
                self._house.outdated = True
            _note(self._record.link_id, item)
            await self._happen(self.judge.judge(item, self._record.paired, self._clock.now()), item)

    async def _checked(self, cause: Input) -> None:
        if cause in (Input.FOUND_OFFLINE, Input.FOUND_ONLINE, Input.WORKER_HUNG):
            log.warning(
                "link_corrected", link_id=self._record and self._record.link_id, state=self.state, found=cause.name
            )
            self._house.meter.correction()
        if cause in (Input.WORKER_DIED, Input.WORKER_HUNG):
            cause = self.judge.died(cause, self._clock.now())
        await self._happen(cause, None)

    async def _deadline(self, timer: Timer) -> None:
        if timer is Timer.STUCK:
            if self.runner.session is None:  # waits for its turn or for the next try
                self.timers.arm(Timer.STUCK, self._settings.stuck_timeout)
                return
            await self._happen(self.judge.died(Input.WORKER_HUNG, self._clock.now()), None)
        elif timer is Timer.CALM:
            self.damper.calm()
            await self._happen(Input.CALM_ONLINE if self.damper.online else Input.CALM_OFFLINE, None)
        else:
            causes = {
                Timer.PAIRING: Input.PAIRING_OVER,
                Timer.PAIRED: Input.PAIRING_INCOMPLETE,
                Timer.GRACE: Input.GRACE_OVER,
            }
            await self._happen(causes[timer], None)

    async def _obey(self, command: Command) -> None:
        match command.order:
            case Order.START:
                await self._start(command.phone_number, command.traceparent)
            case Order.LOGOUT:
                if self._record is not None:
                    await self._apply(Input.LOGOUT, step(self.state, Input.LOGOUT), None, patient=False)
            case Order.RESTORE:
                await self._come_back()

    # start and restore

    async def _start(self, phone_number: str | None, traceparent: str | None) -> None:
        move = step(self.state, Input.START)
        if move.fate is not Fate.START:
            return
        now = self._clock.now()
        old = self._record
        self._admit(old, now)
        keys_kept = old is not None and old.paired and old.reason_code not in _KEYS_LOST
        if old is not None and keys_kept:
            record = msgspec.structs.replace(
                old, state=move.to, since=now, started_at=now, reason_code=None, banned_until=None
            )
        else:
            record = new_record(self.key, now)
        self._traceparent = traceparent
        await self.scribe.begin(record, traceparent)
        if old is not None and not keys_kept:
            self._house.release(old.phone_number, self.key)
            await self.scribe.forget(old)
        self._phone_wanted = phone_number
        self._timing = True
        self.judge.forgive()
        self.damper.reset()
        self._enter(record, move, None)
        await self._begin()

    def _admit(self, old: LinkRecord | None, now: float) -> None:
        if self._house.outdated:
            raise LinkError("client_outdated", "WhatsApp no longer accepts this version; it must be updated.", 503)
        if old is not None and old.banned_until is not None and old.banned_until > now:
            rest = old.banned_until - now
            raise LinkError("banned", "WhatsApp blocked this account; it can be linked when the block ends.", 409, rest)

    @staticmethod
    def _comes_back(record: LinkRecord) -> bool:
        """Whether a restart of the program brings the session back."""
        if not record.paired or record.reason_code in _KEYS_LOST or record.reason_code == "connect_failure":
            return False
        return step(record.state, Input.RESTORE).to is LinkState.CONNECTING

    async def _come_back(self) -> None:
        record = self._record
        if record is None or record.state not in LIVE:
            return
        if record.paired:
            self._house.meter.transition(LinkState.CONNECTING, "restored")
            await self._begin()
        else:  # its codes died with the process that showed them
            await self._happen(Input.CODES_USED_UP, None)

    async def _begin(self, delay: float = 0.0) -> None:
        """Start a session in `delay` seconds."""
        record = self._record
        assert record is not None  # noqa: S101  only a link has sessions
        self._flooded = False
        if self._house.outdated:
            self.inbox.put(d.Outdated())
            return
        if record.paired and (condition := await self.scribe.condition(record)) is not Condition.GOOD:
            missing = condition is Condition.MISSING
            await self._happen(Input.STORE_MISSING if missing else Input.STORE_CORRUPT, None)
            return
        if STATE_TIMERS.get(self.state) is Timer.STUCK:
            self.timers.arm(Timer.STUCK, delay + self._settings.stuck_timeout)
        phone = None if record.paired else self._phone_wanted
        path = self._house.store.path(record)
        self.runner.begin(d.SessionSpec(record.link_id, path, phone, self._traceparent, self._seed), delay)

    # one step

    async def _happen(self, cause: Input, report: Report | None) -> None:
        now = self._clock.now()
        move = step(self.state, cause)
        if cause in _LOSSES and self.damper.lost(now) and self.state in UP | {LinkState.DISCONNECTED}:
            log.warning("link_flaps", link_id=self._record and self._record.link_id)
            await self._apply(Input.FLAPPING, step(self.state, Input.FLAPPING)._replace(fate=move.fate), None)
            return
        if cause in _GAINS and self.damper.came(now):
            self._house.meter.flap()
        if self.damper.flapping and cause in _DAMPED:
            self.timers.arm(Timer.CALM, self._settings.flap_calm)
            await self._decide(move.fate)
            return
        await self._apply(cause, move, report)

    async def _apply(self, cause: Input, move: Move, report: Report | None, patient: bool = True) -> None:
        record = self._record
        assert record is not None  # noqa: S101  nothing happens to nothing
        now = self._clock.now()
        new = after(record, cause, move, report, now)
        says = move.says
        if move.if_news and not is_news(record, new):
            says = None
        code = faces.code_of(report, now) if move.says in SECRET_TYPES else None
        if new.phone_number is not None and new.phone_number != record.phone_number:
            new = self._claimed(new)
        if says is not None or new != record:
            payload = None if says is None else faces.payload(says, new, code, first=not record.connected_before)
            ends = None if code is None else code.ends
            await self.scribe.write(record, new, payload, ends, self._traceparent, patient=patient)
        if record.paired and not new.paired:
            self._house.release(record.phone_number, self.key)
        self._enter(new, move, code)
        if new.state is LinkState.CONNECTED is not record.state:
            await self.scribe.secure(new)
        # Only a paired device can be removed from an account; a pairing just ends.
        await self._decide(Fate.FORGET if move.fate is Fate.LOGOUT and not record.paired else move.fate)

    def _claimed(self, record: LinkRecord) -> LinkRecord:
        assert record.phone_number is not None  # noqa: S101  the caller looked
        shared = self._house.claim(record.phone_number, self.key)
        if shared:
            log.warning("account_linked_twice", link_id=record.link_id)
        return msgspec.structs.replace(record, also_linked=shared)

    def _enter(self, new: LinkRecord, move: Move, code: Code | None) -> None:
        """The state moves: what depends on it follows."""
        before = self.state
        self._record = new
        if move.to not in SHOWING or code is not None:
            self._code = code
        if move.to is not before:
            if not (before in SHOWING and move.to in SHOWING):
                self.timers.drop_all()
                if (timer := STATE_TIMERS.get(move.to)) is not None:
                    self.timers.arm(timer, self._lasts(timer))
            reason = move.reason.value if move.reason else ""
            self._house.meter.transition(move.to, reason)
            log.info("link_state", link_id=new.link_id, state=move.to.value, reason=reason, before=before.value)
        if move.disarm is not None:
            self.timers.drop(move.disarm)
        if move.arm is not None and not self.timers.armed(move.arm):
            if move.arm is Timer.CALM:
                self.timers.drop(Timer.GRACE)
            self.timers.arm(move.arm, self._lasts(move.arm))
        if move.to in ENDED:
            self.damper.reset()
        if move.to is LinkState.CONNECTED and self._timing:
            self._timing = False
            self._house.meter.pairing_seconds(self._clock.now() - new.started_at)
        self._moved.set()

    def _lasts(self, timer: Timer) -> float:
        s = self._settings
        return {
            Timer.PAIRING: s.pairing_timeout,
            Timer.PAIRED: s.paired_timeout,
            Timer.GRACE: s.disconnect_grace,
            Timer.STUCK: s.stuck_timeout,
            Timer.CALM: s.flap_calm,
        }[timer]

    async def _decide(self, fate: Fate) -> None:
        """What becomes of the session."""
        record = self._record
        assert record is not None  # noqa: S101  the caller moved it
        match fate:
            case Fate.KEEP:
                pass
            case Fate.START:
                await self._begin()
            case Fate.RETRY:
                await self.runner.stop(record.link_id)
                self.restarts += 1
                self._house.meter.restart()
                await self._begin(self.judge.delay(self._clock.now()))
            case Fate.CHECK:
                self._house.check_soon(self.key)
            case Fate.LOGOUT:
                await self.runner.logout(record.link_id)
                await self.scribe.forget(record)
            case Fate.STOP | Fate.FORGET:
                await self.runner.stop(record.link_id)
                if fate is Fate.FORGET or not record.paired:
                    await self.scribe.forget(record)


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
