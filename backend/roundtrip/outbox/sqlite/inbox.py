"""What the event loop has queued for the writer thread, which takes it in rounds."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import Final, NamedTuple

from roundtrip.outbox.base import Reply, Stop
from roundtrip.outbox.sqlite.batch import Write
from roundtrip.outbox.sqlite.reads import Read

BATCH_LIMIT: Final = 2000
"""Most writes that one round takes, so that a flood is answered in pieces."""

GATHER: Final = 0.002
"""Seconds that a round waits before it takes what is queued, when the one before was large."""

BUSY: Final = 16
"""Writes of a round that make it a large one: more are on their way, and a commit costs the same for all of them."""


class Round(NamedTuple):
    """What one round takes: first all of its writes, then its reads. A stop ends it."""

    writes: list[Write]
    reads: list[Read]
    stops: list[Reply]


class Inbox:
    """A queue from the event loop to one thread. `put` is for the loop, all else for the thread."""

    def __init__(self) -> None:
        self._queue: deque[Write | Read | Stop] = deque()
        self._wake = threading.Event()
        self._busy = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, item: Write | Read | Stop) -> None:
        """Queue an item. Takes no lock while the thread is awake."""
        self._queue.append(item)
        if not self._wake.is_set():
            self._wake.set()

    def wait(self, idle: float) -> None:
        """Wait for an item, for `idle` seconds at most; under load, for more of them."""
        if not self._queue:
            self._wake.wait(idle)
        if self._busy:
            time.sleep(GATHER)
        self._wake.clear()

    def take(self) -> Round:
        """What the next round takes; nothing if nothing is queued."""
        taken = Round([], [], [])
        while self._queue and len(taken.writes) < BATCH_LIMIT and not taken.stops:
            item = self._queue.popleft()
            if isinstance(item, Read):
                taken.reads.append(item)
            elif isinstance(item, Stop):
                taken.stops.append((item.reply, None))
            else:
                taken.writes.append(item)
        self._busy = len(taken.writes) >= BUSY
        return taken

    def rest(self) -> list[Write | Read | Stop]:
        """All that is queued. The loop and the ending thread may both be here: each item goes to one of them."""
        items: list[Write | Read | Stop] = []
        with suppress(IndexError):
            while True:
                items.append(self._queue.popleft())
        return items
