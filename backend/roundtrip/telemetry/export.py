"""From the event loop to the collector, spans: bounded everywhere, and every loss is counted.

    events:              event loop → records (deque) → this thread: spans, in batches → exporter
    requests and links:  the SDK's spans → its batch processor → exporter

A collector that is slow or gone fills the queues; what comes then is dropped, at the cost of an addition. Nothing here
makes the event loop wait. Loaded only where something is exported.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeVar

import structlog
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from roundtrip.telemetry.otlp_encoding import count
from roundtrip.telemetry.span_records import SpanRecord

log = structlog.get_logger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MAX_RECORDS: Final = 8192
"""Events that may wait to become spans: about ten megabytes at the most."""

BATCH: Final = 2048
"""Spans of one export, if `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` does not say: a request costs as much as 50 spans."""

_DELAY: Final = 5000
"""Milliseconds that a span waits for a batch to fill, if `OTEL_BSP_SCHEDULE_DELAY` does not say: the SDK's default."""

_GATHER: Final = 0.1
"""Seconds that records gather before they are built: an idle process sleeps, and a busy one works in batches."""

_SLICE: Final = 20
"""Records built before the event loop gets the interpreter's lock again, for `_PAUSE` seconds at least."""

_PAUSE: Final = 0.0002

QUEUE: Final = 2048
"""Log records, and by default spans of requests, that may wait for their export: the SDK's default."""


class RecordBuilder(Protocol):
    """What makes spans of records."""

    def build(self, record: SpanRecord) -> Iterable[ReadableSpan]:
        """The spans of a record; none if its event's context is malformed."""


class SpanPipeline:
    """Takes records from the event loop, and gives the spans built from them to the exporter."""

    def __init__(
        self,
        builder: RecordBuilder,
        exporter: SpanExporter,
        processor: BoundedProcessor,
        dropped: Callable[[float], None],
        exported: Callable[[float], None] = lambda _count: None,
    ) -> None:
        """`processor` is that of the SDK's spans, which is ended with the pipeline. `dropped` counts losses: a record
        that found the queue full is one, however many spans it stood for."""
        self._builder = builder
        self._exporter = _CountingSpanExporter(exporter, dropped, exported)
        self._processor = processor
        self._dropped = dropped
        self._records: deque[SpanRecord] = deque()
        queue = environment_number(OTEL_BSP_MAX_QUEUE_SIZE, MAX_RECORDS)
        self._limit = min(MAX_RECORDS, queue)
        self._batch: list[ReadableSpan] = []
        self._size = 0
        self._batch_size = min(environment_number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, BATCH), queue)
        self._delay = environment_number(OTEL_BSP_SCHEDULE_DELAY, _DELAY) / 1000
        self._due = 0.0
        """When the batch is exported though it is not full, on the monotonic clock; set while it holds spans."""
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="span-builder", daemon=True)
        self._thread.start()

    def full(self) -> bool:
        """Whether `put` would drop a record now."""
        return len(self._records) >= self._limit

    def put(self, record: SpanRecord) -> None:
        """Queue a record or drop it; never waits."""
        records = self._records
        if len(records) >= self._limit:
            self._dropped(1)
            return
        records.append(record)
        if len(records) == 1:
            self._wake.set()

    def close(self, timeout: float = 3.0) -> None:
        """Export what is queued within `timeout` seconds; what is left then is counted as lost."""
        self._closing = True
        self._wake.set()
        deadline = time.monotonic() + timeout
        self._thread.join(timeout / 2)
        end = threading.Thread(target=self._processor.shutdown, name="span-shutdown", daemon=True)
        end.start()
        end.join(max(0.1, deadline - time.monotonic()))
        if left := len(self._records) + self._size:
            self._dropped(left)

    def _run(self) -> None:
        while not self._closing or self._records:
            self._wake.wait(max(0.0, self._due - time.monotonic()) if self._batch else None)
            if not self._closing:
                time.sleep(_GATHER)
            self._wake.clear()
            self._drain()
            if self._batch and time.monotonic() >= self._due:
                self._export()
        self._export()

    def _drain(self) -> None:
        built = 0
        while self._records:
            self._build(self._records.popleft())
            built += 1
            if self._size >= self._batch_size:
                self._export()
            elif built % _SLICE == 0 and not self._closing:
                time.sleep(_PAUSE)

    def _build(self, record: SpanRecord) -> None:
        try:
            spans = list(self._builder.build(record))
        except Exception as error:  # one faulty record must not end the thread
            self._dropped(1)
            log.error("span_not_built", note=type(record).__name__, exc_info=error)
            return
        if not self._batch:
            self._due = time.monotonic() + self._delay
        self._batch += spans
        self._size += count(spans)

    def _export(self) -> None:
        batch, self._batch, self._size = self._batch, [], 0
        if not batch:
            return
        try:
            self._exporter.export(batch)
        except Exception as error:  # noqa: BLE001  # a faulty exporter must not end the thread; the loss is counted
            log.error("span_batch_not_exported", spans=len(batch), reason=type(error).__name__)


class BoundedProcessor(SpanProcessor):
    """The SDK's batch processor, which drops its oldest span with nothing but a log line when it is full. It never
    gets more than fits, and what had to be refused is counted."""

    def __init__(
        self,
        exporter: SpanExporter,
        dropped: Callable[[float], None],
        exported: Callable[[float], None] = lambda _count: None,
    ) -> None:
        self._capacity = environment_number(OTEL_BSP_MAX_QUEUE_SIZE, QUEUE)
        self._exporter = _CountingSpanExporter(exporter, dropped, exported)
        self._batches = BatchSpanProcessor(self._exporter, max_queue_size=self._capacity)
        self._dropped = dropped
        self._queued = 0
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """How many spans still fit."""
        return self._capacity - (self._queued - self._exporter.taken)

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            fits = self.room > 0
            self._queued += fits
        if fits:
            self._batches.on_end(span)
        else:
            self._dropped(1)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]  # published without types

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._batches.force_flush(timeout_millis)


def environment_number(name: str, default: int) -> int:
    """A positive number from the environment, or the default."""
    try:
        return max(1, int(os.environ.get(name) or default))
    except ValueError:
        return default


class _CountingSpanExporter(SpanExporter):
    """Passes spans to an exporter; counts what it took off the queue, what arrived, and what was lost."""

    def __init__(
        self, exporter: SpanExporter, dropped: Callable[[float], None], exported: Callable[[float], None]
    ) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self._exported = exported
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += (size := count(spans))
        result = counted(self._exporter.export, spans, SpanExportResult.SUCCESS, self._dropped, size)
        if result is SpanExportResult.SUCCESS:
            self._exported(size)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def counted(
    export: Callable[[Sequence[_Item]], _Result],
    batch: Sequence[_Item],
    success: _Result,
    dropped: Callable[[float], None],
    size: int,
) -> _Result:
    """Export a batch of this size; one that raises or fails is counted as lost."""
    try:
        result = export(batch)
    except Exception:
        dropped(size)
        raise
    if result is not success:
        dropped(size)
    return result
