"""Spans on their way to a collector: one that is dead or slow costs neither time nor memory, and its losses show."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from roundtrip.delivery.state import Delivery
from roundtrip.telemetry import export
from roundtrip.telemetry.setup import configure_tracing
from tests.telemetry.helpers import Drops, acked, eventually


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


def test_all_that_was_noted_arrives() -> None:
    drops, exporter = Drops(), InMemorySpanExporter()
    traces = configure_tracing("1", drops, {}, exporter)
    for _ in range(500):
        traces.event_spans.settled(acked(traces.event_spans.context(None)))
    traces.close()
    assert len(exporter.get_finished_spans()) == 1500
    assert drops.count == 0


def test_a_stuck_collector_costs_neither_time_nor_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_RECORDS", 500)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    drops, exporter = Drops(), Stuck()
    traces = configure_tracing("1", drops, {}, exporter)
    event_spans = traces.event_spans
    for _ in range(3000):
        event_spans.settled(acked(event_spans.context(None)))
    eventually(lambda: drops.count > 1000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    slowest = 0.0
    for _ in range(20_000):
        delivery = acked(event_spans.context(None))
        started = time.perf_counter()
        event_spans.settled(delivery)
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


class Batches(InMemorySpanExporter):
    """Remembers how large each batch was."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.sizes.append(len(spans))
        return super().export(spans)


def test_a_batch_is_as_large_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "30")
    exporter = Batches()
    traces = configure_tracing("1", Drops(), {}, exporter)
    for _ in range(25):
        traces.event_spans.settled(acked(traces.event_spans.context(None)))
    traces.close()
    assert exporter.sizes == [30, 30, 15]


def test_a_batch_that_does_not_fill_leaves_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    exporter = Batches()
    traces = configure_tracing("1", Drops(), {}, exporter)
    traces.event_spans.settled(acked(traces.event_spans.context(None)))
    eventually(lambda: exporter.sizes == [3])
    traces.event_spans.settled(acked(traces.event_spans.context(None)))
    eventually(lambda: exporter.sizes == [3, 3])
    traces.close()


def test_closing_does_not_wait_for_a_stuck_collector() -> None:
    exporter = Stuck()
    traces = configure_tracing("1", Drops(), {}, exporter)
    for _ in range(1000):
        traces.event_spans.settled(acked(traces.event_spans.context(None)))
    started = time.monotonic()
    traces.close(1.0)
    assert time.monotonic() - started < 10.0
    exporter.go.set()


@pytest.mark.parametrize("error", [None, ConnectionError("refused")])
def test_what_a_collector_refuses_is_counted(error: Exception | None) -> None:
    drops = Drops()
    traces = configure_tracing("1", drops, {}, Failing(error))
    for _ in range(10):
        traces.event_spans.settled(acked(traces.event_spans.context(None)))
    traces.close(20)
    assert drops.count == 30


def test_a_note_that_cannot_be_built_is_counted_and_the_next_one_is() -> None:
    drops, exporter = Drops(), InMemorySpanExporter()
    traces = configure_tracing("1", drops, {}, exporter)
    broken = acked(traces.event_spans.context(None))
    broken.started_ns = None  # type: ignore[assignment]  # what no courier does
    traces.event_spans.settled(broken)
    traces.event_spans.settled(acked(traces.event_spans.context(None)))
    traces.close()
    assert drops.count == 1
    assert {span.name for span in exporter.get_finished_spans()} >= {"ack whatsapp_connected"}


async def test_an_event_that_is_not_kept_costs_next_to_nothing() -> None:
    """The bound is generous for a busy machine; the figure is printed."""
    traces = configure_tracing("1", Drops(), {"OTEL_TRACES_SAMPLER": "always_off"}, InMemorySpanExporter())
    delivery = acked(traces.event_spans.context(None))
    rounds = 20_000
    best = min(_timed(traces.event_spans.settled, delivery, rounds) for _ in range(5))
    print(f"settled, not kept: {best * 1e6:.2f} µs")
    assert best < 5e-6
    await asyncio.to_thread(traces.close)


def _timed(call: Callable[[Delivery], None], delivery: Delivery, rounds: int) -> float:
    started = time.perf_counter()
    for _ in range(rounds):
        call(delivery)
    return (time.perf_counter() - started) / rounds
