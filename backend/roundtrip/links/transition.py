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
from msgspec.structs import replace

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Exit, Report
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.events import SECRET_TYPES
from roundtrip.identity import BotKey
from roundtrip.links import payloads as faces
from roundtrip.links.context import LinkContext
from roundtrip.links.machine import (
    ENDED,
    LIVE,
    SHOWING,
    STATE_TIMERS,
    UP,
    Effect,
    Input,
    Reason,
    Timer,
    Transition,
    step,
)
from roundtrip.links.payloads import LinkingCode
from roundtrip.links.policy import Ban, FlapDamper, RetryPolicy
from roundtrip.links.queue import ExpiredTimer, Timers
from roundtrip.links.record import DeviceState, LinkRecord, LinkState, Removal
from roundtrip.links.session import SessionRunner
from roundtrip.links.writer import LinkWriter

log = structlog.get_logger(__name__)

_LOSSES: Final = frozenset(
    {
        Input.OFFLINE,
        Input.WORKER_DIED,
        Input.WORKER_HUNG,
        Input.UNREACHABLE,
        Input.UNREACHABLE_FOR_LONG,
        Input.WORKER_KEEPS_DYING,
        Input.FOUND_OFFLINE,
        Input.SILENT,
    }
)
_GAINS: Final = frozenset({Input.ONLINE})
_PINGS: Final = frozenset({Input.KEEPALIVE_LOST, Input.KEEPALIVE_RESTORED})
_DAMPED: Final = _LOSSES | _GAINS | _PINGS | {Input.GRACE_OVER}

NEXT_CODE_SLACK: Final = 10.0
"""Seconds past the end of a code in which the next may come."""
LAST_CODE_SLACK: Final = 1.0
"""The same past the last: the library may say itself that it is over."""
AFTER_BAN: Final = 1.0
LONGEST_BAN: Final = 366 * 86400.0
LOOK_AGAIN: Final = 60.0
"""Seconds between two looks at what keeps an account away; each costs nothing but the look."""


