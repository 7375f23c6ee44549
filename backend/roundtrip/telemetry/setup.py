"""Starts telemetry for a process, from settings and `OTEL_*`: metrics, logs, traces, and a watch on its event loop.

The parts get two ways to trace: `event_spans` for events, cheap enough for their path, and `tracer` for what is rare
(requests, links, workers). Spans and log records are exported only where an OTLP endpoint is set.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import structlog
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_LOGS_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_RESOURCE_ATTRIBUTES,
    OTEL_SDK_DISABLED,
    OTEL_SERVICE_NAME,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.attributes.service_attributes import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION
from opentelemetry.trace import Tracer
from prometheus_client import Histogram

from roundtrip.telemetry import logging, redaction
from roundtrip.telemetry.event_spans import EventSpanRecorder
from roundtrip.telemetry.labels import LabelSets
from roundtrip.telemetry.log_ring import LogRing
from roundtrip.telemetry.metrics import Metrics
from roundtrip.telemetry.trace_ring import RingProcessor, TraceRing
from roundtrip.telemetry.tracing import NEVER, ContextIds, Contexts, HeadSampler, RequestTracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from roundtrip.telemetry.export import SpanPipeline
    from roundtrip.telemetry.otlp_logs import OtlpLogs

log = structlog.get_logger(__name__)

SERVICE: Final = "roundtrip"
SCOPE: Final = "roundtrip"

LAG_INTERVAL: Final = 0.25
"""Seconds between two measurements of the loop's lag: often enough to catch a stall, rare enough to cost nothing."""


class Telemetry:
    """What the program's parts get: `metrics`, `event_spans` for events, `tracer` for requests and links."""

    def __init__(
        self,
        metrics: Metrics,
        traces: Tracing,
        logs: OtlpLogs | None,
        ring: TraceRing | None = None,
        lines: LogRing | None = None,
    ) -> None:
        self.metrics = metrics
        self.ring = ring
        self.lines = lines
        self.event_spans = traces.event_spans
        self.tracer = traces.tracer
        self.exporting = traces.exporting
        """Whether spans go to a collector."""
        self._traces = traces
        self._logs = logs
        self._lag = LoopLag(metrics.event_loop_lag)

    def watch_loop(self) -> None:
        """Measure the running loop's lag from now on; log and count the exceptions that nobody awaited."""
        asyncio.get_running_loop().set_exception_handler(logging.loop_handler(self.metrics.task_failures.inc))
        self._lag.start()

    async def close(self) -> None:
        """Export what is queued, within a few seconds."""
        self._lag.stop()
        await asyncio.to_thread(self._traces.close)
        if self._logs is not None:
            await asyncio.to_thread(self._logs.close)


