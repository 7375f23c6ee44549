"""What a report means for its link: how often is too often, and what a code means for an account that is paired.

All times are monotonic: nobody who sets the clock makes a link forget or lose its patience.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from roundtrip.backoff import Backoff, Budget
from roundtrip.clock import TimerClock
from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report
from roundtrip.links.machine import INPUT_OF, Input
from roundtrip.links.phone import canonical
from roundtrip.settings import Settings

FLOOD_LIMIT = 100
FLOOD_WINDOW = 10.0
"""A session that reports more than this many times in as many seconds is broken."""

_GONE: Final = frozenset({"401", "403", "406"})
_TOO_OFTEN: Final = "429"
_TOO_OFTEN_FACTOR: Final = 4.0
"""So many times longer than after another refusal."""

_MEANS_TO_SCAN: Final = frozenset({Input.QR, Input.PAIRING_CODE})
_REACHED: Final = frozenset({Input.QR, Input.PAIRING_CODE, Input.PAIRED, Input.ONLINE})
"""WhatsApp answered."""


def meaning(report: Report) -> Report:
    """A refusal by a number that has a report of its own, as that report."""
    if isinstance(report, d.ConnectFailed):
        if report.reason in _GONE:
            return d.LoggedOutByPhone(report.reason)
        if report.reason == "402":
            return d.TemporaryBan(0, None)
        if report.reason == "405":
            return d.Outdated()
    return report


class RetryPolicy:
    """Counts one link's failed dials, refusals and its workers' deaths."""

    def __init__(self, settings: Settings, retries: Backoff) -> None:
        self._retries = retries
        self._slowly = Backoff(settings.refused_first, settings.refused_cap, retries.draw)
        self._retry_limit = settings.retry_limit
        self._deaths = Budget(settings.restart_limit, settings.restart_window)
        self._reports = Budget(FLOOD_LIMIT, FLOOD_WINDOW)
        self._dials = 0
        self._refusals = 0
        self._too_often = False

    @property
    def dialed(self) -> bool:
        """Whether a dial failed since WhatsApp answered last."""
        return self._dials > 0

    def classify(self, report: Report, paired: bool, now: float) -> Input:
        """The input of the table that a report amounts to. `now` is monotonic."""
        cause = INPUT_OF[type(report)]
        if cause in _REACHED:
            self._dials = 0
        if cause is Input.ONLINE:
            self._refusals = 0
        if cause is Input.WORKER_DIED:
            return self.died(cause, paired, now)
        if cause is Input.CONNECT_FAILED and paired:
            self._refusals += 1
            self._too_often = isinstance(report, d.ConnectFailed) and report.reason == _TOO_OFTEN
            return Input.REFUSED
        if cause in _MEANS_TO_SCAN and paired:
            # It has lost its keys: show nobody a code that nobody asked for.
            return Input.KEYS_REJECTED
        if cause is not Input.UNREACHABLE and not (cause is Input.CODES_USED_UP and paired):
            return cause
        self._dials += 1
        return Input.UNREACHABLE if self._dials <= self._retry_limit else Input.UNREACHABLE_FOR_LONG

    def died(self, cause: Input, paired: bool, now: float) -> Input:
        """Count a death: `cause`, or that the limit is passed."""
        if self._deaths.spend(now):
            return cause
        return Input.WORKER_KEEPS_DYING if paired else Input.WORKER_CRASHES

    def dying(self, now: float) -> bool:
        """Whether the worker died more often than the limit allows."""
        return self._deaths.spent(now) > self._deaths.limit

    def flooding(self, now: float) -> bool:
        """Note one report; whether they come too fast."""
        return not self._reports.spend(now)

    def delay(self, now: float) -> float:
        """Seconds until the next session is started: none when nothing failed lately."""
        failures = max(self._dials, self._deaths.spent(now))
        delay = self._retries.delay(failures) if failures else 0.0
        if self.dying(now):
            delay = self._retries.longest()
        if self._refusals:
            slow = self._slowly.delay(self._refusals)
            delay = max(delay, slow * _TOO_OFTEN_FACTOR if self._too_often else slow)
        return delay

    def forgive(self) -> None:
        """Somebody asked for a new start: begin to count anew."""
        self._dials = 0
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

    def came(self, now: float) -> bool:
        """The connection stands; True when it is back soon after a loss."""
        if self.online:
            return False
        self.online = True
        back = self._losses.spent(now) > 0
        self.flaps += back
        return back

    def calm(self) -> None:
        """It stayed as it is for long enough: begin anew."""
        self.flapping = False
        self._losses.clear()

    def reset(self) -> None:
        """The session ended for good."""
        self.calm()
        self.online = False


class Ban(NamedTuple):
    """`until` is WhatsApp's own end, None when it names none; `over` is when the account is tried again. Both are in
    seconds since the epoch, `since` too.
    """

    code: int
    since: float
    until: float | None
    over: float

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
        """WhatsApp let the account in: forget the ban; False when there was none."""
        return self._bans.pop(canonical(number), None) is not None
