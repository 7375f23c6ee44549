"""One link's input queue and timers: inputs are handled in order, one at a time, without a standing task.

An expired timer is an input like any other: it waits behind what came before it, and is void once it was cancelled.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from roundtrip.clock import Handle, TimerClock
from roundtrip.drivers.base import Report
from roundtrip.links.machine import Input, Timer

_T = TypeVar("_T")


class Order(enum.Enum):
    """What a caller can ask of a link."""

    START = enum.auto()
    LOGOUT = enum.auto()
    RESTORE = enum.auto()


@dataclass(frozen=True, slots=True)
class Command:
    """An order, and the future that its caller awaits."""

    order: Order
    done: asyncio.Future[None]
    phone_number: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check of the session found; void once another session was started. `starts` is that session's number."""

    cause: Input
    starts: int


@dataclass(frozen=True, slots=True)
class ExternalInput:
    """An input that concerns the link `link_id`, from outside it."""

    cause: Input
    link_id: str


class ExpiredTimer(NamedTuple):
    """A timer that expired. `token` is that arming's own."""

    timer: Timer
    token: object


Item: TypeAlias = Report | ExpiredTimer | CheckResult | ExternalInput | Command


class InputQueue(Generic[_T]):
    """`handle` is awaited for each item, `on_error` is called with what it raised. A task lives only while there is
    work.
    """

    def __init__(self, handle: Callable[[_T], Awaitable[None]], on_error: Callable[[_T, Exception], None]) -> None:
        self._handle = handle
        self._on_error = on_error
        self._items: deque[_T] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.processed = 0
        """How many items were taken up in all: unchanged means that nothing happened."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def idle(self) -> bool:
        return self._task is None

    def put(self, item: _T) -> bool:
        """Add an item; False when the queue is closed."""
        if self._closed:
            return False
        self._items.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return True

    def discard(self, unwanted: Callable[[_T], bool]) -> None:
        """Remove waiting items."""
        self._items = deque(item for item in self._items if not unwanted(item))

    async def join(self) -> None:
        """Return once nothing waits."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Drop what waits and cancel the item that is being handled."""
        self._closed = True
        self._items.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._items:
                item = self._items.popleft()
                self.processed += 1
                try:
                    await self._handle(item)
                except Exception as error:  # noqa: BLE001  one bad item must not end the link
                    self._on_error(item, error)
        finally:
            self._task = None


class Timers:
    """`on_expired` is called on the event loop when a timer expires."""

    def __init__(self, clock: TimerClock, on_expired: Callable[[ExpiredTimer], object]) -> None:
        self._clock = clock
        self._on_expired = on_expired
        self._armed: dict[Timer, tuple[object, Handle]] = {}

    def arm(self, timer: Timer, delay: float) -> None:
        """Let a timer expire in `delay` seconds, in place of the one before."""
        self.cancel(timer)
        token = object()
        handle = self._clock.call_later(delay, lambda: self._expire(ExpiredTimer(timer, token)))
        self._armed[timer] = token, handle

    def _expire(self, expired: ExpiredTimer) -> None:
        self._on_expired(expired)

    def armed(self, timer: Timer) -> bool:
        return timer in self._armed

    def cancel(self, timer: Timer) -> None:
        if (armed := self._armed.pop(timer, None)) is not None:
            armed[1].cancel()

    def names(self) -> tuple[str, ...]:
        """The armed timers, for the operator."""
        return tuple(timer.name.lower() for timer in self._armed)

    def cancel_all(self, keep: Collection[Timer] = ()) -> None:
        for timer in list(self._armed):
            if timer not in keep:
                self.cancel(timer)

    def consume(self, expired: ExpiredTimer) -> bool:
        """Use up a timer that expired; False when it was cancelled or armed anew meanwhile."""
        armed = self._armed.get(expired.timer)
        if armed is None or armed[0] is not expired.token:
            return False
        del self._armed[expired.timer]
        return True
