"""Applies the rows of `transition_table.py` to one link: its event, record, timers and session.

An event is committed before the state changes, so nobody sees a state whose event could still be lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import msgspec
import structlog
from msgspec.structs import replace

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Exit, Report
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.events import SECRET_TYPES
from roundtrip.identity import BotKey
from roundtrip.links import payloads
from roundtrip.links.context import LinkContext
from roundtrip.links.machine import ENDED, LIVE, SHOWING, STATE_TIMERS, UP, Effect, Input, Timer, Transition
from roundtrip.links.payloads import LinkingCode
from roundtrip.links.policy import DAMPED, LOSSES, PINGS, Ban, FlapDamper, RetryPolicy, code_slack, timer_duration
from roundtrip.links.queue import ExpiredTimer, Timers
from roundtrip.links.record import DeviceState, LinkRecord, LinkState, Removal
from roundtrip.links.session import SessionRunner
from roundtrip.links.transition_table import content_changed, record_after, step
from roundtrip.links.writer import LinkWriter

log = structlog.get_logger(__name__)


class Lifecycle:
    """Not for concurrent use: `link.py` feeds it one input at a time. `report` is called with the session's reports,
    `on_expired` with expired timers, `on_stall` when an event cannot be stored and everything waits for that.
    """

    def __init__(
        self,
        key: BotKey,
        context: LinkContext,
        record: LinkRecord | None,
        report: Callable[[Report], None],
        on_expired: Callable[[ExpiredTimer], object],
        on_stall: Callable[[], None],
    ) -> None:
        self._key = key
        self._context = context
        self._clock = context.clock
        self._seed = hashlib.sha256(msgspec.json.encode(key)).hexdigest()
        self.record = record
        self.code: LinkingCode | None = None
        self.timers = Timers(context.clock, on_expired)
        self.runner = SessionRunner(
            context.driver, context.start_slots, key.user_id, context.clock, report, context.tracer
        )
        self.policy = RetryPolicy(context.settings, context.retries)
        self.damper = FlapDamper(context.settings.flap_limit, context.settings.flap_window)
        self.writer = LinkWriter(context, record, on_stall)
        self.restarts = 0
        self.changed = asyncio.Event()
        """Set with every transition."""
        self.phone_wanted: str | None = None
        self.traceparent: str | None = None
        self.started: float | None = None
        """When the link was asked for, on the monotonic clock, until its first connection."""
        self.pings_unanswered = False
        """Whether the present connection leaves pings unanswered."""
        self.keys_rejected = False
        """Whether WhatsApp does not know the keys: checking their file again is no use."""

    @property
    def state(self) -> LinkState:
        return LinkState.IDLE if self.record is None else self.record.state

    async def start_session(self, delay: float = 0.0) -> None:
        """Start a session in `delay` seconds, unless a ban, a refused version or the key file forbids it."""
        record = self.record
        assert record is not None  # noqa: S101  only a link has sessions
        number = record.phone_number if record.paired else self.phone_wanted
        if (ban := self._context.bans.of(number)) is not None:
            await self._enter_ban(ban)
            return
        if not self._context.may_start(self._clock.monotonic()):
            await self.handle(Input.OUTDATED, None)
            return
        if record.paired and (condition := await self.writer.key_state(record)) is not KeyFileState.GOOD:
            missing = condition is KeyFileState.MISSING
            await self.handle(Input.STORE_MISSING if missing else Input.STORE_CORRUPT, None)
            return
        timers = STATE_TIMERS.get(self.state, ())
        if Timer.STUCK in timers:
            self.timers.arm(Timer.STUCK, delay + self._context.settings.stuck_timeout)
        if Timer.UNREACHED in timers and not self.timers.armed(Timer.UNREACHED):
            self.timers.arm(Timer.UNREACHED, self._context.settings.unreachable_after)
        phone = None if record.paired else self.phone_wanted
        path = self._context.store.key_file(record.link_id)
        account = record.phone_number if record.paired else None
        self.runner.start(d.SessionSpec(record.link_id, path, phone, self.traceparent, self._seed, account), delay)

    async def handle(self, cause: Input, report: Report | None) -> None:
        """Make the transition for one input. Raises `IllegalTransitionError`, and then nothing was changed."""
        now = self._clock.monotonic()
        if cause in PINGS and not self.damper.online:
            return  # about a connection that is gone
        move = step(self.state, cause)
        if cause in PINGS:
            self.pings_unanswered = cause is Input.KEEPALIVE_LOST
        was_online = self.damper.online
        if cause in LOSSES:
            self.pings_unanswered = False
            if self.damper.lost(now) and self.state in UP | {LinkState.DISCONNECTED}:
                log.warning("link_flaps", link_id=self.record and self.record.link_id)
                await self.apply(cause, step(self.state, Input.FLAPPING)._replace(effect=move.effect), None)
                return
        if cause is Input.ONLINE:
            await self._connected(report)
        if self.damper.flapping and cause in DAMPED:
            await self._damp(cause, move, changed=self.damper.online is not was_online)
        elif cause is Input.BANNED and isinstance(report, d.TemporaryBan):
            await self._enter_ban(Ban.reported(report, self._clock.now(), self._context.settings.ban_cooldown))
        else:
            await self.apply(cause, move, report)
            if isinstance(report, d.PairSucceeded) and (ban := self._context.bans.of(report.phone_number)) is not None:
                await self._enter_ban(ban)

    async def _connected(self, report: Report | None) -> None:
        """WhatsApp let the session in: neither this version is refused any more, nor this number banned."""
        self.pings_unanswered = False
        self._context.outdated = False
        if self.damper.restored(self._clock.monotonic()):
            self._context.metrics.flap()
        if isinstance(report, d.Online):
            await self.writer.lift_ban(report.phone_number)

    async def _damp(self, cause: Input, move: Transition, *, changed: bool) -> None:
        """An input of a flapping link: only its effect, no event and no change of state."""
        # Only a connection that is lost or restored starts the timer anew: a link that stays away is soon published so.
        if changed or not self.timers.armed(Timer.CALM):
            self.timers.arm(Timer.CALM, self._context.settings.flap_calm)
        if self.pings_unanswered and not self.timers.armed(Timer.SILENT):
            self.timers.arm(Timer.SILENT, self._context.settings.degraded_timeout)
        await self._apply_effect(move.effect, cause)

    async def _enter_ban(self, ban: Ban) -> None:
        record = self.record
        assert record is not None  # noqa: S101  only a link is banned
        if self.state not in LIVE:
            return
        if (number := record.phone_number if record.paired else self.phone_wanted) is not None:
            await self.writer.save_ban(number, ban)
        await self.apply(Input.BANNED, step(self.state, Input.BANNED), d.TemporaryBan(ban.code, None), ban)

    async def log_out(self) -> None:
        """End the link on its user's request. The device is removed at once, or as soon as WhatsApp can be reached.

        Raises `LinkError`, and then nothing was done.
        """
        record = self.record
        if record is None or step(self.state, Input.LOGOUT).effect is not Effect.LOGOUT:
            return
        await self.writer.ready()
        if record.paired:
            self.record = replace(record, device=await self._remove_device(record))
        await self.apply(Input.LOGOUT, step(self.state, Input.LOGOUT), None)

    async def _remove_device(self, record: LinkRecord) -> DeviceState:
        if self.runner.session is None and await self.writer.key_state(record) is KeyFileState.MISSING:
            return DeviceState.KEPT
        now = self._clock.now()
        until = now + self._context.settings.removal_period
        removal = Removal(self._key, record.link_id, record.phone_number, now, until)
        await self.writer.save_removal(removal)
        online = self.damper.online
        return await self._context.removals.begin(removal, await self.runner.detach(), online=online)

    async def apply(self, cause: Input, move: Transition, report: Report | None, ban: Ban | None = None) -> None:
        """Commit what `move` brings, then enter its state, then have its effect on the session."""
        record = self.record
        assert record is not None  # noqa: S101  a link that never began takes no input
        new = record_after(record, cause, move, report, self._clock.now(), ban)
        self.keys_rejected = cause is Input.KEYS_REJECTED or (self.keys_rejected and new.state is record.state)
        code = None
        if move.event in SECRET_TYPES:
            code = payloads.linking_code(report, self._clock.now(), self._clock.monotonic())
        if new.phone_number is not None and new.phone_number != record.phone_number:
            self._context.release(record.phone_number, self._key)
            self._context.claim(new.phone_number, self._key)
        new = replace(new, also_linked=self.linked_elsewhere(new))
        event = None if move.if_changed and not content_changed(record, new) else move.event
        if event is not None or new != record:
            payload = None if event is None else payloads.payload(event, new, code, first=not record.connected_before)
            ends = None if code is None else code.expires_at
            await self.writer.write(record, new, payload, ends, self.traceparent)
        if record.paired and not new.paired:
            self._context.release(record.phone_number, self._key)
        self.enter(new, move, code)
        await self.writer.keep(new)
        if new.state is LinkState.CONNECTED is not record.state:
            await self.writer.secure(new)
        # Only a paired device can be removed from an account; a pairing just ends.
        unpaired = move.effect is Effect.LOGOUT and not record.paired
        await self._apply_effect(Effect.FORGET if unpaired else move.effect, cause)

    def linked_elsewhere(self, record: LinkRecord) -> bool:
        """Whether another key has the account, or, before it is paired, another of this user's keys the requested
        number: what other users link stays unknown.
        """
        if record.paired:
            return self._context.linked_elsewhere(record.phone_number, self._key)
        return record.state in LIVE and self._context.linked_elsewhere(self.phone_wanted, self._key, own=True)

    def enter(self, new: LinkRecord, move: Transition, code: LinkingCode | None) -> None:
        """Enter the state of a committed record: its timers, its code, its metrics."""
        before = self.state
        self.record = new
        if move.to not in SHOWING or code is not None:
            self.code = code
        if move.to is not before:
            self._switch_timers(new)
            if move.to is not LinkState.DEGRADED:
                self.damper.flapping = False
            reason = move.reason.value if move.reason else ""
            self._context.metrics.transition(move.to, reason)
            log.info("link_state", link_id=new.link_id, state=move.to.value, reason=reason, before=before.value)
        if code is not None:
            self.timers.arm(Timer.PAIRING, code.ttl + code_slack(code.index, code.total))
        if move.disarm is not None:
            self.timers.cancel(move.disarm)
        if move.arm is not None and not self.timers.armed(move.arm):
            if move.arm is Timer.CALM:
                self.timers.cancel(Timer.GRACE)
            self.rearm(move.arm)
        if move.to in ENDED:
            self.damper.reset()
        if move.to is LinkState.CONNECTED and self.started is not None:
            self._context.metrics.pairing_seconds(self._clock.monotonic() - self.started)
            self.started = None
        self.changed.set()

    async def _apply_effect(self, effect: Effect, cause: Input) -> None:
        record = self.record
        assert record is not None  # noqa: S101  the caller entered it
        match effect:
            case Effect.KEEP:
                pass
            case Effect.START:
                await self.start_session()
            case Effect.RETRY:
                await self._restart_session(record, cause)
            case Effect.CHECK:
                self._context.request_check(self._key)
            case Effect.STOP | Effect.FORGET | Effect.LOGOUT:
                await self.runner.stop(record.link_id)
                if effect is not Effect.STOP or not record.paired:
                    await self.writer.delete_keys(record)

    async def _restart_session(self, record: LinkRecord, cause: Input) -> None:
        await self.runner.stop(record.link_id, Exit.UNRESPONSIVE if cause is Input.WORKER_HUNG else Exit.STOPPED)
        self.damper.online = self.pings_unanswered = False  # until the next session reports
        if cause is not Input.CHANGE:
            self.restarts += 1
            self._context.metrics.restart()
        await self.start_session(self.policy.delay(self._clock.monotonic()))

    def rearm(self, timer: Timer) -> None:
        """Set a timer for as long as it has in the present state, in place of the one before."""
        reconnecting = self.state is LinkState.DISCONNECTED and self.runner.reported
        ban = self.ban_left() if timer is Timer.BAN else 0.0
        crashes, settings = self.record is not None and self.record.crashes, self._context.settings
        seconds = timer_duration(timer, settings, reconnecting=reconnecting, ban_left=ban, crashes=crashes)
        self.timers.arm(timer, seconds)

    def resume_timers(self) -> None:
        """After a restart of the program: arm the timers of an ended link that tries again by itself."""
        if self.record is not None and self.record.paired and self.state in ENDED:
            for timer in STATE_TIMERS.get(self.state, ()):
                self.rearm(timer)

    def _switch_timers(self, new: LinkRecord) -> None:
        wanted = STATE_TIMERS.get(new.state, ())
        keep = {Timer.STUCK} & set(wanted)  # a dial that hangs does not begin to hang anew
        if new.state in LIVE and not new.paired:
            keep |= {Timer.PATIENCE}
        self.timers.cancel_all(keep)
        for timer in wanted:
            if (new.paired or timer not in (Timer.BAN, Timer.AGAIN)) and not self.timers.armed(timer):
                self.rearm(timer)

    def ban_left(self) -> float:
        """Seconds that a banned link still waits."""
        record = self.record
        if record is None or record.state is not LinkState.BANNED:
            return 0.0
        if record.phone_number is not None and (left := self._context.bans.left(record.phone_number)) > 0.0:
            return left
        over = record.retry_at or record.banned_until or record.since + self._context.settings.ban_cooldown
        return Ban(0, record.since, None, over).left(self._clock.now())
