"""Long work on the event loop, in slices short enough that nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from backend.clock import SYSTEM, Clock

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


class Slices(Generic[T]):
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
