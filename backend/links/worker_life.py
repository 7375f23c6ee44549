"""The life of one session's process: one span, and one count of how it ended."""

from __future__ import annotations

from typing import Final

from backend.links.driver import Exit, SessionSpec, exit_of
from backend.links.meter import LinkMeter
from backend.telemetry.request_tracer import LINK_ID, RequestTracer

_EXIT_CODE: Final = "process.exit.code"






class WorkerLife:
    """Begins now; its first end is the one that counts. `traceparent` is what the worker's own spans join."""

    def __init__(self, tracer: RequestTracer, meter: LinkMeter, spec: SessionSpec) -> None:
        self._meter = meter
        self._step = tracer.start("worker", spec.traceparent, attributes={LINK_ID: spec.link_id})
        self._over = False
        self.traceparent = self._step.traceparent

    def died(self, status: int, unresponsive: bool = False) -> None:
        """It ended by itself, or the driver ended it because it no longer answered."""
        if not self._over:
            self._step.set(_EXIT_CODE, status)
            self.ended(Exit.UNRESPONSIVE if unresponsive else exit_of(status))

    def ended(self, how: Exit) -> None:
        """It is over."""
        if self._over:
            return
        self._over = True
        self._step.set("roundtrip.worker.exit", how.value)
        if how in (Exit.CRASHED, Exit.KILLED, Exit.UNRESPONSIVE):
            self._step.fail(f"worker_{how.value}")
        self._step.end()
        self._meter.worker_exit(how.value)
