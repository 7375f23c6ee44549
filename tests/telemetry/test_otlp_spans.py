"""The encoder: for any span, the bytes mean what the SDK's own bytes mean; and they reach a real HTTP receiver."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from roundtrip.telemetry import tracing
from roundtrip.telemetry.otlp_spans import PreencodedSpanExporter, encode
from tests.support.otlp import Receiver, receiving
from tests.telemetry.test_pipeline import Drops, acked

RESOURCES = [Resource({"service.name": name, "n": 1}) for name in ("one", "other")]
SCOPES = [InstrumentationScope("roundtrip", "1"), InstrumentationScope("x", schema_url="https://example.org/1")]

contexts = st.builds(
    SpanContext,
    st.integers(1, (1 << 128) - 1),
    st.integers(1, (1 << 64) - 1),
    st.booleans(),
    st.sampled_from([TraceFlags(0), TraceFlags(1)]),
    st.just(TraceState()) | st.just(TraceState([("vendor", "x")])),
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
values = (
    text
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.lists(text, max_size=2)
)
attributes = st.dictionaries(st.text("abc.", min_size=1, max_size=9), values, max_size=6)
times = st.integers(1, (1 << 63) - 1)
spans = st.builds(
    ReadableSpan,
    name=text.filter(bool),
    context=contexts,
    parent=st.none() | contexts,
    resource=st.sampled_from(RESOURCES),
    attributes=attributes,
    events=st.lists(st.builds(Event, text, timestamp=times), max_size=1),
    links=st.lists(st.builds(Link, contexts, st.none() | st.just({"a": 1})), max_size=2),
    kind=st.sampled_from(SpanKind),
    status=st.builds(Status, st.just(StatusCode.ERROR), st.none() | text)
    | st.sampled_from([Status(StatusCode.OK), Status()]),
    start_time=times,
    end_time=times,
    instrumentation_scope=st.sampled_from(SCOPES),
)


def by_span(request: ExportTraceServiceRequest) -> list[tuple[bytes, bytes, bytes]]:
    """Each span with its resource and scope: how they are grouped means nothing."""
    return sorted(
        (of.resource.SerializeToString(), within.scope.SerializeToString(), span.SerializeToString(deterministic=True))
        for of in request.resource_spans
        for within in of.scope_spans
        for span in within.spans
    )


@given(st.lists(spans, max_size=5))
def test_it_means_what_the_sdk_means(some: list[ReadableSpan]) -> None:
    assert by_span(ExportTraceServiceRequest.FromString(encode(some))) == by_span(encode_spans(some))


def test_the_pinned_exporter_has_what_ours_leans_on() -> None:
    exporter = PreencodedSpanExporter(endpoint="http://127.0.0.1:1/v1/traces")
    assert version("opentelemetry-exporter-otlp-proto-http").startswith("1.45.")
    assert exporter._max_request_size == 64 << 20
    assert callable(exporter._client.export)
    exporter.shutdown()  # type: ignore[no-untyped-call]  # published without types
    assert exporter._shutdown
    assert exporter.export([]) is SpanExportResult.FAILURE


def test_a_batch_over_the_limit_is_refused_and_nothing_is_sent(receiver: Receiver) -> None:
    exporter = PreencodedSpanExporter(endpoint=f"{receiver.url}/v1/traces", max_request_size=10)
    span = ReadableSpan("x" * 20, SpanContext(1, 2, is_remote=False), resource=RESOURCES[0], start_time=1, end_time=2)
    assert exporter.export([span]) is SpanExportResult.FAILURE
    assert receiver.traces == []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_it_goes_out_through_the_sdks_exporter(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    drops = Drops()
    traces = tracing.configure("1", drops)
    with traces.tracer.span("PUT /api/bots/{bot_id}/link") as step:
        traces.event_spans.settled(acked(traces.event_spans.context(step.traceparent)))
    traces.close()
    assert sorted(span.name for span in receiver.spans) == [
        "PUT /api/bots/{bot_id}/link",
        "ack whatsapp_connected",
        "create whatsapp_connected",
        "emit whatsapp_connected",
    ]
    assert len({span.trace_id for span in receiver.spans}) == 1
    resource = receiver.traces[0].resource_spans[0].resource.attributes
    named = {pair.key: pair.value.string_value for pair in resource}
    assert (named["service.name"], named["service.version"]) == ("named", "1")
    assert drops.count == 0
