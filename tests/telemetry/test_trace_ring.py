"""The ring of the newest traces: what it keeps, how much memory it takes, and that its spans are those of an export."""

from __future__ import annotations

import gc
import itertools
import json
import tracemalloc
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from roundtrip.delivery.state import Delivery, DeliveryState
from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, MissReason, Mode, StoredEvent
from roundtrip.telemetry.event_spans import EventSpanRecorder
from roundtrip.telemetry.log_ring import LogRing
from roundtrip.telemetry.redaction import key_hash
from roundtrip.telemetry.setup import configure_tracing
from roundtrip.telemetry.span_records import Processed
from roundtrip.telemetry.trace_ring import PLAIN_BURST, PLAIN_PER_SECOND, TraceRing, Wanted
from roundtrip.telemetry.tracing import NEVER, Contexts
from tests.support.process_state import put_back
from tests.telemetry.helpers import Drops

SIZE = 1 << 20
AT = 1_700_000_000_000


class Seconds:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def ring_of(size: int, seconds: Seconds | None = None) -> TraceRing:
    return TraceRing(size, Resource({}), InstrumentationScope("test"), seconds or Seconds())


NUMBERS = itertools.count(1)


def delivery(traceparent: str, *, missed: bool, number: int | None = None) -> Delivery:
    """A delivery that was confirmed, or whose first attempt has just missed."""
    n = next(NUMBERS) if number is None else number
    key = BotKey(f"user-{n}", f"bot-{n}")
    body = b'{"qr":"%d@secretsecretsecret"}' % n * 10
    event = StoredEvent(
        key, n, f"0193a2b4-7c11-7abc-8def-{n:012x}", EventType.CONNECTED, f"link-{n}", AT, 0, traceparent, body
    )
    it = Delivery(event, Mode.LIVE, AT * 1_000_000)
    it.started_ns = AT * 1_000_000
    reason = MissReason.NEVER_CONNECTED if missed else None
    it.finish(
        Attempt(at=AT, mode=Mode.LIVE, sockets=16, reason=reason, sids=tuple(f"sid{n:017}-{i}" for i in range(16)))
    )
    if not missed:
        it.ack_ns = AT * 1_000_000 + 5_000_000
        it.state = DeliveryState.ACKED
    return it


def record(spans: EventSpanRecorder, *, missed: bool) -> Delivery:
    it = delivery(spans.context(None), missed=missed)
    if missed:
        spans.attempted(it, it.attempts[-1])
    else:
        spans.settled(it)
    return it


def test_misses_are_kept_always_and_plain_successes_sampled(seconds: Seconds) -> None:
    ring = ring_of(SIZE * 16, seconds)
    spans = EventSpanRecorder(Contexts(NEVER), None, lambda: AT * 1_000_000, ring=ring)
    for _ in range(1000):
        record(spans, missed=False)
    lost = [record(spans, missed=True) for _ in range(1000)]
    notes, _ = ring.snapshot()
    assert len(notes) == PLAIN_BURST + 1000
    assert all(list(ring.find(ring.snapshot(), Wanted(event=it.event.id))) for it in lost)
    seconds.now = 3.0
    for _ in range(1000):
        record(spans, missed=False)
    assert len(ring.snapshot()[0]) == PLAIN_BURST + 1000 + 3 * PLAIN_PER_SECOND


@pytest.mark.parametrize("missed", [True, False])
def test_its_memory_is_bounded_under_a_flood(missed: bool) -> None:
    seconds = Seconds()
    ring = ring_of(SIZE, seconds)
    spans = EventSpanRecorder(Contexts(NEVER), None, lambda: AT * 1_000_000, ring=ring)
    part = SIZE // 2 if missed else SIZE // 4
    record(spans, missed=missed)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5000):
            seconds.now += 1.0
            record(spans, missed=missed)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"{taken} of {part} bytes, {taken / len(ring.snapshot()[0]):.0f} a note")
    assert part / 4 < taken <= part
    assert ring.state().bytes <= SIZE
    assert b"secret" not in repr(ring.snapshot()).encode(), "an event's body is not kept"


def test_a_pages_spans_are_bounded_as_the_rest_is() -> None:
    ring = ring_of(SIZE)
    spans = EventSpanRecorder(Contexts(NEVER), None, lambda: AT * 1_000_000, ring=ring)
    event = record(spans, missed=False).event
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(5000):
            attributes: dict[str, str | int | bool] = {f"x{n}": f"{number} {'x' * 57}"[:64] for n in range(3)}
            assert spans.processed(Processed(event, number + 1, AT, AT + number, "x" * 64, attributes), kept=True)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert SIZE / 16 < taken <= SIZE / 2
    found = list(ring.find(ring.snapshot(), Wanted(trace=event.traceparent[3:35])))
    assert {span.name for span in found} > {f"process {event.type.wire}"}