def start(
    label_sets: LabelSets,
    version: str,
    *,
    level: logging.Level = "INFO",
    format_: logging.Format = "auto",
    hash_key: str | None = None,
    node_id: str | None = None,
    ring_bytes: int = 0,
    environ: Mapping[str, str] = os.environ,
) -> Telemetry:
    """Start telemetry for this process. `hash_key` is the key of the hashes that stand for ids; `node_id` names the
    process in all three signals, unless `OTEL_RESOURCE_ATTRIBUTES` does; `ring_bytes` is what the newest traces and
    their log lines may take in memory, 0 for none."""
    redaction.configure(hash_key)
    logging.configure(level, format_)
    instance = instance_id(node_id, environ)
    metrics = Metrics(label_sets, version, instance)
    own = resource(version, instance, environ)
    ring = TraceRing(ring_bytes * 7 // 8, own, _scope(version)) if ring_bytes else None
    lines = LogRing(ring_bytes // 8) if ring_bytes else None
    if lines is not None:
        logging.keep_in(lines)
    dropped, exported = metrics.telemetry_dropped["traces"].inc, metrics.spans_exported.inc
    traces = configure_tracing(version, dropped, environ, exported=exported, own=own, ring=ring)
    logs: OtlpLogs | None = None
    if has_endpoint(OTEL_EXPORTER_OTLP_LOGS_ENDPOINT, environ):
        from roundtrip.telemetry.otlp_logs import OtlpLogs  # loaded only where something is exported

        logs = OtlpLogs(own, metrics.telemetry_dropped["logs"].inc)
        logging.export_to(logs)
    return Telemetry(metrics, traces, logs, ring, lines)


class Tracing:
    """The traces of a process."""

    def __init__(self, event_spans: EventSpanRecorder, tracer: RequestTracer, pipeline: SpanPipeline | None) -> None:
        self.event_spans = event_spans
        self.tracer = tracer
        self._pipeline = pipeline

    @property
    def exporting(self) -> bool:
        return self._pipeline is not None

    def close(self, timeout: float = 3.0) -> None:
        """Export what is queued, within `timeout` seconds. Blocks: call it off the event loop."""
        if self._pipeline is not None:
            self._pipeline.close(timeout)


def configure_tracing(
    version: str,
    dropped: Callable[[float], None],
    environ: Mapping[str, str] = os.environ,
    exporter: SpanExporter | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    bits: Callable[[int], int] = random.getrandbits,
    exported: Callable[[float], None] = lambda _count: None,
    own: Resource | None = None,
    ring: TraceRing | None = None,
) -> Tracing:
    """Build the traces of this process. Without an endpoint (or an `exporter`, in tests) nothing is exported; a `ring`
    keeps the newest in memory all the same.

    `dropped(n)` counts lost spans, `exported(n)` those that arrived; they may be called from any thread. `own` is the
    process's resource, made here if None. `now_ns` returns nanoseconds since the epoch,
    `bits(n)` n random bits; tests pass their own.
    """
    own = own or resource(version, instance_id(None, environ), environ)
    if exporter is None and not has_endpoint(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, environ):
        contexts = Contexts(NEVER, bits)
        tracer = None if ring is None else _provider(own, version, contexts, RingProcessor(ring))
        spans = EventSpanRecorder(contexts, None, now_ns, ring=ring)
        return Tracing(spans, RequestTracer(contexts, tracer, now_ns), None)
    contexts = Contexts(HeadSampler.from_environment(environ), bits)
    return _exporting(version, dropped, environ, exporter, contexts, now_ns, exported, own, ring)


def _provider(own: Resource, version: str, contexts: Contexts, *processors: SpanProcessor) -> Tracer:
    """The SDK's tracer, whose finished spans go to these processors. Requests, links and workers are rare and go at a
    person's pace: what misses later must find where it came from."""
    provider = TracerProvider(ALWAYS_ON, own, shutdown_on_exit=False, id_generator=ContextIds(contexts))
    for processor in processors:
        provider.add_span_processor(processor)
    return provider.get_tracer(SCOPE, version)


def _scope(version: str) -> InstrumentationScope:
    return InstrumentationScope(SCOPE, version)


def _exporting(
    version: str,
    dropped: Callable[[float], None],
    environ: Mapping[str, str],
    exporter: SpanExporter | None,
    contexts: Contexts,
    now_ns: Callable[[], int],
    exported: Callable[[float], None],
    own: Resource,
    ring: TraceRing | None,
) -> Tracing:
    # The exporter's libraries take a third of a second to load: only a process that exports pays for them.
    from roundtrip.telemetry.event_encoding import EventEncoder
    from roundtrip.telemetry.export import BoundedProcessor, SpanPipeline
    from roundtrip.telemetry.otlp_spans import PreencodedSpanExporter
    from roundtrip.telemetry.span_builder import SpanBuilder

    protocol = environ.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL) or environ.get(OTEL_EXPORTER_OTLP_PROTOCOL)
    if protocol not in {None, "", "http/protobuf"}:
        log.warning("otlp_protocol_not_built_in", protocol=protocol, used="http/protobuf")
    scope = _scope(version)
    make = SpanBuilder if exporter is not None else EventEncoder
    builder = make(own, scope, contexts.states)
    exporter = exporter or PreencodedSpanExporter()
    processor = BoundedProcessor(exporter, dropped, exported)
    processors = (processor,) if ring is None else (processor, RingProcessor(ring))
    pipeline = SpanPipeline(builder, exporter, processor, dropped, exported)
    tracer = RequestTracer(contexts, _provider(own, version, contexts, *processors), now_ns)
    return Tracing(EventSpanRecorder(contexts, pipeline.put, now_ns, pipeline.full, ring), tracer, pipeline)


def has_endpoint(signal_endpoint: str, environ: Mapping[str, str]) -> bool:
    """Whether an OTLP endpoint is set for a signal, its own (`OTEL_EXPORTER_OTLP_…_ENDPOINT`) or the common one."""
    if environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return False
    signal = "TRACES" if signal_endpoint == OTEL_EXPORTER_OTLP_TRACES_ENDPOINT else "LOGS"
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return bool(environ.get(signal_endpoint) or environ.get(OTEL_EXPORTER_OTLP_ENDPOINT))


def instance_id(node_id: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """What tells this process from others, in every signal: `OTEL_RESOURCE_ATTRIBUTES` comes first, then the setting
    `NODE_ID`; without either it is made here."""
    return _resource_attributes(environ).get(SERVICE_INSTANCE_ID) or node_id or str(uuid.uuid4())


def resource(version: str, instance: str, environ: Mapping[str, str] = os.environ) -> Resource:
    """The service that exports. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come first. Make it once."""
    own = {SERVICE_NAME: SERVICE, SERVICE_VERSION: version, SERVICE_INSTANCE_ID: instance}
    name = environ.get(OTEL_SERVICE_NAME)
    return Resource.create({**own, **_resource_attributes(environ), **({SERVICE_NAME: name} if name else {})})


def _resource_attributes(environ: Mapping[str, str]) -> dict[str, str]:
    """`OTEL_RESOURCE_ATTRIBUTES` as the SDK reads it: `name=value,…`, values percent-encoded."""
    pairs = (pair.partition("=") for pair in environ.get(OTEL_RESOURCE_ATTRIBUTES, "").split(","))
    return {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals and name.strip()}


class LoopLag:
    """A timer on the event loop that measures how much later than due it runs: what every event waits."""

    def __init__(self, histogram: Histogram, every: float = LAG_INTERVAL) -> None:
        self._histogram = histogram
        self._every = every
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._due = self._loop.time() + self._every
        self._timer = self._loop.call_at(self._due, self._measure)

    def _measure(self) -> None:
        self._histogram.observe(max(0.0, self._loop.time() - self._due))
        self._arm()
