"""The simulated driver: one scripted phone per link, in workers that it makes up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from roundtrip.clock import Handle, LoopClock, TimerClock
from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report, SessionSpec
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.drivers.simulated.hosts import SimulatedHosts
from roundtrip.drivers.simulated.phone import FIRST_CODE_AFTER, SimulatedSession
from roundtrip.settings import Settings
from roundtrip.telemetry.tracing import RequestTracer


class SimulatedDriver:
    """Implements `drivers.base.Driver`. `scan_after`: seconds from a session's start until its phone scans by itself;
    None waits for `simulate`."""

    name = "simulated"

    def __init__(
        self,
        speed: float = 1.0,
        scan_after: float | None = None,
        clock: TimerClock | None = None,
        hosts: SimulatedHosts | None = None,
    ) -> None:
        self.hosts = hosts or SimulatedHosts(32)
        self._speed = speed
        self._scan_after = scan_after
        self._clock = clock or LoopClock()
        self._sessions: dict[str, SimulatedSession] = {}
        self._scans: dict[str, Handle] = {}
        self._unreachable: set[str] = set()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The driver that the settings describe."""
        hosts = SimulatedHosts(settings.sessions_per_worker)
        return cls(settings.simulated_speed, settings.simulated_scan_after, hosts=hosts)

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> SimulatedSession:
        reachable = spec.link_id not in self._unreachable
        session = SimulatedSession(spec, report, self._clock, self._speed, reachable, self.hosts)
        self._sessions[spec.link_id] = session
        if self._scan_after is not None:
            # Not before there is a code to scan.
            after = max(self._scan_after, 1.1 * FIRST_CODE_AFTER / self._speed)
            self._scans[spec.link_id] = self._clock.call_later(after, lambda: self._scan(spec.link_id))
        return session

    async def simulate(self, link_id: str, action: SimulateAction) -> bool:
        """Make the phone of a link do something; False when it is impossible now."""
        if action is SimulateAction.UNREACHABLE:
            self._unreachable.add(link_id)
        elif action is SimulateAction.RECONNECT and link_id in self._unreachable:
            self._unreachable.discard(link_id)  # the link's next try succeeds
            return True
        session = self._sessions.get(link_id)
        return session is not None and session.perform(action)

    def observe(self, tracer: RequestTracer, on_exit: Callable[[d.Exit], None]) -> None:
        """Trace the moves of sessions, and call `on_exit` for each worker that would have exited."""
        self.hosts.tracer, self.hosts.on_exit = tracer, on_exit

    def workers(self) -> list[d.WorkerView]:
        """The workers that would run now."""
        return self.hosts.views()

    def kill_host(self) -> int:
        """Have the host with the most phones die; they are back in `REVIVED_AFTER`. Returns how many there were."""
        name, phones = self.hosts.lose_fullest()
        for phone in phones:
            phone.lose_host(name)
        return len(phones)

    async def close(self) -> None:
        for handle in self._scans.values():
            handle.cancel()
        for session in self._sessions.values():
            await session.stop()

    def _scan(self, link_id: str) -> None:
        if (session := self._sessions.get(link_id)) is not None:
            session.perform(SimulateAction.SCAN)
