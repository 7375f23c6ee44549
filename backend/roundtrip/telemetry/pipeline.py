"""From notes to the collector, in threads of their own: bounded everywhere, and every loss is counted.

    event loop → notes (deque) → builder thread → spans (the SDK's batch processor) → OTLP exporter

A collector that is slow or gone fills the second queue, then the first; then notes are dropped, at the cost of an
addition. Nothing here makes the event loop wait.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE, OTEL_EXPORTER_OTLP_LOGS_ENDPOINT
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from roundtrip.telemetry import logging, redaction, tracing
from roundtrip.telemetry import logging as crash
from roundtrip.telemetry.context import Vocabulary
from roundtrip.telemetry.event_spans import Note
from roundtrip.telemetry.loop import LoopLag
from roundtrip.telemetry.metrics import Metrics
from roundtrip.telemetry.spans import SpanBuilder

log = structlog.get_logger(__name__)

MAX_NOTES: Final = 8192
"""Events that may wait to become spans: about ten megabytes at the most."""

_GATHER: Final = 0.1
"""Seconds that the builder lets notes gather, so that an idle process sleeps and a busy one works in batches."""

_SLICE: Final = 20
"""Notes built before the event loop is let at the interpreter again."""

_SDK_CAPACITY: Final = 2048

_BREATH: Final = 0.0002
_FULL: Final = 0.02
"""Seconds until a full queue is looked at again."""


def _capacity() -> int:
    """`OTEL_BSP_MAX_QUEUE_SIZE`, or the SDK's default."""
    try:
        return max(1, int(os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE, _SDK_CAPACITY)))
    except ValueError:
        return _SDK_CAPACITY


class CountingExporter(SpanExporter):
    """Passes spans to an exporter; counts what it took off the queue and what it lost."""

    def __init__(self, exporter: SpanExporter, dropped: Callable[[float], None]) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception:
            self._dropped(len(spans))
            raise
        if result is not SpanExportResult.SUCCESS:
            self._dropped(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class BoundedProcessor(BatchSpanProcessor):
    """The SDK's batch processor, which drops its oldest span with nothing but a log line when it is full. This one
    is never given more than fits, and counts what it had to refuse."""

    def __init__(self, exporter: SpanExporter, dropped: Callable[[float], None]) -> None:
        self._counting = CountingExporter(exporter, dropped)
        self._capacity: int = _capacity()
        super().__init__(self._counting, max_queue_size=self._capacity)
        self._dropped = dropped
        self._given = 0
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """How many spans still fit."""
        return self._capacity - (self._given - self._counting.taken)

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            fits = self.room > 0
            self._given += fits
        if fits:
            super().on_end(span)
        else:
            self._dropped(1)


class Pipeline:
    """Implements `event_spans.Sink`: takes notes from the event loop, hands spans to the processor."""

    def __init__(
        self,
        builder: SpanBuilder,
        processor: BoundedProcessor,
        dropped: Callable[[float], None],
        size: int | None = None,
    ) -> None:
        """`dropped` counts losses: a note that found the queue full is one, however many spans it stood for."""
        self._builder = builder
        self._processor = processor
        self._dropped = dropped
        self._size = MAX_NOTES if size is None else size
        self._notes: deque[Note] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="span-builder", daemon=True)
        self._thread.start()

    def put(self, note: Note) -> None:
        """Take a note or drop it; never waits."""
        notes = self._notes
        if len(notes) >= self._size:
            self._dropped(1)
            return
        notes.append(note)
        if len(notes) == 1:
            self._wake.set()

    def close(self, timeout: float = 3.0) -> None:
        """Export what is there within `timeout` seconds; what is left then is counted as lost."""
        self._closing = True
        self._wake.set()
        deadline = time.monotonic() + timeout
        self._thread.join(timeout / 2)
        end = threading.Thread(target=self._processor.shutdown, name="span-shutdown", daemon=True)
        end.start()
        end.join(max(0.1, deadline - time.monotonic()))
        if self._notes:
            self._dropped(len(self._notes))

    def _run(self) -> None:
        while not self._closing or self._notes:
            self._wake.wait()
            if not self._closing:
                time.sleep(_GATHER)
            self._wake.clear()
            self._drain()

    def _drain(self) -> None:
        built = 0
        while self._notes:
            if self._processor.room < 4:
                time.sleep(_FULL)
                continue
            self._build(self._notes.popleft())
            built += 1
            if built % _SLICE == 0 and not self._closing:
                time.sleep(_BREATH)

    def _build(self, note: Note) -> None:
        try:
            for span in self._builder.build(note):
                self._processor.on_end(span)
        except Exception as error:  # one note that cannot be told must not end all the others
            self._dropped(1)
            log.error("span_not_built", note=type(note).__name__, exc_info=error)


if TYPE_CHECKING:
    from roundtrip.telemetry.otlp_logs import OtlpLogs


class Telemetry:
    """What the program's parts are given: `metrics`, `event_spans` for events, `tracer` for requests and links."""

    def __init__(self, metrics: Metrics, traces: tracing.Tracing, logs: OtlpLogs | None) -> None:
        self.metrics = metrics
        self.event_spans = traces.event_spans
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
        from roundtrip.telemetry.otlp_logs import OtlpLogs  # loaded only where something is exported

        logs = OtlpLogs(tracing.resource(version), metrics.telemetry_dropped["logs"].inc)
        logging.export_to(logs)
    return Telemetry(metrics, traces, logs)
