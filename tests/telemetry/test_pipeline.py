"""Spans on their way out: nothing without an endpoint, and a collector that is dead or slow costs neither time nor
memory, and shows."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from roundtrip.delivery.state import Delivery, DeliveryState
from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, Mode, StoredEvent
from roundtrip.telemetry import pipeline as pipeline_module
from roundtrip.telemetry import tracing

KEY = BotKey("user", "bot")


class Drops:
    def __init__(self) -> None:
        self.count = 0.0
        self._lock = threading.Lock()

    def __call__(self, number: float = 1) -> None:
        with self._lock:
            self.count += number


class Stuck(SpanExporter):
    """A collector that takes a batch and never answers, until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.go.wait(20)
        self.spans += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.go.set()


class Failing(SpanExporter):
    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._error:
            raise self._error
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


def acked(traceparent: str) -> Delivery:
    now = time.time_ns()
    event = StoredEvent(
        KEY, 1, "0193a2b4-7c11-7abc-8def-0123456789ab", EventType.CONNECTED, "link", now // 10**6, 0, traceparent, b"{}"
    )
    delivery = Delivery(event, Mode.LIVE, now)
    delivery.started_ns = delivery.ack_ns = now
    delivery.state = DeliveryState.ACKED
    delivery.finish(Attempt(at=now // 10**6, mode=Mode.LIVE, sockets=1))
    return delivery


def eventually(condition: Callable[[], Any], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_all_that_was_noted_arrives() -> None:
    drops, exporter = Drops(), InMemorySpanExporter()
    traces = tracing.configure("1", drops, {}, exporter)
    for _ in range(500):
        traces.journal.settled(acked(traces.journal.context(None)))
    traces.close()
    assert len(exporter.get_finished_spans()) == 1500
    assert drops.count == 0


def test_a_stuck_collector_costs_neither_time_nor_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "MAX_NOTES", 500)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    drops, exporter = Drops(), Stuck()
    traces = tracing.configure("1", drops, {}, exporter)
    journal = traces.journal
    for _ in range(3000):
        journal.settled(acked(journal.context(None)))
    eventually(lambda: drops.count > 1000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    slowest = 0.0
    for _ in range(20_000):
        delivery = acked(journal.context(None))
        started = time.perf_counter()
        journal.settled(delivery)
        slowest = max(slowest, time.perf_counter() - started)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 2_000_000, "20,000 events would be 20 MB"
    assert slowest < 0.25, "an event does not wait for a collector, though it may for a busy machine"
    lost = drops.count
    assert lost > 20_000
    exporter.go.set()
    traces.close()
    assert exporter.spans > 0


def test_closing_does_not_wait_for_a_stuck_collector() -> None:
    exporter = Stuck()
    traces = tracing.configure("1", Drops(), {}, exporter)
    for _ in range(1000):
        traces.journal.settled(acked(traces.journal.context(None)))
    started = time.monotonic()
    traces.close(1.0)
    assert time.monotonic() - started < 3.0
    exporter.go.set()


@pytest.mark.parametrize("error", [None, ConnectionError("refused")])
def test_what_a_collector_refuses_is_counted(error: Exception | None) -> None:
    drops = Drops()
    traces = tracing.configure("1", drops, {}, Failing(error))
    for _ in range(10):
        traces.journal.settled(acked(traces.journal.context(None)))
    traces.close()
    assert drops.count == 30


def test_a_note_that_cannot_be_built_is_counted_and_the_next_one_is() -> None:
    drops, exporter = Drops(), InMemorySpanExporter()
    traces = tracing.configure("1", drops, {}, exporter)
    broken = acked(traces.journal.context(None))
    broken.started_ns = None  # type: ignore[assignment]  # what no courier does
    traces.journal.settled(broken)
    traces.journal.settled(acked(traces.journal.context(None)))
    traces.close()
    assert drops.count == 1
    assert {span.name for span in exporter.get_finished_spans()} >= {"ack whatsapp_connected"}


class TestWithoutAnEndpoint:
    def test_nothing_is_built(self) -> None:
        threads = threading.active_count()
        traces = tracing.configure("1", Drops(), {})
        journal = traces.journal
        context = journal.context(None)
        journal.settled(acked(context))
        assert not traces.exports
        assert journal.kept(context, True) is None
        assert journal.replay(KEY, "sid", None) is None
        assert context.endswith("-00"), "nobody downstream is told that this trace is kept"
        assert threading.active_count() == threads
        traces.close()

    def test_a_request_still_joins_what_belongs_together(self) -> None:
        tracer = tracing.configure("1", Drops(), {}).tracer
        with tracer.span("PUT /x", f"00-{7:032x}-{8:016x}-01") as step:
            step.set("roundtrip.link.id", "link")
            assert step.traceparent.startswith(f"00-{7:032x}-")
        with tracer.span("PUT /x", "not a context") as step:
            assert len(step.traceparent) == 55

    def test_the_exporter_is_not_even_loaded(self) -> None:
        code = (
            "import sys; from roundtrip.telemetry import tracing; tracing.configure('1', print, {});"
            "sys.exit(any('otlp' in name or name == 'requests' for name in sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    @pytest.mark.parametrize(
        ("environ", "wanted"),
        [
            ({}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
            ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://x"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ],
    )
    def test_what_counts_as_one(self, environ: dict[str, str], wanted: bool) -> None:
        assert tracing.wanted("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", environ) is wanted


async def test_an_event_that_is_not_kept_costs_next_to_nothing() -> None:
    """The bound is generous for a busy machine; the figure is printed."""
    traces = tracing.configure("1", Drops(), {"OTEL_TRACES_SAMPLER": "always_off"}, InMemorySpanExporter())
    delivery = acked(traces.journal.context(None))
    rounds = 20_000
    best = min(_timed(traces.journal.settled, delivery, rounds) for _ in range(5))
    print(f"settled, not kept: {best * 1e6:.2f} µs")
    assert best < 5e-6
    await asyncio.to_thread(traces.close)


def _timed(call: Callable[[Delivery], None], delivery: Delivery, rounds: int) -> float:
    started = time.perf_counter()
    for _ in range(rounds):
        call(delivery)
    return (time.perf_counter() - started) / rounds
