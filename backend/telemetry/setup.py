"""Telemetry as a whole, in the order in which it must start: logs, metrics, then what is exported."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_LOGS_ENDPOINT

from backend.telemetry import crash, logging, redaction, tracing
from backend.telemetry.loop_lag import LoopLag
from backend.telemetry.metrics import Metrics
from backend.telemetry.vocabulary import Vocabulary

if TYPE_CHECKING:
    from backend.telemetry.otlp_logs import OtlpLogs


class Telemetry:
    """What the program's parts are given: `metrics`, `journal` for events, `tracer` for requests and links."""

    def __init__(self, metrics: Metrics, traces: tracing.Tracing, logs: OtlpLogs | None) -> None:
        self.metrics = metrics
        self.journal = traces.journal
        self.tracer = traces.tracer
        self._traces = traces
        self._logs = logs
        self._lag = LoopLag(metrics.event_loop_lag)

    @property
    def exports(self) -> bool:
        """Whether spans are built and sent."""
        return self._traces.exports

    def watch_loop(self) -> None:
        """From now on measure the running loop's lag, and log and count what nobody awaited."""
        asyncio.get_running_loop().set_exception_handler(crash.loop_handler(self.metrics.task_failures.inc))
        self._lag.start()

    async def close(self) -> None:
        """Send what is there, for a few seconds at the most."""
        self._lag.stop()
        await asyncio.to_thread(self._traces.close)
        if self._logs is not None:
            await asyncio.to_thread(self._logs.close)


def start(
    words: Vocabulary,
    version: str,
    *,
    level: logging.Level = "INFO",
    format_: logging.Format = "auto",
    hash_key: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Telemetry:
    """Start telemetry for this process. `hash_key` is the key of the hashes that stand for ids."""
    redaction.configure(hash_key)
    logging.configure(level, format_)
    metrics = Metrics(words, version)
    traces = tracing.configure(version, metrics.telemetry_dropped["traces"].inc, environ)
    logs: OtlpLogs | None = None
    if tracing.wanted(OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, environ):
        from backend.telemetry.otlp_logs import OtlpLogs  # loaded only where something is exported

        logs = OtlpLogs(tracing.resource(version), metrics.telemetry_dropped["logs"].inc)
        logging.export_to(logs)
    return Telemetry(metrics, traces, logs)
