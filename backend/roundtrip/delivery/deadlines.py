"""Work for many items that must not hold up the event loop: deadlines of one length with one timer, and work in slices.

Both do at most one slice at a time (`SLICE_SECONDS`, `MAX_SLICE_ITEMS`) and pause between slices (`SLICE_PAUSE`), so
that ten thousand events that are due together delay no other client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

from roundtrip.clock import SYSTEM, Clock

T = TypeVar("T")

SLICE_SECONDS: Final = 0.004
"""Seconds of work after which other callbacks of the loop run."""

MAX_SLICE_ITEMS: Final = 64
"""Most items of one slice: each may be a write, and the next writer waits for all of them."""

SLICE_PAUSE: Final = 0.008
"""Seconds between two slices: the outbox's thread needs the interpreter too, to write what a slice asked of it before
it is asked for more."""

GRANULARITY: Final = 0.02
"""Seconds by which a deadline may be late, so that a stream of them is not a stream of timers."""

LATE: Final = 0.25
"""Seconds of lateness that show that the loop, or the whole process, stood still: input that came meanwhile is read
before any deadline expires."""

MAX_POSTPONED: Final = 5
"""Times in a row that input is read first. On a loop that is always late, deadlines must still expire."""

QUIET: Final = 0.25
"""Seconds without a deadline that end a round: what was sent in slices expires in slices."""

MAX_ROUND: Final = 1.0
"""Most seconds that a round lasts."""

_NEVER: Final = float("inf")


def ignore(_error: Exception) -> None:
    """The default for callers that do not report a failed item."""


class Deadlines(Generic[T]):
    """Calls back for each item when its time is up. An item has at most one deadline; `discard` removes it at once."""

    __slots__ = (
        "_clock",
        "_delay",
        "_due_at",
        "_expired",
        "_failed",
        "_items",
        "_loop",
        "_postponed",
        "_round_over",
        "_round_started",
        "_timer",
    )

    def __init__(
        self,
        delay: float,
        expired: Callable[[T], object],
        *,
        clock: Clock = SYSTEM,
        round_over: Callable[[], object] = lambda: None,
        failed: Callable[[Exception], object] = ignore,
    ) -> None:
        """`delay` is in seconds and the same for all items, so that the oldest is always the next. `round_over` is
        called at the end of a round of expiries, `failed` with what `expired` raised for one item."""
        self._delay = delay
        self._expired = expired
        self._clock = clock
        self._round_over = round_over
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._items: dict[T, float] = {}
        """When each is due, in loop time; in that order."""
        self._timer: asyncio.Handle | None = None
        self._due_at = 0.0
        self._round_started = _NEVER
        self._postponed = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        """Start an item's time, anew if it is there."""
        self._items.pop(item, None)
        self._items[item] = due = self._loop.time() + self._delay
        if self._timer is None:
            self._arm(due, self._delay)

    def discard(self, item: T) -> None:
        """Remove an item's deadline; nothing happens if there is none."""
        self._items.pop(item, None)

    def _arm(self, due: float, delay: float) -> None:
        self._due_at = due
        self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._due_at > LATE and self._postponed < MAX_POSTPONED:
            self._postponed += 1
            self._arm(now + GRANULARITY, GRANULARITY)
            return
        self._postponed = 0
        self._round_started = min(self._round_started, now)
        items = self._items
        stop = self._clock.monotonic() + SLICE_SECONDS
        for item in [item for item, due in islice(items.items(), MAX_SLICE_ITEMS) if due <= now]:
            if items.pop(item, None) is None:
                continue
            try:
                self._expired(item)
            except Exception as error:  # noqa: BLE001  # the other items are due all the same
                self._failed(error)
            if self._clock.monotonic() >= stop:
                break
        due = next(iter(items.values()), None)
        if due is not None and due <= now:
            self._arm(now + SLICE_PAUSE, SLICE_PAUSE)
            return
        self._timer = None
        if due is None or due - now > QUIET or now - self._round_started > MAX_ROUND:
            self._round_started = _NEVER
            self._round_over()
        if due is not None and self._timer is None:
            delay = max(GRANULARITY, due - now)
            self._arm(now + delay, delay)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._items.clear()


class TimeSlicer(Generic[T]):
    """Does something for each item. The first slice is done by `start` itself: short work is over when it returns."""

    __slots__ = ("_clock", "_each", "_failed", "_handle", "_items", "_over")

    def __init__(
        self,
        items: Iterable[T],
        each: Callable[[T], object],
        over: Callable[[], object],
        *,
        clock: Clock = SYSTEM,
        failed: Callable[[Exception], object] = ignore,
    ) -> None:
        """`over` is called once at the end, `failed` with what `each` raised for one item."""
        self._items: Iterator[T] = iter(items)
        self._each = each
        self._over = over
        self._clock = clock
        self._failed = failed
        self._handle: asyncio.Handle | None = None

    def start(self) -> None:
        """Do one slice; schedule the next one if items are left."""
        self._handle = None
        if self._slice(self._clock.monotonic() + SLICE_SECONDS):
            self._over()
        else:
            self._handle = asyncio.get_running_loop().call_later(SLICE_PAUSE, self.start)

    def finish(self) -> None:
        """Do all that is left, now."""
        if self._handle is not None:
            self.cancel()
            self._slice(_NEVER)
            self._over()

    def cancel(self) -> None:
        """Drop the items that are left."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _slice(self, stop: float) -> bool:
        for count, item in enumerate(self._items, 1):
            try:
                self._each(item)
            except Exception as error:  # noqa: BLE001  # the other items are not to blame
                self._failed(error)
            if self._clock.monotonic() >= stop or (count >= MAX_SLICE_ITEMS and stop < _NEVER):
                return False
        return True
