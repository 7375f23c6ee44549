"""Limits of a link: what its reports amount to, retries and their backoff, flap damping, bans, and how long timers run.

Delays and windows are measured on the monotonic clock, so setting the machine's clock changes none of them. All are in
seconds.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

import structlog

from roundtrip.backoff import Backoff, Budget
from roundtrip.clock import TimerClock
from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report
from roundtrip.links.machine import Input, Timer
from roundtrip.links.phone import canonical
from roundtrip.settings import Settings

log = structlog.get_logger(__name__)

FLOOD_LIMIT = 100
FLOOD_WINDOW = 10.0
"""A session that reports more than this many times in as many seconds is broken."""

RETRY_CHECK: Final = 60.0
"""Between two looks at what keeps an account from connecting; each costs little."""
NEXT_CODE_SLACK: Final = 10.0
"""How long after the expiry of a code the next may come."""
LAST_CODE_SLACK: Final = 1.0
"""The same after the last: the library may report the end itself."""
CRASHES_RETRY: Final = 3600.0
"""Between two attempts at an account that brings its worker down."""
AFTER_BAN: Final = 1.0
LONGEST_BAN: Final = 366 * 86400.0

_LOGGED_OUT: Final = frozenset({"401", "403", "406"})
_RATE_LIMITED: Final = "429"
_RATE_LIMITED_FACTOR: Final = 4.0
"""So many times longer than after another refusal."""

INPUT_OF: Final[dict[type[d.Report], Input]] = {
    d.QrShown: Input.QR,
    d.PairingCodeShown: Input.PAIRING_CODE,
    d.CodesUsedUp: Input.CODES_USED_UP,
    d.PairSucceeded: Input.PAIRED,
    d.Online: Input.ONLINE,
    d.KeepAliveLost: Input.KEEPALIVE_LOST,
    d.KeepAliveRestored: Input.KEEPALIVE_RESTORED,
    d.Offline: Input.OFFLINE,
    d.LoggedOutByPhone: Input.LOGGED_OUT,
    d.StreamReplaced: Input.REPLACED,
    d.TemporaryBan: Input.BANNED,
    d.Outdated: Input.OUTDATED,
    d.ConnectFailed: Input.CONNECT_FAILED,
    d.StreamFailed: Input.STREAM_FAILED,
    d.Unreachable: Input.UNREACHABLE,
    d.WorkerDied: Input.WORKER_DIED,
    d.SessionCrashes: Input.SESSION_CRASHES,
}

LOSSES: Final = frozenset(
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
"""The connection is gone."""
PINGS: Final = frozenset({Input.KEEPALIVE_LOST, Input.KEEPALIVE_RESTORED})
DAMPED: Final = LOSSES | PINGS | {Input.ONLINE, Input.GRACE_OVER}
"""What a flapping link does not publish one by one."""

_ASKS_TO_SCAN: Final = frozenset({Input.QR, Input.PAIRING_CODE})
_REACHED: Final = _ASKS_TO_SCAN | {Input.PAIRED, Input.ONLINE}
"""WhatsApp answered."""


def normalize(report: Report) -> Report:
    """A refusal by a number that has a report of its own, as that report."""
    if isinstance(report, d.ConnectFailed):
        if report.reason in _LOGGED_OUT:
            return d.LoggedOutByPhone(report.reason)
        if report.reason == "402":
            return d.TemporaryBan(0, None)
        if report.reason == "405":
            return d.Outdated()
    return report


def log_report(link_id: str, report: Report) -> None:
    """Log what the state machine does not keep: WhatsApp's own codes."""
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


def code_slack(index: int | None, total: int | None) -> float:
    """How long after its expiry a code's session may take to report the next, or the end."""
    last = index is None or total is None or index >= total
    return LAST_CODE_SLACK if last else NEXT_CODE_SLACK


def timer_duration(
    timer: Timer, settings: Settings, *, reconnecting: bool, ban_left: float, crashes: bool = False
) -> float:
    """How long a timer runs. `reconnecting`: the library was connected and tries again by itself, in its own time.
    `crashes`: the account brought its worker down again and again."""
    return {
        Timer.PAIRING: settings.pairing_timeout,
        Timer.PATIENCE: settings.pairing_patience,
        Timer.LOGIN: settings.login_timeout,
        Timer.PAIRED: settings.paired_timeout,
        Timer.UNREACHED: settings.unreachable_after,
        Timer.GRACE: settings.disconnect_grace,
        Timer.STUCK: settings.reconnect_timeout if reconnecting else settings.stuck_timeout,
        Timer.SILENT: settings.degraded_timeout,
        Timer.CALM: settings.flap_calm,
        Timer.BAN: ban_left + AFTER_BAN,
        Timer.AGAIN: CRASHES_RETRY if crashes else RETRY_CHECK,
    }[timer]