class Lifecycle:
    """Not for concurrent use: `link.py` feeds it one thing at a time. `report` takes what the session says, `on_stall`
    is called when an event cannot be stored and everything waits for that.
    """

    def __init__(
        self,
        key: BotKey,
        context: LinkContext,
        record: LinkRecord | None,
        report: Callable[[Report], None],
        strike: Callable[[ExpiredTimer], object],
        on_stall: Callable[[], None],
    ) -> None:
        self._key = key
        self._context = context
        self._clock = context.clock
        self._seed = hashlib.sha256(msgspec.json.encode(key)).hexdigest()
        self.record = record
        self.code: LinkingCode | None = None
        self.timers = Timers(context.clock, strike)
        self.runner = SessionRunner(
            context.driver, context.start_slots, key.user_id, context.clock, report, context.metrics, context.tracer
        )
        self.policy = RetryPolicy(context.settings, context.retries)
        self.damper = FlapDamper(context.settings.flap_limit, context.settings.flap_window)
        self.writer = LinkWriter(context, record, on_stall)
        self.restarts = 0
        self.moved = asyncio.Event()
        """Set with every step."""
        self.phone_wanted: str | None = None
        self.traceparent: str | None = None
        self.started: float | None = None
        """When the link was asked for, on the monotonic clock, until its first connection."""
        self.ailing = False
        """Whether the connection that stands leaves pings unanswered."""
        self.rejected = False
        """Whether WhatsApp does not know the keys: looking at their file again is no use."""

    @property
    def state(self) -> LinkState:
        return LinkState.IDLE if self.record is None else self.record.state

    async def begin(self, delay: float = 0.0) -> None:
        """Start a session in `delay` seconds."""
        record = self.record
        assert record is not None  # noqa: S101  only a link has sessions
        number = record.phone_number if record.paired else self.phone_wanted
        if (ban := self._context.bans.of(number)) is not None:
            await self._banned(ban)
            return
        if not self._context.may_start(self._clock.monotonic()):
            await self.happen(Input.OUTDATED, None)
            return
        if record.paired and (condition := await self.writer.key_state(record)) is not KeyFileState.GOOD:
            missing = condition is KeyFileState.MISSING
            await self.happen(Input.STORE_MISSING if missing else Input.STORE_CORRUPT, None)
            return
        timers = STATE_TIMERS.get(self.state, ())
        if Timer.STUCK in timers:
            self.timers.arm(Timer.STUCK, delay + self._context.settings.stuck_timeout)
        if Timer.UNREACHED in timers and not self.timers.armed(Timer.UNREACHED):
            self.timers.arm(Timer.UNREACHED, self._context.settings.unreachable_after)
        phone = None if record.paired else self.phone_wanted
        path = self._context.store.key_file(record.link_id)
        self.runner.begin(d.SessionSpec(record.link_id, path, phone, self.traceparent, self._seed), delay)

    def wait_on(self) -> None:
        """After a restart of the program: the deadlines of a state that no session stands behind."""
        if self.record is not None and self.record.paired and self.state in ENDED:
            for timer in STATE_TIMERS.get(self.state, ()):
                self.timers.arm(timer, self._lasts(timer))

    async def happen(self, cause: Input, report: Report | None) -> None:
        now = self._clock.monotonic()
        if cause in _PINGS:
            if not self.damper.online:
                return  # about a connection that is gone
            self.ailing = cause is Input.KEEPALIVE_LOST
        move = step(self.state, cause)
        was_online = self.damper.online
        if cause in _LOSSES:
            self.ailing = False
            if self.damper.lost(now) and self.state in UP | {LinkState.DISCONNECTED}:
                log.warning("link_flaps", link_id=self.record and self.record.link_id)
                await self.apply(cause, step(self.state, Input.FLAPPING)._replace(effect=move.effect), None)
                return
        if cause in _GAINS:
            await self._gained(report)
        if self.damper.flapping and cause in _DAMPED:
            await self._damp(cause, move, changed=self.damper.online is not was_online)
        elif cause is Input.BANNED and isinstance(report, d.TemporaryBan):
            await self._banned(self._ban(report))
        else:
            await self.apply(cause, move, report)
            if isinstance(report, d.PairSucceeded) and (ban := self._context.bans.of(report.phone_number)) is not None:
                await self._banned(ban)

    async def _gained(self, report: Report | None) -> None:
        """The connection stands: what was held against this version, or this number, is over."""
        self.ailing = False
        self._context.outdated = False
        if self.damper.came(self._clock.monotonic()):
            self._context.metrics.flap()
        if isinstance(report, d.Online):
            await self.writer.lift_ban(report.phone_number)

    async def _damp(self, cause: Input, move: Transition, *, changed: bool) -> None:
        """Something that a flapping link says nobody."""
        # Only what comes or goes puts off the calm: a link that is gone for good is soon told as that.
        if changed or not self.timers.armed(Timer.CALM):
            self.timers.arm(Timer.CALM, self._context.settings.flap_calm)
        if self.ailing and not self.timers.armed(Timer.SILENT):
            self.timers.arm(Timer.SILENT, self._context.settings.degraded_timeout)
        await self.decide(move.effect, cause)

    def _ban(self, report: d.TemporaryBan) -> Ban:
        now, lasts = self._clock.now(), report.expires_in
        if lasts is None or not lasts > 0.0:
            return Ban(report.code, now, None, now + self._context.settings.ban_cooldown)
        end = now + min(lasts, LONGEST_BAN)
        return Ban(report.code, now, end, end)

    async def _banned(self, ban: Ban) -> None:
        record = self.record
        assert record is not None  # noqa: S101  only a link is banned
        move = step(self.state, Input.BANNED)
        if move.to is not LinkState.BANNED or self.state is LinkState.BANNED:
            return
        if (number := record.phone_number if record.paired else self.phone_wanted) is not None:
            await self.writer.save_ban(number, ban)
        await self.apply(Input.BANNED, move, d.TemporaryBan(ban.code, None), ban)

    async def apply(self, cause: Input, move: Transition, report: Report | None, ban: Ban | None = None) -> None:
        record = self.record
        assert record is not None  # noqa: S101  nothing happens to nothing
        new = after(record, cause, move, report, self._clock.now(), ban)
        self.rejected = cause is Input.KEYS_REJECTED
        code = None
        if move.says in SECRET_TYPES:
            code = faces.linking_code(report, self._clock.now(), self._clock.monotonic())
        if new.phone_number is not None and new.phone_number != record.phone_number:
            self._context.release(record.phone_number, self._key)
            self._context.claim(new.phone_number, self._key)
        new = msgspec.structs.replace(new, also_linked=self.linked_elsewhere(new))
        says = None if move.if_news and not is_news(record, new) else move.says
        if says is not None or new != record:
            payload = None if says is None else faces.payload(says, new, code, first=not record.connected_before)
            ends = None if code is None else code.expires_at
            await self.writer.write(record, new, payload, ends, self.traceparent)
        if record.paired and not new.paired:
            self._context.release(record.phone_number, self._key)
        self.enter(new, move, code)
        if new.state is LinkState.CONNECTED is not record.state:
            await self.writer.secure(new)
        # Only a paired device can be removed from an account; a pairing just ends.
        await self.decide(Effect.FORGET if move.effect is Effect.LOGOUT and not record.paired else move.effect, cause)

    def linked_elsewhere(self, record: LinkRecord) -> bool:
        """Whether another key has the account, or, before it is paired, another of this user's keys the number that was
        asked for: what others link is nobody's business.
        """
        if record.paired:
            return self._context.linked_elsewhere(record.phone_number, self._key)
        return record.state in LIVE and self._context.linked_elsewhere(self.phone_wanted, self._key, own=True)

    async def log_out(self) -> None:
        """Somebody ends the link. The device is removed at once, or soon, or as soon as WhatsApp can be reached.

        Raises `LinkError`, and then nothing was done.
        """
        record = self.record
        if record is None or step(self.state, Input.LOGOUT).effect is not Effect.LOGOUT:
            return
        await self.writer.ready()
        if record.paired:
            self.record = msgspec.structs.replace(record, device=await self._remove(record))
        await self.apply(Input.LOGOUT, step(self.state, Input.LOGOUT), None)

    async def _remove(self, record: LinkRecord) -> DeviceState:
        removals = self._context.removals
        if self.runner.session is None and await self.writer.key_state(record) is KeyFileState.MISSING:
            return DeviceState.KEPT
        now = self._clock.now()
        until = now + self._context.settings.removal_period
        removal = Removal(self._key, record.link_id, record.phone_number, now, until)
        await self.writer.save_removal(removal)
        online = self.damper.online
        removed = await removals.begin(removal, await self.runner.hand_over(), online=online)
        if removed is None:
            return DeviceState.REMOVING
        return DeviceState.REMOVED if removed else DeviceState.KEPT

    def enter(self, new: LinkRecord, move: Transition, code: LinkingCode | None) -> None:
        """The state moves: what depends on it follows."""
        before = self.state
        self.record = new
        if move.to not in SHOWING or code is not None:
            self.code = code
        if move.to is not before:
            self._turn_timers(new)
            if move.to is not LinkState.DEGRADED:
                self.damper.flapping = False
            reason = move.reason.value if move.reason else ""
            self._context.metrics.transition(move.to, reason)
            log.info("link_state", link_id=new.link_id, state=move.to.value, reason=reason, before=before.value)
        if code is not None:
            last = code.index is None or code.total is None or code.index >= code.total
            self.timers.arm(Timer.PAIRING, code.ttl + (LAST_CODE_SLACK if last else NEXT_CODE_SLACK))
        if move.disarm is not None:
            self.timers.drop(move.disarm)
        if move.arm is not None and not self.timers.armed(move.arm):
            if move.arm is Timer.CALM:
                self.timers.drop(Timer.GRACE)
            self.timers.arm(move.arm, self._lasts(move.arm))
        if move.to in ENDED:
            self.damper.reset()
        if move.to is LinkState.CONNECTED and self.started is not None:
            self._context.metrics.pairing_seconds(self._clock.monotonic() - self.started)
            self.started = None
        self.moved.set()

    def _turn_timers(self, new: LinkRecord) -> None:
        wanted = STATE_TIMERS.get(new.state, ())
        keep = {Timer.STUCK} & set(wanted)  # a dial that hangs does not begin to hang anew
        if new.state in LIVE and not new.paired:
            keep |= {Timer.PATIENCE}
        self.timers.drop_all(keep)
        for timer in wanted:
            if (new.paired or timer not in (Timer.BAN, Timer.AGAIN)) and not self.timers.armed(timer):
                self.timers.arm(timer, self._lasts(timer))

    def _lasts(self, timer: Timer) -> float:
        s = self._context.settings
        # A library that was in before tries by itself: leave it its own time.
        away = self.state is LinkState.DISCONNECTED and self.runner.spoken
        return {
            Timer.PAIRING: s.pairing_timeout,
            Timer.PATIENCE: s.pairing_patience,
            Timer.LOGIN: s.login_timeout,
            Timer.PAIRED: s.paired_timeout,
            Timer.UNREACHED: s.unreachable_after,
            Timer.GRACE: s.disconnect_grace,
            Timer.STUCK: s.reconnect_timeout if away else s.stuck_timeout,
            Timer.SILENT: s.degraded_timeout,
            Timer.CALM: s.flap_calm,
            Timer.BAN: self.ban_left() + AFTER_BAN,
            Timer.AGAIN: LOOK_AGAIN,
        }[timer]

    def again(self, timer: Timer) -> None:
        """Set a deadline anew."""
        self.timers.arm(timer, self._lasts(timer))

    def ban_left(self) -> float:
        """Seconds that a banned link still waits."""
        record = self.record
        if record is None or record.state is not LinkState.BANNED:
            return 0.0
        if record.phone_number is not None and (left := self._context.bans.left(record.phone_number)) > 0.0:
            return left
        over = record.retry_at or record.banned_until or record.since + self._context.settings.ban_cooldown
        return Ban(0, record.since, None, over).left(self._clock.now())

    async def decide(self, effect: Effect, cause: Input) -> None:
        """What becomes of the session."""
        record = self.record
        assert record is not None  # noqa: S101  the caller moved it
        match effect:
            case Effect.KEEP:
                pass
            case Effect.START:
                await self.begin()
            case Effect.RETRY:
                await self._retry(record, cause)
            case Effect.CHECK:
                self._context.request_check(self._key)
            case Effect.LOGOUT:
                await self.runner.stop(record.link_id)
                await self.writer.delete_keys(record)
            case Effect.STOP | Effect.FORGET:
                await self.runner.stop(record.link_id)
                if effect is Effect.FORGET or not record.paired:
                    await self.writer.delete_keys(record)

    async def _retry(self, record: LinkRecord, cause: Input) -> None:
        await self.runner.stop(record.link_id, Exit.UNRESPONSIVE if cause is Input.WORKER_HUNG else Exit.STOPPED)
        self.damper.online = self.ailing = False  # the next session has to say it anew
        if cause is not Input.CHANGE:
            self.restarts += 1
            self._context.metrics.restart()
        await self.begin(self.policy.delay(self._clock.monotonic()))


