"""Which accounts WhatsApp blocked, and for how long: a ban is the number's, whichever bot it is linked under.

How long it still lasts is measured on the monotonic clock, so that nobody who sets the clock ends a ban or makes it
last for ever. Across a restart only the wall clock is left: there a ban lasts as long as it was long at most.
"""

from __future__ import annotations

from typing import NamedTuple

from backend.links.clock import TimerClock
from backend.links.phone import canonical


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
