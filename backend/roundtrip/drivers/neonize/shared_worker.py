"""One worker of the fleet: its process, and the sessions that have a seat in it or are promised one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from roundtrip.drivers.neonize.driver_session import NeonizeSession
from roundtrip.drivers.neonize.process import WorkerProcess

MOVES_AT_ONCE: Final = 4
"""Sessions that leave a host together, when it is emptied: the next goes when one of them is connected again."""
MOVE_LIMIT: Final = 5.0
"""Seconds that it is waited for, then."""
SETTLED: Final = 60.0
"""Seconds of a host's life in which only twice the limit counts: what was just handed over is still being read."""
RETIRE_AFTER: Final = 4
"""So many times its limit may a host open sessions: the library leaves some memory and a file open behind each."""


class Worker:
    """One process, and the sessions that have a seat in it or are promised one."""

    def __init__(self, process: WorkerProcess, folder: Path, limit: int, *, shared: bool) -> None:
        self.process = process
        self.folder = folder
        self.limit = limit
        self.shared = shared
        """Whether other sessions may join."""
        self.members: set[NeonizeSession] = set()
        self.born = asyncio.get_running_loop().time()
        self.draining = False
        self.start: asyncio.Task[None]

    def takes(self, session: NeonizeSession) -> bool:
        """Whether it has room for a session of that account."""
        return (
            self.shared
            and not self.draining
            and self.process.cause is None
            and len(self.members) < self.limit
            and self.folder == session.store.parent
            and not self.has_account_of(session)
        )

    def has_account_of(self, session: NeonizeSession) -> bool:
        """Whether another session in it is of the same account."""
        return session.account is not None and any(
            one is not session and one.account == session.account for one in self.members
        )

    def over_memory(self, limit: int) -> bool:
        """Whether it uses more than so many bytes."""
        settled = asyncio.get_running_loop().time() - self.born > SETTLED
        return (self.process.memory or 0) > limit * (1 if settled else 2)

    @property
    def worn(self) -> bool:
        """Whether so many sessions came and went that a fresh process is better."""
        return self.limit > 1 and self.process.opened > RETIRE_AFTER * self.limit

    async def empty(self, move: Callable[[NeonizeSession], Awaitable[None]], limit: float) -> None:
        """Have all sessions moved, a few at a time; gives up after so many seconds."""
        self.draining = True
        few = asyncio.Semaphore(MOVES_AT_ONCE)

        async def move_one(session: NeonizeSession) -> None:
            async with few:
                if session in self.process.seats.values() and session.wanted:
                    await move(session)
                    await session.connected(MOVE_LIMIT)

        moves = [asyncio.create_task(move_one(one)) for one in sorted(self.members, key=lambda one: one.name)]
        if moves:
            await asyncio.wait(moves, timeout=limit)