_DEVICE: Final = {Input.DEVICE_REMOVED: DeviceState.REMOVED, Input.DEVICE_KEPT: DeviceState.KEPT}


def after(
    record: LinkRecord, cause: Input, move: Transition, report: Report | None, now: float, ban: Ban | None = None
) -> LinkRecord:
    """The record as it will be once `move` is made. `now` is in seconds since the epoch, `ban` what a BANNED means."""
    new = record
    if isinstance(report, d.PairSucceeded):
        new = replace(new, paired=True, phone_number=report.phone_number)
    if isinstance(report, d.Online):
        name = report.display_name or record.display_name  # right after pairing it may not be known yet
        new = replace(new, paired=True, phone_number=report.phone_number, display_name=name)
    if move.to is LinkState.BANNED and ban is not None:
        new = replace(new, banned_until=ban.until, retry_at=ban.over)
    if move.to is LinkState.LOGGED_OUT:
        new = replace(new, device=_DEVICE.get(cause, record.device))
    if move.to is LinkState.CONNECTED:
        new = replace(new, connected_before=True)
    if move.to is not record.state:
        new = replace(new, state=move.to, since=now)
    if move.says is not None:
        why = Input.FLAPPING if move.reason is Reason.FLAPPING else cause
        new = replace(new, reason_code=faces.reason_code(why, report, record.paired))
    if move.effect in (Effect.FORGET, Effect.LOGOUT):
        new = replace(new, paired=False, phone_number=None, display_name=None, also_linked=False)
    return new


def is_news(old: LinkRecord, new: LinkRecord) -> bool:
    """Whether a state that goes on now says something else about itself."""
    return _told(old) != _told(new)


def _told(record: LinkRecord) -> tuple[object, ...]:
    return record.phone_number, record.display_name, record.reason_code, record.also_linked, record.device