def test_a_pages_span_of_a_plain_success_is_kept_if_the_success_is() -> None:
    ring = ring_of(SIZE)
    spans = EventSpanRecorder(Contexts(NEVER), None, lambda: AT * 1_000_000, ring=ring)
    event = record(spans, missed=False).event
    for kept, other in ((True, event), (False, record(EventSpanRecorder(Contexts(NEVER), None), missed=False).event)):
        assert spans.processed(Processed(other, 1, AT, AT, None, {}), kept=False) is kept


def test_a_flood_of_successes_does_not_wash_misses_away() -> None:
    seconds = Seconds()
    ring = ring_of(SIZE, seconds)
    spans = EventSpanRecorder(Contexts(NEVER), None, lambda: AT * 1_000_000, ring=ring)
    lost = record(spans, missed=True)
    for _ in range(20_000):
        seconds.now += 1.0
        record(spans, missed=False)
    assert [span.name for span in ring.find(ring.snapshot(), Wanted(event=lost.event.id))] == [
        "create whatsapp_connected",
        "emit whatsapp_connected",
    ]


def test_it_is_searched_by_trace_event_link_and_key() -> None:
    ring = ring_of(SIZE)
    spans = EventSpanRecorder(Contexts(NEVER), None, lambda: AT * 1_000_000, ring=ring)
    them = [record(spans, missed=missed) for missed in (True, False, True)]
    for it in them:
        event = it.event
        for wanted in (
            Wanted(trace=event.traceparent[3:35]),
            Wanted(event=event.id),
            Wanted(link=event.link_id),
            Wanted(key=key_hash(*event.key)),
            Wanted(link=event.link_id, event=event.id),
        ):
            found = list(ring.find(ring.snapshot(), wanted))
            assert found, wanted
            assert {(span.attributes or {})["messaging.message.id"] for span in found} == {event.id}
    assert list(ring.find(ring.snapshot(), Wanted(link=them[0].event.link_id, event=them[1].event.id))) == []


def test_requests_are_kept_without_a_collector_and_say_what_failed() -> None:
    ring = ring_of(SIZE)
    traces = configure_tracing("1", Drops(), {}, ring=ring)
    with traces.tracer.span("PUT /x") as step:
        event_context = traces.event_spans.context(step.traceparent)
    assert event_context.endswith("-00"), "nothing is exported, so downstream must not take it for sampled"
    with traces.tracer.span("PUT /y") as failing:
        failing.fail("503")
    assert [span.name for span in ring.find(ring.snapshot(), Wanted(trace=step.traceparent[3:35]))] == ["PUT /x"]
    assert ring.newest_failure() == failing.traceparent[3:35]


def ids(spans: Iterator[object] | tuple[object, ...]) -> set[tuple[int, int]]:
    return {(span.context.trace_id, span.context.span_id) for span in spans}  # type: ignore[attr-defined]  # spans


def test_with_a_collector_the_same_ids_are_in_both() -> None:
    ring = ring_of(SIZE)
    exporter = InMemorySpanExporter()
    traces = configure_tracing("1", Drops(), {}, exporter, ring=ring)
    with traces.tracer.span("PUT /x") as step:
        it = delivery(traces.event_spans.context(step.traceparent), missed=True)
    traces.event_spans.attempted(it, it.attempts[-1])
    record(traces.event_spans, missed=False)
    traces.close()
    kept = ids(ring.find(ring.snapshot(), Wanted()))
    assert kept == ids(exporter.get_finished_spans())
    assert len(kept) == 6


def test_what_the_sampler_left_out_of_the_export_is_not_in_the_ring_either() -> None:
    ring = ring_of(SIZE)
    traces = configure_tracing("1", Drops(), {"OTEL_TRACES_SAMPLER": "always_off"}, InMemorySpanExporter(), ring=ring)
    record(traces.event_spans, missed=False)
    lost = record(traces.event_spans, missed=True)
    traces.close()
    assert {(span.attributes or {})["messaging.message.id"] for span in ring.find(ring.snapshot(), Wanted())} == {
        lost.event.id
    }


def test_log_lines_are_kept_by_trace_redacted_and_bounded() -> None:
    from io import StringIO

    import structlog

    from roundtrip.telemetry import logging

    with put_back():
        logging.configure("INFO", "json", StringIO())
        lines = LogRing(1 << 16)
        logging.keep_in(lines)
        log = structlog.get_logger("test")
        one, other = (f"00-{n:032x}-{1:016x}-00" for n in (1, 2))
        log.info("said", traceparent=one, user_id="ada", text="call +49 170 1234567", qr="1@abc")
        log.info("said", traceparent=other)
        log.info("without a trace")
        found = lines.of_traces(frozenset({one[3:35]}), 10)
        assert [line["event"] for line in found] == ["said"]
        shown = json.dumps(found)
        for private in ("ada", "1234567", "1@abc"):
            assert private not in shown
        for number in range(1000):
            log.info("said", traceparent=other, number=number, text="x" * 100)
        assert lines.bytes <= 1 << 16
        assert lines.of_traces(frozenset({other[3:35]}), 5)[-1]["number"] == 999
