"""The worker processes that simulated phones would share: who is in which, and the fault `host_death`.

A phone that is not paired has a worker of its own, paired ones share hosts, as with the real driver.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

import structlog

from roundtrip.drivers.base import Exit, WorkerView
from roundtrip.faults import Faults
from roundtrip.telemetry.tracing import OFF

log = structlog.get_logger(__name__)

SESSION_MEMORY: Final = 1_500_000
HOST_MEMORY: Final = 40_000_000
"""Bytes, about as measured with the real library."""


class Phone(Protocol):
    """A session in a host."""

    def lose_host(self, name: str) -> None: ...


class SimulatedHosts:
    """Not for concurrent use. `on_exit` is called for each worker that would exit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers = itertools.count(1)
        self._members: dict[str, set[Phone]] = {}
        self._shared: set[str] = set()
        """The workers that are hosts."""
        self._host_of: dict[Phone, str] = {}
        self.on_exit: Callable[[Exit], None] = lambda _cause: None
        self.tracer = OFF

    def enter(self, phone: Phone, *, paired: bool) -> None:
        """Put a phone into a worker: a host with room, or one of its own. It leaves the one it was in."""
        self.leave(phone)
        rooms = [name for name in self._shared if len(self._members[name]) < self._limit] if paired else []
        name = rooms[0] if rooms else f"w{next(self._numbers)}"
        if paired:
            self._shared.add(name)
        self._members.setdefault(name, set()).add(phone)
        self._host_of[phone] = name

    def leave(self, phone: Phone, cause: Exit = Exit.STOPPED) -> None:
        """Take a phone out; an empty worker exits, for this cause."""
        name = self._host_of.pop(phone, None)
        if name is None:
            return
        self._members[name].discard(phone)
        if not self._members[name]:
            self._drop(name, cause)

    def lose_fullest(self) -> tuple[str, list[Phone]]:
        """The host with the most phones dies. Returns its name and these."""
        if not self._shared:
            return "", []
        name = max(self._shared, key=lambda one: len(self._members[one]))
        phones = list(self._members[name])
        for phone in phones:
            del self._host_of[phone]
        self._drop(name, Exit.KILLED)
        log.info("worker_ended", worker=name, cause=Exit.KILLED, sessions=len(phones))
        return name, phones

    def name_of(self, phone: Phone) -> str | None:
        return self._host_of.get(phone)

    def views(self) -> list[WorkerView]:
        return [
            WorkerView(name, None, len(members), HOST_MEMORY + SESSION_MEMORY * len(members))
            for name, members in self._members.items()
        ]

    def _drop(self, name: str, cause: Exit) -> None:
        del self._members[name]
        self._shared.discard(name)
        self.on_exit(cause)


@runtime_checkable
class KillsHosts(Protocol):
    """A driver whose hosts can be made to die: the simulated one."""

    def kill_host(self) -> int: ...


class HostKiller:
    """Runs while the fault is on, until `stop`. Does nothing to a driver that cannot play it."""

    def __init__(self, faults: Faults, driver: object) -> None:
        self._faults = faults
        self._driver = driver
        self._task: asyncio.Task[None] | None = None
        faults.subscribe(self._switched)

    def _switched(self, name: str, active: bool) -> None:
        if name == "host_death":
            self.stop()
            if active:
                self._task = asyncio.create_task(self._run(), name="host-death")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while (period := self._faults.host_death) is not None and isinstance(self._driver, KillsHosts):
            self._driver.kill_host()
            await asyncio.sleep(period)
