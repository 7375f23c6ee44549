"""Python's garbage collector, kept cheap: what counting references frees needs none, and here that is nearly all.

What was made at start is frozen: it is never looked at again. New objects are looked at in small portions, by the
collector itself. All of them together are looked at from here, and only while that stops the program for a moment that
nobody notices: with ten thousand sockets it would not. What a connection makes is freed without it (`tests/sockets`
holds a weak reference to each kind), so that it has time.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
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


class GarbageCollection:
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


FOR_THE_REST: Final = 512
"""Descriptors that are no public connection: stores, workers' pipes, exports, the admin listener."""


def room_for(connections: int) -> int:
    """How many of so many connections there are descriptors for, after the soft limit was raised as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + FOR_THE_REST
    limit = _endless(soft)
    if limit < needed:
        limit = min(needed, _endless(hard))
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        limit = _endless(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    room = min(connections, limit - min(FOR_THE_REST, limit // 2))
    if room < connections:
        log.warning("descriptors_too_few", limit=limit, needed=needed, max_connections=connections, room=room)
    return room


def _endless(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


class Reserve:
    """Descriptors that are held for nothing but the moment in which there are no others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    def __len__(self) -> int:
        return len(self._held)

    def give(self) -> bool:
        """Let one go, for whoever opens the next."""
        if not self._held:
            return False
        os.close(self._held.pop())
        return True

    def refill(self) -> None:
        """Hold as many as before, as far as there are any."""
        with suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        while self.give():
            pass


def release() -> str:
    try:
        return version("roundtrip")
    except PackageNotFoundError:
        return "0.1.0"
