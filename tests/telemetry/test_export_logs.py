"""Log lines as OTLP: the same redacted fields, and losses that are counted."""

from __future__ import annotations

import logging as stdlib
from collections.abc import Iterator, Sequence

import pytest
import structlog
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from roundtrip.telemetry import logging
from roundtrip.telemetry.otlp_logs import OtlpLogs
from tests.telemetry.helpers import Drops
from tests.telemetry.test_logging import TRACEPARENT, Lines, out  # noqa: F401  # the fixture


class Failing(LogRecordExporter):
    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        return LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def shutdown(self) -> None:
        pass


@pytest.fixture
def memory() -> InMemoryLogRecordExporter:
    return InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # published without types


@pytest.fixture
def drops() -> Drops:
    return Drops()


@pytest.fixture
def handler(out: Lines, memory: InMemoryLogRecordExporter, drops: Drops) -> Iterator[OtlpLogs]:  # noqa: F811
    handler = OtlpLogs(Resource({"service.name": "test"}), drops, memory)
    logging.export_to(handler)
    yield handler
    handler.close()


def test_a_line_is_a_record_with_its_trace(handler: OtlpLogs, memory: InMemoryLogRecordExporter, drops: Drops) -> None:
    structlog.get_logger("backend.x").warning(
        "emit_missed", reason="never_connected", user_id="canary", n=3, keys=["a"], traceparent=TRACEPARENT
    )
    handler.close()
    [got] = memory.get_finished_logs()
    record = got.log_record
    assert (record.body, record.severity_text) == ("emit_missed", "WARNING")
    assert (record.trace_id, record.span_id) == (7, 8)
    attributes = dict(record.attributes or {})
    assert attributes["reason"] == "never_connected"
    assert attributes["n"] == 3
    assert "canary" not in str(attributes)
    assert drops.count == 0


def test_an_exception_is_its_redacted_traceback(handler: OtlpLogs, memory: InMemoryLogRecordExporter) -> None:
    structlog.get_logger().error("failed", exc_info=KeyError("canary"))
    stdlib.getLogger("lib").error("for '%s'", "canary", exc_info=KeyError("canary"))
    handler.close()
    records = [got.log_record for got in memory.get_finished_logs()]
    assert [dict(record.attributes or {})["exception.stacktrace"] for record in records] == ["KeyError: '…'"] * 2
    assert "canary" not in str([(record.body, record.attributes) for record in records])


def test_lines_about_the_export_are_not_exported(handler: OtlpLogs, memory: InMemoryLogRecordExporter) -> None:
    stdlib.getLogger("opentelemetry.exporter").error("cannot export")
    handler.close()
    assert memory.get_finished_logs() == ()


def test_what_a_collector_refuses_is_counted(out: Lines, drops: Drops) -> None:  # noqa: F811
    handler = OtlpLogs(Resource({}), drops, Failing())
    logging.export_to(handler)
    structlog.get_logger().info("lost")
    handler.close()
    assert drops.count == 1


class Raising(Failing):
    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        raise OSError("no route")


def test_lines_that_an_exporter_raises_for_are_counted(out: Lines, drops: Drops) -> None:  # noqa: F811
    handler = OtlpLogs(Resource({}), drops, Raising())
    logging.export_to(handler)
    for number in range(3):
        structlog.get_logger("backend.x").warning("lost", n=number)
    handler.close()
    assert drops.count == 3
