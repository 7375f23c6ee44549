"""What the process has of its interpreter and its system: garbage collection, file descriptors, the version.

Collections are kept short, for they stop the event loop. What exists at start is frozen, and never traversed again.
Young objects are collected in small portions, as CPython does by itself. A full collection is run from here, and only
when it is expected to take less than `MAX_PAUSE`; with ten thousand sockets it is not. It may wait: the objects of a
connection are freed by reference counting alone (`tests/sockets` holds a weak reference to each kind).
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

YOUNG_THRESHOLD: Final = 10_000
"""Allocations minus deallocations until the youngest generation is collected: about a millisecond."""

MIDDLE_THRESHOLD: Final = 1
"""Collections of the youngest generation for each of the middle one. Its objects are old enough to be out of the
processor's caches: 20,000 of them take some milliseconds, 60,000 took 50 to 80."""

NEVER: Final = 1_000_000_000

FULL_INTERVAL: Final = 30.0
"""Seconds between two full collections, if they are quick enough."""

MAX_PAUSE: Final = 0.03
"""Seconds that a full collection may take, as expected from the last one."""

SECONDS_PER_BLOCK: Final = 100e-9
"""Seconds for each allocated block, until the first full collection has been measured."""


class GarbageCollection:
    """`observe(seconds)` is called with the pause of each collection, in any thread and between any two instructions:
    it must not take a lock."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._started = 0.0
        self._base = 0
        self._per_block = SECONDS_PER_BLOCK
        self._timer: asyncio.TimerHandle | None = None
        self.postponed = 0
        """Full collections that would have taken too long."""

    def start(self) -> None:
        """Freeze what exists and take over full collections, on the running loop."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_THRESHOLD, MIDDLE_THRESHOLD, NEVER)
        self._base = sys.getallocatedblocks()
        gc.callbacks.append(self._on_collection)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(FULL_INTERVAL, self._collect)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._on_collection in gc.callbacks:
            gc.callbacks.remove(self._on_collection)

    def expected(self) -> float:
        """Seconds that a full collection would take now."""
        return max(0, sys.getallocatedblocks() - self._base) * self._per_block

    def _collect(self) -> None:
        self._timer = self._loop.call_later(FULL_INTERVAL, self._collect)
        if self.expected() > MAX_PAUSE:
            self.postponed += 1
            return
        blocks = max(1, sys.getallocatedblocks() - self._base)
        started = time.perf_counter()
        found = gc.collect()
        took = time.perf_counter() - started
        if blocks > 10_000:  # with fewer, the fixed cost dominates
            self._per_block = took / blocks
        log.debug("collected", objects=found, seconds=round(took, 4))

    def _on_collection(self, phase: str, _info: dict[str, Any]) -> None:
        if phase == "start":
            self._started = time.perf_counter()
        else:
            self._observe(time.perf_counter() - self._started)


RESERVED_DESCRIPTORS: Final = 512
"""For all but public connections: stores, workers' pipes, exports, the admin listener."""


def connection_capacity(connections: int) -> int:
    """How many of `connections` there are descriptors for, after raising the soft limit as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + RESERVED_DESCRIPTORS
    limit = _finite(soft)
    if limit < needed:
        limit = min(needed, _finite(hard))
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        limit = _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    capacity = min(connections, limit - min(RESERVED_DESCRIPTORS, limit // 2))
    if capacity < connections:
        log.warning("descriptors_too_few", limit=limit, needed=needed, max_connections=connections, room=capacity)
    return capacity


def _finite(limit: int) -> int:
    return 1 << 30 if limit == resource.RLIM_INFINITY else limit


class Reserve:
    """Open descriptors of no use of their own, closed one by one when there are no others."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: list[int] = []
        self.refill()

    def __len__(self) -> int:
        return len(self._held)

    def release(self) -> bool:
        """Close one, so that the next open succeeds; False when none is left."""
        if not self._held:
            return False
        os.close(self._held.pop())
        return True

    def refill(self) -> None:
        """Open as many as are missing, as far as the limit allows."""
        with suppress(OSError):
            while len(self._held) < self._count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        while self.release():
            pass


def program_version() -> str:
    """The installed version, for telemetry's resource and `build_info`."""
    try:
        return version("roundtrip")
    except PackageNotFoundError:
        return "0.1.0"
