"""otel-collector.yaml, run for real: what comes in, what must not come out, and that all the rest does."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator, Mapping

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.dashboards.boards import metrics_in, panels
from tests.dashboards.test_catalogue import queries
from tests.stack.collector import CONFIG, Collector, build, running
from tests.stack.sink import Sink, listening, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.waits, pytest.mark.xdist_group("collector"), pytest.mark.timeout(600)]

CANARY = "4915112345678"
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with listening() as opened:
        yield opened


@pytest.fixture(scope="module")
def collector(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with running(sink.url, tmp_path_factory.mktemp("collector") / "log") as started:
        yield started


def trace_id(name: str) -> bytes:
    """The same id for the same name."""
    return hashlib.sha256(name.encode()).digest()[:16]


def attribute(key: str, value: str | int) -> KeyValue:
    return KeyValue(
        key=key, value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    )


def span(
    trace: str,
    name: str = "emit whatsapp_connected",
    attributes: Mapping[str, str | int] | None = None,
    *,
    seconds: float = 0.01,
    **more: str,
) -> Span:
    """A finished span; underscores in the names of attributes stand for dots."""
    now = time.time_ns()
    return Span(
        trace_id=trace_id(trace),
        span_id=hashlib.sha256(f"{trace} {name}".encode()).digest()[:8],
        name=name,
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=now - int(seconds * SECOND),
        end_time_unix_nano=now,
        attributes=[attribute(key.replace("_", "."), value) for key, value in ({**(attributes or {}), **more}).items()],
    )


def export(collector: Collector, *spans: Span) -> None:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.append(attribute("service.name", "roundtrip"))
    resource.scope_spans.add().spans.extend(spans)
    collector.send("traces", request.SerializeToString())


def arrived(sink: Sink, trace: str) -> list[str]:
    """Names of the spans of a trace that came through."""
    return [one.name for one in sink.spans() if one.trace_id == trace_id(trace)]


def test_configuration_is_valid() -> None:
    done = subprocess.run([build(), "validate", "--config", CONFIG], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_phone_number_put_in_by_force_does_not_come_out(collector: Collector, sink: Sink) -> None:
    leaky = span("leaky", f"link +{CANARY}", roundtrip_miss_reason="send_failed")
    leaky.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=f"no session for {CANARY}@s.whatsapp.net"))
    leaky.attributes.append(attribute("note", f"called +{CANARY[:2]} {CANARY[2:5]} {CANARY[5:]}"))
    leaky.attributes.append(attribute("number", int(CANARY)))
    leaky.attributes.append(attribute("phone", "anything at all"))
    leaky.attributes.append(attribute("messaging.message.id", "01912345-aaaa-7bbb-8ccc-987654321098"))
    event = leaky.events.add(name="exception", time_unix_nano=time.time_ns())
    event.attributes.append(attribute("exception.message", f"JID {CANARY}:12@s.whatsapp.net is gone"))
    export(collector, leaky)

    logs = ExportLogsServiceRequest()
    resource = logs.resource_logs.add()
    resource.resource.attributes.append(attribute("service.name", "roundtrip"))
    record = resource.scope_logs.add().log_records.add(time_unix_nano=time.time_ns())
    record.body.string_value = f"paired with {CANARY}"
    record.attributes.append(attribute("detail", f"+{CANARY}"))
    record.attributes.append(attribute("event_id", "01912345-aaaa-7bbb-8ccc-987654321098"))
    collector.send("logs", logs.SerializeToString())

    wait_for(lambda: bool(arrived(sink, "leaky")) and bool(sink.log_requests()), "the leaky span and line arrive")
    digits = CANARY[5:].encode()
    for path in ("/v1/traces", "/otlp/v1/logs", "/api/v1/otlp/v1/metrics"):
        for body in sink.bodies(path):
            assert digits not in body
    came = next(one for one in sink.spans() if one.trace_id == trace_id("leaky"))
    values = {one.key: one.value.string_value for one in came.attributes}
    assert values["messaging.message.id"] == "01912345-aaaa-7bbb-8ccc-987654321098", "ids must stay readable"
    assert values["phone"] == "****"
    assert "int_value: 4915" not in str(came)
    assert came.name == "link ****"


def test_whatever_the_backend_kept_is_passed_on_however_late_the_rest_comes(collector: Collector, sink: Sink) -> None:
    """A link goes at a person's pace: request and start, half a minute later a code, and only that one misses. They
    come in requests of their own; a sampler with a memory of some seconds would have dropped the first."""
    trace = "a link"
    export(collector, span(trace, "PUT /api/bots/{bot_id}/link"), span(trace, "link start"))
    wait_for(lambda: len(arrived(sink, trace)) == 2, "what is plain arrives without waiting for more")
    export(collector, span(trace, "emit whatsapp_qr", roundtrip_miss_reason="key_mismatch"))
    export(collector, span(trace, "ack whatsapp_qr"))
    plain = [f"plain {number}" for number in range(100)]
    export(collector, *(span(name) for name in plain))
    wait_for(lambda: len(arrived(sink, trace)) == 4, "the whole trace arrives")
    wait_for(lambda: all(arrived(sink, name) for name in plain), "and every other one")


def test_span_metrics_count_every_span(collector: Collector, sink: Sink) -> None:
    names = [f"counted {number}" for number in range(50)]
    export(collector, *(span(name, "emit counted") for name in names))

    def counted() -> int:
        points = [
            point
            for metric in sink.metrics()
            if metric.name == "traces.span.metrics.duration"
            for point in metric.histogram.data_points
            if "emit counted" in str(point.attributes)
        ]
        return max((point.count for point in points), default=0)

    wait_for(lambda: counted() == len(names), "span metrics count every span")
    durations = [metric for metric in sink.metrics() if metric.name == "traces.span.metrics.duration"]
    assert {metric.unit for metric in durations} == {"s"}


def test_the_collectors_own_metrics_are_those_that_dashboards_and_rules_name(collector: Collector, sink: Sink) -> None:
    export(collector, span("for its metrics", roundtrip_miss_reason="queue_full"))
    wait_for(lambda: bool(arrived(sink, "for its metrics")), "the span arrives")
    named = {name for query in queries().values() for name in metrics_in(query) if name.startswith("otelcol_")}
    assert named
    # Failures appear when something failed
    named = {name for name in named if "failed" not in name and "refused" not in name}

    def missing() -> set[str]:
        text = collector.own_metrics()
        return {name for name in named if f"\n{name}{{" not in text}

    # What was sent is counted once its answer is back, a moment after it arrived
    wait_for(lambda: not missing(), f"{named} are all there")
    assert panels()
