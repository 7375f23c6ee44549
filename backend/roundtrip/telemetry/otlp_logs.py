"""From a logger to the collector: bounded, and every loss is counted.

    a logger → log records → the SDK's batch processor → OTLP exporter

Loaded only where something is exported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_STACKTRACE
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from roundtrip.telemetry.export import QUEUE, counted

_SEVERITY: Final = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}

_EXPORT_LOGGERS: Final = ("opentelemetry", "urllib3", "requests", "roundtrip.telemetry.otlp_spans")
"""Their lines are about the export itself; exporting them would make more of them."""


class _CountingLogExporter(LogRecordExporter):
    """Passes log records to an exporter; counts what it took off the queue, and what was lost."""

    def __init__(self, exporter: LogRecordExporter, dropped: Callable[[float], None]) -> None:
        self._exporter = exporter
        self._dropped = dropped
        self.taken = 0

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self.taken += len(batch)
        return counted(self._exporter.export, batch, LogRecordExportResult.SUCCESS, self._dropped, len(batch))

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # published without types

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class OtlpLogs(logging.Handler):
    """Gives each line to the SDK's batch processor; a full queue drops the line and counts it.

    Its formatter renders the line as JSON, see `logging.export_to`: the same fields as on stderr, redacted alike.
    """

    def __init__(
        self, resource: Resource, dropped: Callable[[float], None], exporter: LogRecordExporter | None = None
    ) -> None:
        super().__init__()
        self._exporter = _CountingLogExporter(exporter or OTLPLogExporter(), dropped)
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(BatchLogRecordProcessor(self._exporter, max_queue_size=QUEUE))
        self._dropped = dropped
        self._queued = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_EXPORT_LOGGERS):
            return
        if self._queued - self._exporter.taken >= QUEUE:
            self._dropped(1)
            return
        fields = msgspec.json.decode(self.format(record), type=dict[str, Any])
        self._queued += 1
        self._provider.get_logger(record.name).emit(_log_record(record, fields))

    def close(self) -> None:
        """Export what is queued; a collector that does not answer is waited for two seconds."""
        end = threading.Thread(target=self._provider.shutdown, name="log-shutdown", daemon=True)
        end.start()
        end.join(2.0)
        super().close()


def _log_record(record: logging.LogRecord, fields: dict[str, Any]) -> LogRecord:
    trace_id, span_id = fields.pop("trace_id", None), fields.pop("span_id", None)
    exception = fields.pop("exception", None)
    if exception is not None:
        fields[EXCEPTION_STACKTRACE] = exception
    for own in ("timestamp", "level", "logger"):
        fields.pop(own, None)
    context = trace.set_span_in_context(trace.INVALID_SPAN)
    if isinstance(trace_id, str) and isinstance(span_id, str):
        of = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1))
        context = trace.set_span_in_context(NonRecordingSpan(of))
    return LogRecord(
        timestamp=int(record.created * 1e9),
        context=context,
        severity_text=record.levelname,
        severity_number=_SEVERITY.get(record.levelno, SeverityNumber.INFO),
        body=str(fields.pop("event", "")),
        attributes={name: _value(value) for name, value in fields.items() if value is not None},
    )


def _value(value: object) -> str | bool | int | float | list[str]:
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [str(part) for part in value]
    return str(value)
