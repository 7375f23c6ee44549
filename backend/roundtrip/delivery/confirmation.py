"""Many deadlines of one length, with one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final, Generic, TypeVar

from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.inflight import AT_ONCE, REST, SLICE, ignore
from roundtrip.delivery.spans import Delivery, DeliveryMetrics, DeliverySpans, Misses
from roundtrip.delivery.wire import Miss, Sockets
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Attempt, MissReason

T = TypeVar("T")

GRAIN: Final = 0.02
"""Seconds by which a deadline may be late, so that a stream of them is not a stream of timers."""

LATE: Final = 0.25
"""Seconds of lateness that say that the loop, or the whole process, stood still: what came meanwhile is read first."""

POSTPONED_MOST: Final = 5
"""Times in a row that reading comes first. A loop that is always late must still see to its deadlines."""

QUIET: Final = 0.25
"""Seconds without a deadline that end a round: what was sent in slices comes due in slices."""

ROUND: Final = 1.0
"""Most seconds that a round lasts."""


class Deadlines(Generic[T]):
    """Calls back for each item when its time is up. An item is there once, and `discard` takes it out at once.

    A crowd of items that end together is seen to in slices, between which the loop serves others.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_delay",
        "_due_at",
        "_failed",
        "_items",
        "_loop",
        "_over",
        "_postponed",
        "_timer",
        "_up",
    )

    def __init__(
        self,
        delay: float,
        up: Callable[[T], object],
        *,
        clock: Clock = SYSTEM,
        over: Callable[[], object] = lambda: None,
        failed: Callable[[Exception], object] = ignore,
    ) -> None:
        """`delay` is in seconds and the same for all, so that the oldest is always the next. `over` is called at the
        end of a round of them, `failed` with what `up` raised for one of them."""
        self._delay = delay
        self._up = up
        self._clock = clock
        self._over = over
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._items: dict[T, float] = {}
        """When each is due, in loop time; in that order."""
        self._timer: asyncio.Handle | None = None
        self._due_at = 0.0
        self._began = float("inf")
        """When the present round began."""
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
        """Whoever waits no more says so; nothing happens if it is not there."""
        self._items.pop(item, None)

    def _arm(self, due: float, delay: float) -> None:
        self._due_at = due
        self._timer = self._loop.call_later(delay, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        if now - self._due_at > LATE and self._postponed < POSTPONED_MOST:
            self._postponed += 1
            self._arm(now + GRAIN, GRAIN)
            return
        self._postponed = 0
        self._began = min(self._began, now)
        items = self._items
        stop = self._clock.monotonic() + SLICE
        for item in [item for item, due in islice(items.items(), AT_ONCE) if due <= now]:
            if items.pop(item, None) is None:
                continue
            try:
                self._up(item)
            except Exception as error:  # noqa: BLE001  # the others' time is up all the same
                self._failed(error)
            if self._clock.monotonic() >= stop:
                break
        due = next(iter(items.values()), None)
        if due is not None and due <= now:
            self._arm(now + REST, REST)
            return
        self._timer = None
        if due is None or due - now > QUIET or now - self._began > ROUND:
            self._began = float("inf")
            self._over()
        if due is not None and self._timer is None:
            delay = max(GRAIN, due - now)
            self._arm(now + delay, delay)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._items.clear()


class MissRecorder:
    """Ends attempts as misses. Their events stay pending, and whoever asks can see why."""

    def __init__(self, outbox: Outbox, sockets: Sockets, journal: DeliverySpans, meter: DeliveryMetrics) -> None:
        self._outbox = outbox
        self._sockets = sockets
        self._journal = journal
        self._meter = meter
        self._round: dict[tuple[BotKey, MissReason], Misses] = {}

    def miss(self, delivery: Delivery, miss: Miss, looked_for: BotKey | None = None) -> None:
        """An attempt ended. It is not logged before `tell`."""
        event = delivery.event
        attempt = Attempt(
            at=delivery.started_ns // 1_000_000,
            mode=delivery.mode,
            sockets=delivery.sockets,
            reason=miss.reason,
            receipt_at=delivery.receipt_ns // 1_000_000 or None,
            keys=miss.keys,
            sids=delivery.sids,
            trace_id=delivery.trace_id,
        )
        delivery.finish(attempt)
        self._outbox.record(event.key, event.seq, delivery.attempts)
        self._meter.missed(delivery, attempt)
        self._journal.attempted(delivery, attempt)
        self._sockets.missed(looked_for or event.key, event.type.wire, event.id, miss)
        misses = self._round.get((event.key, miss.reason))
        if misses is None:
            misses = self._round[event.key, miss.reason] = Misses(event, attempt, delivery.tried)
        misses.count += 1
        misses.last_seq = event.seq

    def tell(self, key: BotKey | None = None) -> None:
        """A round is over, of one key or of all: one line for each key and reason."""
        for which in [which for which in self._round if key is None or which[0] == key]:
            self._journal.round_missed(self._round.pop(which))