class RetryPolicy:
    """Counts one link's failed dials, refusals and its workers' deaths."""

    def __init__(self, settings: Settings, retries: Backoff) -> None:
        self._retries = retries
        self._refusal_backoff = Backoff(settings.refused_first, settings.refused_cap, retries.draw)
        self._retry_limit = settings.retry_limit
        self._deaths = Budget(settings.restart_limit, settings.restart_window)
        self._reports = Budget(FLOOD_LIMIT, FLOOD_WINDOW)
        self._failed_dials = 0
        self._refusals = 0
        self._rate_limited = False

    @property
    def dial_failed(self) -> bool:
        """Whether a dial failed since WhatsApp answered last."""
        return self._failed_dials > 0

    def classify(self, report: Report, paired: bool, now: float) -> Input:
        """The input of the table that a report amounts to. `now` is monotonic."""
        cause = INPUT_OF[type(report)]
        if cause in _REACHED:
            self._failed_dials = 0
        if cause is Input.ONLINE:
            self._refusals = 0
        if cause is Input.WORKER_DIED:
            return self.count_death(cause, paired, now)
        if cause is Input.CONNECT_FAILED and paired:
            self._refusals += 1
            self._rate_limited = isinstance(report, d.ConnectFailed) and report.reason == _RATE_LIMITED
            return Input.REFUSED
        if cause in _ASKS_TO_SCAN and paired:
            # It has lost its keys: no code is published that no user asked for.
            return Input.KEYS_REJECTED
        if cause is not Input.UNREACHABLE and not (cause is Input.CODES_USED_UP and paired):
            return cause
        self._failed_dials += 1
        return Input.UNREACHABLE if self._failed_dials <= self._retry_limit else Input.UNREACHABLE_FOR_LONG

    def count_death(self, cause: Input, paired: bool, now: float) -> Input:
        """Count a death: `cause`, or that the limit is passed."""
        if self._deaths.spend(now):
            return cause
        return Input.WORKER_KEEPS_DYING if paired else Input.WORKER_CRASHES

    def crash_looping(self, now: float) -> bool:
        """Whether the worker died more often than the limit allows."""
        return self._deaths.spent(now) > self._deaths.limit

    def flooding(self, now: float) -> bool:
        """Note one report; whether they come too fast."""
        return not self._reports.spend(now)

    def delay(self, now: float) -> float:
        """Seconds until the next session is started: none when nothing failed lately."""
        failures = max(self._failed_dials, self._deaths.spent(now))
        delay = self._retries.delay(failures) if failures else 0.0
        if self.crash_looping(now):
            delay = self._retries.longest()
        if self._refusals:
            slow = self._refusal_backoff.delay(self._refusals)
            delay = max(delay, slow * _RATE_LIMITED_FACTOR if self._rate_limited else slow)
        return delay

    def reset(self) -> None:
        """A new start was requested: count anew."""
        self._failed_dials = 0
        self._refusals = 0
        self._deaths.clear()
        self._reports.clear()


class FlapDamper:
    """Watches one connection. `limit` losses within `window` seconds are still reported one by one."""

    def __init__(self, limit: int, window: float) -> None:
        self._losses = Budget(limit, window)
        self.online = False
        self.flaps = 0
        """Times that the connection was lost and came back within the window."""
        self.flapping = False

    def lost(self, now: float) -> bool:
        """The connection is gone; True when with this the link begins to flap."""
        if not self.online:
            return False
        self.online = False
        if self._losses.spend(now) or self.flapping:
            return False
        self.flapping = True
        return True

    def restored(self, now: float) -> bool:
        """The connection is up; True when that is soon after a loss."""
        if self.online:
            return False
        self.online = True
        back = self._losses.spent(now) > 0
        self.flaps += back
        return back

    def clear(self) -> None:
        """It did not change for long enough: count anew."""
        self.flapping = False
        self._losses.clear()

    def reset(self) -> None:
        """The session ended for good."""
        self.clear()
        self.online = False


class Ban(NamedTuple):
    """`until` is WhatsApp's own end, None when it names none; `over` is when the account is tried again. Both are in
    seconds since the epoch, `since` too.
    """

    code: int
    since: float
    until: float | None
    over: float

    @classmethod
    def reported(cls, report: d.TemporaryBan, now: float, cooldown: float) -> Self:
        """The ban of a report at `now`; `cooldown` is its length where WhatsApp names none."""
        lasts = report.expires_in
        if lasts is None or not lasts > 0.0:
            return cls(report.code, now, None, now + cooldown)
        end = now + min(lasts, LONGEST_BAN)
        return cls(report.code, now, end, end)

    def left(self, now: float) -> float:
        """Seconds that it lasts from the wall clock's `now`, which may have been set meanwhile."""
        return min(max(0.0, self.over - now), max(0.0, self.over - self.since))


class Bans:
    """By phone number."""

    def __init__(self, clock: TimerClock) -> None:
        self._clock = clock
        self._bans: dict[str, tuple[Ban, float]] = {}
        """With the monotonic end."""

    def add(self, number: str, ban: Ban) -> None:
        left = ban.left(self._clock.now())
        self._bans[canonical(number)] = ban, self._clock.monotonic() + left

    def of(self, number: str | None) -> Ban | None:
        """The number's ban, None when there is none or it is over."""
        return None if self.left(number) <= 0.0 or number is None else self._bans[canonical(number)][0]

    def left(self, number: str | None) -> float:
        """Seconds that the number's ban still lasts, 0.0 when there is none."""
        if number is None or (found := self._bans.get(canonical(number))) is None:
            return 0.0
        return max(0.0, found[1] - self._clock.monotonic())

    def lift(self, number: str) -> bool:
        """WhatsApp let the account in: delete the ban; False when there was none."""
        return self._bans.pop(canonical(number), None) is not None
