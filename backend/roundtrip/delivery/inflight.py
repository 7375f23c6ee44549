"""The deliveries of one key that are in memory, because a socket may yet confirm them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.spans import Delivery
from roundtrip.identity import BotKey
from roundtrip.telemetry.redaction import key_hash

REMEMBERED: Final = 256
"""Receipted events of a key whose late acknowledgement still raises their grade."""

BACKLOG: Final = 1_000
"""Live events that a socket's replay holds back in memory; past it they are read from the outbox instead."""


class Backlog:
    """What came while a socket's replay runs, in `seq` order."""

    __slots__ = ("deliveries", "overflowed")

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.overflowed = False
        """Some were not kept: the outbox has them."""

    def add(self, delivery: Delivery) -> None:
        if len(self.deliveries) >= BACKLOG:
            self.overflowed = True
        if not self.overflowed:
            self.deliveries.append(delivery)


class KeyInFlight:
    """What is in flight for one key. It exists while the key has sockets."""

    __slots__ = (
        "again",
        "backlogs",
        "confirmed",
        "inflight",
        "key",
        "leaving",
        "received",
        "replayed",
        "resolved",
        "retry",
    )

    def __init__(self, key: BotKey) -> None:
        self.key = key
        self.inflight: dict[int, Delivery] = {}
        """Written to a socket and pending, by seq."""
        self.received: OrderedDict[int, Delivery] = OrderedDict()
        """Ended by a receipt, by seq."""
        self.backlogs: dict[str, Backlog] = {}
        """By sid, of the sockets whose replay runs."""
        self.resolved: set[int] = set()
        """Ended while a replay runs, which may have read them before."""
        self.retry: asyncio.TimerHandle | TimeSlicer[int] | None = None
        """A retry that waits for its time, or is under way."""
        self.again = False
        """An attempt ran out while a retry was under way, which may have passed it by."""
        self.leaving: TimeSlicer[Delivery] | None = None
        """The misses of what only the last socket could have confirmed, while they are being written."""
        self.replayed: dict[str, int] = {}
        """By sid, how many events the socket's replay has sent."""
        self.confirmed = False
        """Something was confirmed since a socket last left."""

    def hold_back(self, delivery: Delivery) -> None:
        """Keep a live event for the sockets whose replay runs."""
        for backlog in self.backlogs.values():
            backlog.add(delivery)

    def take(self, seq: int) -> Delivery | None:
        """An event ended: it is in flight no more, and no replay may send it."""
        if self.backlogs:
            self.resolved.add(seq)
        return self.inflight.pop(seq, None)

    def remember_received(self, delivery: Delivery) -> None:
        self.received[delivery.event.seq] = delivery
        if len(self.received) > REMEMBERED:
            self.received.popitem(last=False)

    def replay_over(self, sid: str) -> None:
        self.backlogs.pop(sid, None)
        if not self.backlogs:
            self.resolved.clear()

    def moved(self, ns: int) -> None:
        """The clock was set by so much: tell all times by the new one."""
        held = [delivery for backlog in self.backlogs.values() for delivery in backlog.deliveries]
        for delivery in {*self.inflight.values(), *self.received.values(), *held}:
            delivery.moved(ns)

    def stop_retry(self) -> None:
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.again = False

    def close(self) -> None:
        """Nothing happens by itself any more; misses that are being written are written to the end."""
        self.stop_retry()
        if self.leaving is not None:
            self.leaving.finish()
            self.leaving = None


T = TypeVar("T")

SLICE: Final = 0.004
"""Seconds of work after which the loop is given back."""

AT_ONCE: Final = 64
"""Most items of one slice: each may be a write, and whoever writes next waits for all of them."""

REST: Final = 0.008
"""Seconds between two slices: the outbox's thread needs the interpreter too, to write what a slice asked of it before
it is asked for more."""

_NEVER: Final = float("inf")


def ignore(_error: Exception) -> None:
    """For whoever has nobody to tell of a failed item."""


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
        """Do a slice, and go on a moment later if that was not all."""
        self._handle = None
        if self._slice(self._clock.monotonic() + SLICE):
            self._over()
        else:
            self._handle = asyncio.get_running_loop().call_later(REST, self.start)

    def finish(self) -> None:
        """Do all that is left, now."""
        if self._handle is not None:
            self.cancel()
            self._slice(_NEVER)
            self._over()

    def cancel(self) -> None:
        """Leave undone what is left."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _slice(self, stop: float) -> bool:
        for count, item in enumerate(self._items, 1):
            try:
                self._each(item)
            except Exception as error:  # noqa: BLE001  # the other items are not to blame
                self._failed(error)
            if self._clock.monotonic() >= stop or (count >= AT_ONCE and stop < _NEVER):
                return False
        return True


log = structlog.get_logger(__name__)

FREE: Final = 3
"""Replays in a row that may stay unconfirmed: a page that is reloaded in a hurry is not slowed down."""

FORGET_AFTER: Final = 60.0
"""Seconds without an unconfirmed replay after which a key begins anew."""

_LIMIT: Final = 10_000
"""Keys that are remembered; past it the longest unseen goes."""

_BACKOFF: Final = Backoff(0.1, 5.0)


class ReplayThrottle:
    """Counts, per key, the sockets that were sent a replay and left while nothing of the key was confirmed."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._unconfirmed: OrderedDict[BotKey, tuple[int, float]] = OrderedDict()
        """How many in a row, and when the last left."""

    def __len__(self) -> int:
        return len(self._unconfirmed)

    def unconfirmed(self, key: BotKey) -> None:
        """A socket left that was sent events, and nothing was confirmed."""
        now = self._clock.monotonic()
        count, last = self._unconfirmed.pop(key, (0, now))
        count = count + 1 if now - last < FORGET_AFTER else 1
        self._unconfirmed[key] = (count, now)
        if count == FREE + 1:
            log.warning("replays_slowed", key=key_hash(key.user_id, key.bot_id), unconfirmed=count)
        if len(self._unconfirmed) > _LIMIT:
            self._unconfirmed.popitem(last=False)

    def confirmed(self, key: BotKey) -> None:
        """Something of the key was confirmed."""
        self._unconfirmed.pop(key, None)

    def delay(self, key: BotKey) -> float:
        """Seconds that a replay waits before it sends its first event; 0 for almost everybody."""
        count, last = self._unconfirmed.get(key, (0, 0.0))
        if count <= FREE:
            return 0.0
        if self._clock.monotonic() - last >= FORGET_AFTER:
            del self._unconfirmed[key]
            return 0.0
        return _BACKOFF.delay(count - FREE)
