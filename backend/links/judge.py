"""What a report means for its link: how often is too often, and what a code means for an account that is paired.

All times are monotonic: nobody who sets the clock makes a link forget or lose its patience.
"""

from __future__ import annotations

from typing import Final

from backend.links import driver as d
from backend.links.backoff import Backoff, Budget
from backend.links.driver import Report
from backend.links.machine import INPUT_OF, Input
from backend.settings import Settings

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


class Judge:
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

    def judge(self, report: Report, paired: bool, now: float) -> Input:
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
