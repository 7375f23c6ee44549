"""One serial queue per link: what happens to it is taken up in order, one thing at a time, without a standing task."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Generic, NamedTuple, TypeVar

from roundtrip.clock import Handle, TimerClock
from roundtrip.links.machine import Timer

_T = TypeVar("_T")


class InputQueue(Generic[_T]):
    """`handle` is awaited for each item, `on_error` is told what it raised. A task lives only while there is work."""

    def __init__(self, handle: Callable[[_T], Awaitable[None]], on_error: Callable[[_T, Exception], None]) -> None:
        self._handle = handle
        self._on_error = on_error
        self._items: deque[_T] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.taken = 0
        """How many items were taken up in all: unchanged means that nothing happened."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def idle(self) -> bool:
        return self._task is None

    def put(self, item: _T) -> bool:
        """Add an item; False when the inbox is closed."""
        if self._closed:
            return False
        self._items.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return True

    def drop(self, unwanted: Callable[[_T], bool]) -> None:
        """Forget waiting items."""
        self._items = deque(item for item in self._items if not unwanted(item))

    async def settled(self) -> None:
        """Return once nothing waits."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Drop what waits and end the work that is under way."""
        self._closed = True
        self._items.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._items:
                item = self._items.popleft()
                self.taken += 1
                try:
                    await self._handle(item)
                except Exception as error:  # noqa: BLE001  one bad item must not end the link
                    self._on_error(item, error)
        finally:
            self._task = None


class ExpiredTimer(NamedTuple):
    """A deadline that passed, as it waits in the link's queue."""

    timer: Timer
    token: object


class Timers:
    """`strike` is called on the event loop when a deadline passes."""

    def __init__(self, clock: TimerClock, strike: Callable[[ExpiredTimer], object]) -> None:
        self._clock = clock
        self._strike = strike
        self._armed: dict[Timer, tuple[object, Handle]] = {}

    def arm(self, timer: Timer, delay: float) -> None:
        """Set a deadline in `delay` seconds, in place of the one before."""
        self.drop(timer)
        token = object()
        handle = self._clock.call_later(delay, lambda: self._passed(ExpiredTimer(timer, token)))
        self._armed[timer] = token, handle

    def _passed(self, struck: ExpiredTimer) -> None:
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

    def take(self, struck: ExpiredTimer) -> bool:
        """Use up a deadline that struck; False when it was dropped meanwhile."""
        armed = self._armed.get(struck.timer)
        if armed is None or armed[0] is not struck.token:
            return False
        del self._armed[struck.timer]
        return True


class StartSlots:
    """`limit` starts at once, and one more for a user that has none under way: nobody waits behind another's flood."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By user, in the order in which it is their turn."""

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it for as long as the block lasts."""
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(coming)
        self._let_in()
        try:
            await coming
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled():
                self._leave(user)  # it was let in and cancelled in the same breath
            else:
                self._forget(user, coming)
            raise
        try:
            yield
        finally:
            self._leave(user)

    def _leave(self, user: str) -> None:
        self._held[user] -= 1
        if self._held[user] <= 0:
            del self._held[user]
        self._let_in()

    def _forget(self, user: str, coming: asyncio.Future[None]) -> None:
        queue = self._waiting.get(user)
        if queue is not None and coming in queue:
            queue.remove(coming)
            if not queue:
                del self._waiting[user]

    def _let_in(self) -> None:
        while self._waiting:
            # The first of those that hold least; `min` keeps the order in which they wait.
            user = min(self._waiting, key=lambda name: self._held[name])
            room = self._limit + (self._held[user] == 0)
            if self._held.total() >= room:
                return
            queue = self._waiting.pop(user)
            coming = queue.popleft()
            if queue:
                self._waiting[user] = queue  # behind the others
            if not coming.done():
                self._held[user] += 1
                coming.set_result(None)
