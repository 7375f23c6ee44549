"""A link's deadlines. One that was dropped or set anew never takes effect, even if it had already struck."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from backend.links.clock import Handle, TimerClock
from backend.links.machine import Timer


class Struck(NamedTuple):
    """A deadline that passed, as it waits in the link's queue."""

    timer: Timer
    token: object


class Timers:
    """`strike` is called on the event loop when a deadline passes."""

    def __init__(self, clock: TimerClock, strike: Callable[[Struck], object]) -> None:
        self._clock = clock
        self._strike = strike
        self._armed: dict[Timer, tuple[object, Handle]] = {}

    def arm(self, timer: Timer, delay: float) -> None:
        """Set a deadline in `delay` seconds, in place of the one before."""
        self.drop(timer)
        token = object()
        handle = self._clock.call_later(delay, lambda: self._passed(Struck(timer, token)))
        self._armed[timer] = token, handle

    def _passed(self, struck: Struck) -> None:
        self._strike(struck)

    def armed(self, timer: Timer) -> bool:
        return timer in self._armed

    def drop(self, timer: Timer) -> None:
        if (armed := self._armed.pop(timer, None)) is not None:
            armed[1].cancel()

    def names(self) -> tuple[str, ...]:
        """What is waited for, for the operator."""
        return tuple(timer.name.lower() for timer in self._armed)

    def drop_all(self, keep: Collection[Timer] = ()) -> None:
        for timer in list(self._armed):
            if timer not in keep:
                self.drop(timer)

    def take(self, struck: Struck) -> bool:
        """Use up a deadline that struck; False when it was dropped meanwhile."""
        armed = self._armed.get(struck.timer)
        if armed is None or armed[0] is not struck.token:
            return False
        del self._armed[struck.timer]
        return True
