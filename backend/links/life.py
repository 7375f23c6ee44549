"""One link's state, and what follows when something happens to it: the table of `machine.py`, put into practice.

An event is committed before the state moves, so nobody sees a state whose event could still be lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
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
from backend.links.faces import Code
from backend.links.files import Condition
from backend.links.house import House
from backend.links.judge import Judge
from backend.links.machine import ENDED, SHOWING, STATE_TIMERS, UP, Fate, Input, Move, Timer, step
from backend.links.record import LinkRecord
from backend.links.runner import Runner
from backend.links.scribe import Scribe
from backend.links.snapshot import LinkState
from backend.links.timers import Struck, Timers
from backend.links.worker_life import Exit

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


class Life:
    """Not for concurrent use: `link.py` feeds it one thing at a time. `report` takes what the session says."""

    def __init__(
        self,
        key: BotKey,
        house: House,
        record: LinkRecord | None,
        report: Callable[[Report], None],
        strike: Callable[[Struck], object],
    ) -> None:
        self._key = key
        self._house = house
        self._clock = house.clock
        self._seed = hashlib.sha256(msgspec.json.encode(key)).hexdigest()
        self._report = report
        self.record = record
        self.code: Code | None = None
        self.timers = Timers(house.clock, strike)
        self.runner = Runner(house.driver, house.slots, house.clock, report, house.meter, house.tracer)
        self.judge = Judge(house.settings, house.retries)
        self.damper = Damper(house.settings.flap_limit, house.settings.flap_window)
        self.scribe = Scribe(house, record)
        self.restarts = 0
        self.moved = asyncio.Event()
        """Set with every step."""
        self.phone_wanted: str | None = None
        self.traceparent: str | None = None
        self.timing = False
        """Whether the time from the start to the first connection is being taken."""

    @property
    def state(self) -> LinkState:
        return LinkState.IDLE if self.record is None else self.record.state

    async def begin(self, delay: float = 0.0) -> None:
        """Start a session in `delay` seconds."""
        record = self.record
        assert record is not None  # noqa: S101  only a link has sessions
        if self._house.outdated:
            self._report(d.Outdated())
            return
        if record.paired and (condition := await self.scribe.condition(record)) is not Condition.GOOD:
            missing = condition is Condition.MISSING
            await self.happen(Input.STORE_MISSING if missing else Input.STORE_CORRUPT, None)
            return
        if STATE_TIMERS.get(self.state) is Timer.STUCK:
            self.timers.arm(Timer.STUCK, delay + self._house.settings.stuck_timeout)
        phone = None if record.paired else self.phone_wanted
        path = self._house.store.path(record)
        self.runner.begin(d.SessionSpec(record.link_id, path, phone, self.traceparent, self._seed), delay)

    async def happen(self, cause: Input, report: Report | None) -> None:
        now = self._clock.now()
        move = step(self.state, cause)
        if cause in _LOSSES and self.damper.lost(now) and self.state in UP | {LinkState.DISCONNECTED}:
            log.warning("link_flaps", link_id=self.record and self.record.link_id)
            await self.apply(cause, step(self.state, Input.FLAPPING)._replace(fate=move.fate), None)
            return
        if cause in _GAINS and self.damper.came(now):
            self._house.meter.flap()
        if self.damper.flapping and cause in _DAMPED:
            self.timers.arm(Timer.CALM, self._house.settings.flap_calm)
            await self.decide(move.fate, cause)
            return
        await self.apply(cause, move, report)

    async def apply(self, cause: Input, move: Move, report: Report | None, patient: bool = True) -> None:
        record = self.record
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
            await self.scribe.write(record, new, payload, ends, self.traceparent, patient=patient)
        if record.paired and not new.paired:
            self._house.release(record.phone_number, self._key)
        self.enter(new, move, code)
        if new.state is LinkState.CONNECTED is not record.state:
            await self.scribe.secure(new)
        # Only a paired device can be removed from an account; a pairing just ends.
        await self.decide(Fate.FORGET if move.fate is Fate.LOGOUT and not record.paired else move.fate, cause)

    def _claimed(self, record: LinkRecord) -> LinkRecord:
        assert record.phone_number is not None  # noqa: S101  the caller looked
        shared = self._house.claim(record.phone_number, self._key)
        if shared:
            log.warning("account_linked_twice", link_id=record.link_id)
        return msgspec.structs.replace(record, also_linked=shared)

    def enter(self, new: LinkRecord, move: Move, code: Code | None) -> None:
        """The state moves: what depends on it follows."""
        before = self.state
        self.record = new
        if move.to not in SHOWING or code is not None:
            self.code = code
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
        if move.to is LinkState.CONNECTED and self.timing:
            self.timing = False
            self._house.meter.pairing_seconds(self._clock.now() - new.started_at)
        self.moved.set()

    def _lasts(self, timer: Timer) -> float:
        s = self._house.settings
        # A library that was in before tries by itself: leave it more time than one that says nothing at all.
        away = self.state is LinkState.DISCONNECTED and self.runner.spoken
        return {
            Timer.PAIRING: s.pairing_timeout,
            Timer.PAIRED: s.paired_timeout,
            Timer.GRACE: s.disconnect_grace,
            Timer.STUCK: s.reconnect_timeout if away else s.stuck_timeout,
            Timer.CALM: s.flap_calm,
        }[timer]

    async def decide(self, fate: Fate, cause: Input) -> None:
        """What becomes of the session."""
        record = self.record
        assert record is not None  # noqa: S101  the caller moved it
        match fate:
            case Fate.KEEP:
                pass
            case Fate.START:
                await self.begin()
            case Fate.RETRY:
                await self.runner.stop(
                    record.link_id, Exit.UNRESPONSIVE if cause is Input.WORKER_HUNG else Exit.STOPPED
                )
                self.restarts += 1
                self._house.meter.restart()
                await self.begin(self.judge.delay(self._clock.now()))
            case Fate.CHECK:
                self._house.check_soon(self._key)
            case Fate.LOGOUT:
                await self.runner.logout(record.link_id)
                await self.scribe.forget(record)
            case Fate.STOP | Fate.FORGET:
                await self.runner.stop(record.link_id)
                if fate is Fate.FORGET or not record.paired:
                    await self.scribe.forget(record)
