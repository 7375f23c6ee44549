"""Python's garbage collector, kept cheap: what counting references frees needs none, and here that is nearly all.

What was made at start is frozen: it is never looked at again. New objects are looked at in small portions, by the
collector itself. All of them together are looked at from here, and only while that stops the program for a moment that
nobody notices: with ten thousand sockets it would not. What a connection makes is freed without it (`tests/sockets`
holds a weak reference to each kind), so that it has time.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

YOUNG: Final = 10_000
"""New objects, over those that went, until the youngest are looked at: about a millisecond."""

MIDDLE: Final = 1
"""Looks at the youngest for each at those that survived one. Those are old enough to be out of the processor's caches:
20,000 of them take some milliseconds, 60,000 took 50 to 80."""

BY_ITSELF_NEVER: Final = 1_000_000_000

EVERY: Final = 30.0
"""Seconds between two looks at everything, if it is quick enough."""

LONGEST: Final = 0.03
"""Seconds that a look at everything may take, as expected from the last one."""

PER_BLOCK: Final = 100e-9
"""Seconds for each block of memory, until the first look has told."""


class Collector:
    """`observe` is told how long each collection stopped the program, in seconds; it may be called in any thread, in
    the middle of anything, and so must not take a lock."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._started = 0.0
        self._base = 0
        self._per_block = PER_BLOCK
        self._timer: asyncio.TimerHandle | None = None
        self.put_off = 0
        """Looks at everything that would have taken too long."""

    def start(self) -> None:
        """Freeze what is there and go on from here, on the running loop."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, MIDDLE, BY_ITSELF_NEVER)
        self._base = sys.getallocatedblocks()
        gc.callbacks.append(self._told)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(EVERY, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._told in gc.callbacks:
            gc.callbacks.remove(self._told)

    def expected(self) -> float:
        """Seconds that a look at everything would take now."""
        return max(0, sys.getallocatedblocks() - self._base) * self._per_block

    def _look(self) -> None:
        self._timer = self._loop.call_later(EVERY, self._look)
        if self.expected() > LONGEST:
            self.put_off += 1
            return
        blocks = max(1, sys.getallocatedblocks() - self._base)
        started = time.perf_counter()
        found = gc.collect()
        took = time.perf_counter() - started
        if blocks > 10_000:  # of fewer, the fixed part is most
            self._per_block = took / blocks
        log.debug("collected", objects=found, seconds=round(took, 4))

    def _told(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self._observe(time.perf_counter() - self._started)
