"""File descriptors: as many as the settings need, said at the start when there are fewer, and a few kept back."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from typing import Final

import structlog

log = structlog.get_logger(__name__)

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
