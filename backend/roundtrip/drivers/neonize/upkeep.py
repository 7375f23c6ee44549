"""Hosts that run, and are emptied: one that uses too much memory, one that is worn, one that is not needed.

Hosts become hollow as accounts are logged out. The emptiest is emptied into the others when those are then at most
`FULL` full: a new one is started only when all are full, so that this never goes to and fro.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from roundtrip.drivers.base import Exit, MoveCause
from roundtrip.drivers.neonize.shared_worker import SETTLED, Worker

log = structlog.get_logger(__name__)

WATCH_INTERVAL: Final = 5.0
"""Seconds between two looks at all hosts."""
MERGE_INTERVAL: Final = 60.0
"""Seconds between two hosts that are emptied because they are not needed."""
FULL: Final = 0.75
"""How full the others may be then."""


class Fleet(Protocol):
    """What has the hosts: `fleet.Fleet`."""

    workers: list[Worker]

    def drain(self, worker: Worker, cause: MoveCause, exit_: Exit) -> None:
        """Begin to move all sessions of a host elsewhere, and end it."""


async def watch(fleet: Fleet, memory_limit: int) -> None:
    """Look at all hosts again and again. Never returns. `memory_limit` is in bytes, for one of them."""
    loop = asyncio.get_running_loop()
    merged = loop.time()
    while True:
        await asyncio.sleep(WATCH_INTERVAL)
        for worker in list(fleet.workers):
            if worker.draining or worker.process.cause is not None or not worker.members:
                continue
            if worker.over_memory(memory_limit):
                log.error("worker_over_memory", worker=worker.process.name, memory=worker.process.memory)
                fleet.drain(worker, MoveCause.MEMORY, Exit.MEMORY)
            elif worker.worn:
                fleet.drain(worker, MoveCause.BALANCE, Exit.STOPPED)
        if loop.time() - merged >= MERGE_INTERVAL and (spare := not_needed(fleet.workers, loop.time())) is not None:
            merged = loop.time()
            fleet.drain(spare, MoveCause.BALANCE, Exit.STOPPED)


def not_needed(workers: Sequence[Worker], now: float) -> Worker | None:
    """The host whose sessions the others have room for, if there is one.

    None while any host starts, ends, or has a session that is not connected: then it is not the time to move others.
    """
    hosts = [worker for worker in workers if worker.shared]
    if len(hosts) < 2 or not all(_quiet(host, now) for host in hosts):
        return None
    emptiest = min(hosts, key=lambda host: len(host.members))
    others = [host for host in hosts if host is not emptiest]
    if sum(len(host.members) for host in hosts) > FULL * sum(host.limit for host in others):
        return None
    if any(not any(other.takes(session) for other in others) for session in emptiest.members):
        return None  # two of one account keep apart, and so do two folders
    return emptiest


def _quiet(host: Worker, now: float) -> bool:
    settled = not host.draining and host.process.cause is None and now - host.born > SETTLED
    return settled and all(session.online for session in host.members)
