"""The encoder: for any span, the bytes mean what the SDK's own bytes mean; and they reach a real HTTP receiver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from roundtrip.backoff import Backoff
from roundtrip.telemetry.otlp_encoding import encode
from roundtrip.telemetry.otlp_spans import PreencodedSpanExporter
from roundtrip.telemetry.setup import configure_tracing
from roundtrip.telemetry.span_builder import EventSpan, SpanBuilder
from roundtrip.telemetry.span_records import Settled
from tests.support.otlp import Receiver, receiving
from tests.telemetry.helpers import Drops, acked, eventually

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


def test_a_list_of_texts_means_what_the_sdk_means() -> None:
    attributes = {"keys": ("one", "other ✓"), "none": ()}
    span = EventSpan("emit", SpanContext(1, 2, is_remote=False), attributes=attributes, start_time=1, end_time=2)
    assert by_span(ExportTraceServiceRequest.FromString(encode([span]))) == by_span(encode_spans([span]))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def span(name: str = "x") -> ReadableSpan:
    return ReadableSpan(name, SpanContext(1, 2, is_remote=False), resource=RESOURCES[0], start_time=1, end_time=2)


def test_the_encoder_costs_a_fraction_of_the_sdks() -> None:
    """The bound is generous for a busy machine; the figures are printed. Spans of events, as most are."""
    builder = SpanBuilder(RESOURCES[0], SCOPES[0])
    made = [
        one
        for n in range(1, 171)
        for one in builder.build(Settled(acked(f"00-{n:032x}-{n:016x}-01"), create_parent=None))
    ]
    own = min(_timed(lambda: encode(made)) for _ in range(10)) / len(made)
    sdks = min(_timed(lambda: encode_spans(made).SerializeToString()) for _ in range(5)) / len(made)
    print(f"one span: {own * 1e6:.1f} µs, by the SDK's encoder {sdks * 1e6:.1f} µs")
    assert own < sdks / 2


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


class TestPosting:
    """What the specification of OTLP over HTTP asks of a client."""

    QUICK = Backoff(0.001, 0.001)

    def exporter(self, receiver: Receiver, **environ: str) -> PreencodedSpanExporter:
        variables = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()}
        return PreencodedSpanExporter(
            environ={"OTEL_EXPORTER_OTLP_ENDPOINT": f"{receiver.url}/", **variables}, backoff=self.QUICK
        )

    def test_a_batch_over_the_limit_is_refused_and_nothing_is_sent(self, receiver: Receiver) -> None:
        exporter = PreencodedSpanExporter(endpoint=f"{receiver.url}/v1/traces", max_request_size=10)
        assert exporter.export([span("x" * 20)]) is SpanExportResult.FAILURE
        assert receiver.traces == []

    def test_nothing_is_sent_after_the_end(self, receiver: Receiver) -> None:
        exporter = self.exporter(receiver)
        exporter.shutdown()
        assert exporter.export([span()]) is SpanExportResult.FAILURE
        assert receiver.traces == []

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_a_collector_that_is_busy_is_asked_again(self, receiver: Receiver, status: int) -> None:
        receiver.replies.extend([(status, {})] * 5)
        assert self.exporter(receiver).export([span()]) is SpanExportResult.SUCCESS
        assert len(receiver.bodies) == 6
        assert len(set(receiver.bodies)) == 1

    def test_six_attempts_are_enough(self, receiver: Receiver) -> None:
        receiver.replies.extend([(503, {})] * 7)
        assert self.exporter(receiver).export([span()]) is SpanExportResult.FAILURE
        assert len(receiver.bodies) == 6

    @pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
    def test_a_refusal_is_final(self, receiver: Receiver, status: int) -> None:
        receiver.replies.append((status, {}))
        assert self.exporter(receiver).export([span()]) is SpanExportResult.FAILURE
        assert len(receiver.bodies) == 1

    def test_a_collector_names_its_own_pause(self, receiver: Receiver) -> None:
        receiver.replies.append((503, {"Retry-After": "3600"}))
        started = time.monotonic()
        assert self.exporter(receiver).export([span()]) is SpanExportResult.FAILURE
        assert len(receiver.bodies) == 1, "its pause is longer than a batch may take"
        assert time.monotonic() - started < 5
        for at_once in ("0", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00", "soon"):
            receiver.replies.append((503, {"Retry-After": at_once}))
            assert self.exporter(receiver).export([span()]) is SpanExportResult.SUCCESS

    def test_an_end_cuts_a_pause_short(self, receiver: Receiver) -> None:
        receiver.replies.append((503, {"Retry-After": "8"}))
        exporter = self.exporter(receiver)
        started = time.monotonic()
        thread = threading.Thread(target=exporter.export, args=([span()],))
        thread.start()
        eventually(lambda: receiver.bodies)
        exporter.shutdown()
        thread.join(8)
        assert time.monotonic() - started < 5
        assert len(receiver.bodies) == 1

    @pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1/v1/traces", "no url"])
    def test_nobody_there_is_a_failure(self, endpoint: str) -> None:
        assert PreencodedSpanExporter(endpoint, backoff=self.QUICK).export([span()]) is SpanExportResult.FAILURE

    def test_the_signals_own_variable_comes_first(self, receiver: Receiver) -> None:
        own = f"{receiver.url}/own"
        exporter = self.exporter(
            receiver, TRACES_ENDPOINT=own, HEADERS="a=common", TRACES_HEADERS="api-key=it%20is,b=2", TIMEOUT="no number"
        )
        assert exporter.export([span()]) is SpanExportResult.SUCCESS
        assert [path for path, _ in receiver.bodies] == ["/own"]
        [headers] = receiver.headers
        assert (headers["api-key"], headers["b"], headers.get("a")) == ("it is", "2", None)
        assert headers["content-type"] == "application/x-protobuf"

    def test_certificates_are_the_sessions(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[requests.Session] = []

        class Session(requests.Session):
            def __init__(self) -> None:
                super().__init__()
                made.append(self)

        monkeypatch.setattr(requests, "Session", Session)
        self.exporter(receiver)
        self.exporter(receiver, CERTIFICATE="ca.pem", CLIENT_CERTIFICATE="own.pem", CLIENT_KEY="own.key")
        self.exporter(receiver, CERTIFICATE="ca.pem", TRACES_CERTIFICATE="mine.pem", CLIENT_CERTIFICATE="own.pem")
        assert [(session.verify, session.cert) for session in made] == [
            (True, None),
            ("ca.pem", ("own.pem", "own.key")),
            ("mine.pem", "own.pem"),
        ]

    def test_a_credential_provider_that_is_not_installed_is_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="no credential provider named 'missing'"):
            PreencodedSpanExporter(environ={"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "missing"})


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", "unknown"])
def test_it_reaches_a_collector(receiver: Receiver, monkeypatch: pytest.MonkeyPatch, compression: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    drops = Drops()
    traces = configure_tracing("1", drops)
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
