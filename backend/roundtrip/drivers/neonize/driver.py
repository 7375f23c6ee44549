"""The driver for real accounts: what the links call. `fleet.py` has the workers, `driver_session.py` a session."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from roundtrip.drivers import base as d
from roundtrip.drivers import key_files as files
from roundtrip.drivers.neonize import pipe, process
from roundtrip.drivers.neonize.driver_session import STOP_TIMEOUT, NeonizeSession
from roundtrip.drivers.neonize.fleet import Fleet
from roundtrip.settings import Settings
from roundtrip.telemetry.tracing import OFF, RequestTracer

WORKER: Final = (sys.executable, "-m", "roundtrip.drivers.neonize.worker")
INHERITED: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "PATH", "HOME", "TZ", "LANG")
"""All that a worker gets of the environment: what TLS and the clock need. No setting, no secret."""

RUNTIME_LIMITS: Final = {"MALLOC_ARENA_MAX": "2", "GOGC": "50"}
"""Sessions are idle most of the time: these trade some CPU for less memory."""
MEGABYTE: Final = 1024 * 1024
GO_BASE: Final = 24 * MEGABYTE
GO_PER_SESSION: Final = MEGABYTE
"""Go's soft limit of a worker: above it, which accounts' histories exceed for some seconds, Go collects more often
(with half of a core at most) and returns what it can."""


class NeonizeDriver:
    """Implements `drivers.base.Driver` and `HasWorkers`. `worker_command` is for tests, which start a worker of their
    own."""

    name = "neonize"

    def __init__(
        self,
        proxy: str | None = None,
        *,
        worker_command: Sequence[str] = WORKER,
        environment: Mapping[str, str] = os.environ,
        code_life: float = 160.0,
        device_name: str = "Roundtrip",
        sessions_per_worker: int = 32,
        memory_limit: int = 512 * MEGABYTE,
    ) -> None:
        """`code_life`: seconds for all codes of one session together. `device_name` is what a phone's list of linked
        devices shows; it counts when a device is paired. `memory_limit` is in bytes, for one worker."""
        self._proxy = proxy
        self._command = tuple(worker_command)
        go_limit = min(GO_BASE + GO_PER_SESSION * sessions_per_worker, memory_limit // 2)
        limits = RUNTIME_LIMITS | {"GOMEMLIMIT": str(go_limit)}
        self._environment = limits | {name: environment[name] for name in INHERITED if name in environment}
        self._code_life = code_life
        self._device_name = device_name
        self._tracer = OFF
        self._until: float | None = None
        self._fleet = Fleet(self._launch, sessions_per_worker, memory_limit)

    @classmethod
    def of(
        cls, settings: Settings, worker_command: Sequence[str] = WORKER, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """The driver that the settings describe."""
        return cls(
            None if settings.whatsapp_proxy is None else settings.whatsapp_proxy.get_secret_value(),
            worker_command=worker_command,
            environment=environment,
            code_life=settings.pairing_timeout,
            device_name=settings.device_name,
            sessions_per_worker=settings.sessions_per_worker,
            memory_limit=settings.worker_memory_limit * MEGABYTE,
        )

    def _launch(self, folder: Path) -> process.Launch:
        begin = pipe.Begin(
            str(folder), self._proxy, device_name=self._device_name, heartbeat=process.HEARTBEAT_INTERVAL
        )
        return process.Launch(self._command, self._environment, begin, lambda: self._until)

    def run_until(self, deadline: float) -> None:
        """As `SupportsDeadline.run_until`."""
        self._until = deadline
        for worker in self._fleet.workers:
            worker.process.send(pipe.RunUntil(deadline))

    def observe(self, tracer: RequestTracer, on_exit: Callable[[d.Exit], None]) -> None:
        """Trace the moves of sessions that start from now on, and call `on_exit` for each worker that exits."""
        self._tracer = tracer
        self._fleet.on_exit = on_exit

    def workers(self) -> list[d.WorkerView]:
        """The workers that run now."""
        return [
            d.WorkerView(one.process.name, one.process.pid, len(one.members), one.process.memory)
            for one in self._fleet.workers
        ]

    async def start(self, spec: d.SessionSpec, report: Callable[[d.Report], None]) -> NeonizeSession:
        """Start a session. Raises `OSError` when the system cannot start a process or make the store's folder."""
        spec = d.SessionSpec(
            spec.link_id, spec.store.resolve(), spec.phone_number, spec.traceparent, spec.seed, spec.account
        )
        spec.store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        paired = await asyncio.to_thread(files.holds_device, spec.store)
        session = NeonizeSession(spec, report, self._fleet, self._tracer, paired=paired, code_life=self._code_life)
        await self._fleet.place(session)
        return session

    async def close(self) -> None:
        """Stop every session, together."""
        await self._fleet.close(STOP_TIMEOUT)
