"""What a report means for its link: how often is too often, and what a code means for an account that is paired."""

from __future__ import annotations

from backend.links.backoff import Backoff, Budget
from backend.links.driver import Report
from backend.links.machine import INPUT_OF, Input
from backend.settings import Settings

FLOOD_LIMIT = 100
FLOOD_WINDOW = 10.0
"""A session that reports more than this many times in as many seconds is broken."""


class Judge:
    """Counts one link's failed dials and its workers' deaths."""

    def __init__(self, settings: Settings, retries: Backoff) -> None:
        self._retries = retries
        self._retry_limit = settings.retry_limit
        self._deaths = Budget(settings.restart_limit, settings.restart_window)
        self._reports = Budget(FLOOD_LIMIT, FLOOD_WINDOW)
        self._dials = 0

    def judge(self, report: Report, paired: bool, now: float) -> Input:
        """The input of the table that a report amounts to. `now` is in seconds since the epoch."""
        cause = INPUT_OF[type(report)]
        if cause is Input.WORKER_DIED:
            return self.died(cause, now)
        if cause is not Input.UNREACHABLE:
            self._dials = 0
            # A paired account that is asked to scan has lost its keys: show nobody a code that nobody asked for.
            return Input.STORE_MISSING if cause is Input.QR and paired else cause
        self._dials += 1
        if self._dials <= self._retry_limit:
            return cause
        return Input.UNREACHABLE_FOR_LONG if paired else Input.UNREACHABLE_FOR_GOOD

    def died(self, cause: Input, now: float) -> Input:
        """Count a death: `cause`, or that the limit is passed."""
        return cause if self._deaths.spend(now) else Input.WORKER_CRASHES

    def flooding(self, now: float) -> bool:
        """Note one report; whether they come too fast."""
        return not self._reports.spend(now)

    def delay(self, now: float) -> float:
        """Seconds until the next session is started."""
        return self._retries.delay(max(self._dials, self._deaths.spent(now)) - 1)

    def forgive(self) -> None:
        """Somebody asked for a new start: begin to count anew."""
        self._dials = 0
        self._deaths.clear()
        self._reports.clear()
