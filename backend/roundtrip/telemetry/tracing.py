"""Traces: read from `OTEL_*`, built only where an OTLP endpoint is set.

Two ways in: `event_spans` for events, on their path and cheap; `tracer` for what is rare (requests, links, workers).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
    OTEL_SERVICE_NAME,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.service_attributes import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from roundtrip.telemetry import redaction
from roundtrip.telemetry.context import NEVER, ContextIds, Contexts, HeadSampler, TraceContext, parse
from roundtrip.telemetry.event_spans import EventSpanRecorder

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

    from roundtrip.telemetry.pipeline import Pipeline

log = structlog.get_logger(__name__)

SERVICE: Final = "roundtrip"
SCOPE: Final = "roundtrip"


def wanted(signal_endpoint: str, environ: Mapping[str, str]) -> bool:
    """Whether an OTLP endpoint is set for a signal, its own (`OTEL_EXPORTER_OTLP_…_ENDPOINT`) or the common one."""
    if environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return False
    signal = "TRACES" if signal_endpoint == OTEL_EXPORTER_OTLP_TRACES_ENDPOINT else "LOGS"
    if environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return bool(environ.get(signal_endpoint) or environ.get(OTEL_EXPORTER_OTLP_ENDPOINT))


def resource(version: str) -> Resource:
    """Who speaks: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come first."""
    # Loaded only where something is exported.
    from opentelemetry.sdk.resources import Resource

    own = {SERVICE_VERSION: version, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
    named = os.environ.get(OTEL_SERVICE_NAME) or f"{SERVICE_NAME}=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create(own if named else {SERVICE_NAME: SERVICE, **own})


class Tracing:
    """The traces of a process."""

    def __init__(self, event_spans: EventSpanRecorder, tracer: RequestTracer, pipeline: Pipeline | None) -> None:
        self.event_spans = event_spans
        self.tracer = tracer
        self._pipeline = pipeline

    @property
    def exports(self) -> bool:
        """Whether anything is built and sent."""
        return self._pipeline is not None

    def close(self, timeout: float = 3.0) -> None:
        """Send what is there, for `timeout` seconds at the most. Blocks: call it off the event loop."""
        if self._pipeline is not None:
            self._pipeline.close(timeout)


def configure(
    version: str,
    dropped: Callable[[float], None],
    environ: Mapping[str, str] = os.environ,
    exporter: SpanExporter | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    bits: Callable[[int], int] = random.getrandbits,
) -> Tracing:
    """Build the traces of this process. Without an endpoint (or an `exporter`, in tests) nothing is built.

    `dropped(n)` counts lost spans; it may be called from any thread. `now_ns` gives nanoseconds since the epoch,
    `bits(n)` n random bits: a test gives its own.
    """
    if exporter is None and not wanted(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, environ):
        contexts = Contexts(NEVER, bits)
        return Tracing(EventSpanRecorder(contexts, None), RequestTracer(contexts, None), None)
    contexts = Contexts(HeadSampler.from_environment(environ), bits)
    return _exporting(version, dropped, environ, exporter, contexts, now_ns)


def _exporting(
    version: str,
    dropped: Callable[[float], None],
    environ: Mapping[str, str],
    exporter: SpanExporter | None,
    contexts: Contexts,
    now_ns: Callable[[], int],
) -> Tracing:
    # The exporter's libraries cost a third of a second: only who exports pays.
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from roundtrip.telemetry.otlp_spans import PreencodedSpanExporter
    from roundtrip.telemetry.pipeline import BoundedProcessor, Pipeline
    from roundtrip.telemetry.spans import SpanBuilder

    protocol = environ.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL) or environ.get(OTEL_EXPORTER_OTLP_PROTOCOL)
    if protocol not in {None, "", "http/protobuf"}:
        log.warning("otlp_protocol_not_built_in", protocol=protocol, used="http/protobuf")
    whose = resource(version)
    processor = BoundedProcessor(exporter or PreencodedSpanExporter(), dropped)
    provider = TracerProvider(
        contexts.sampler.of_sdk(), whose, shutdown_on_exit=False, id_generator=ContextIds(contexts)
    )
    provider.add_span_processor(processor)
    pipeline = Pipeline(SpanBuilder(whose, InstrumentationScope(SCOPE, version)), processor, dropped)
    tracer = RequestTracer(contexts, provider.get_tracer(SCOPE, version), now_ns)
    return Tracing(EventSpanRecorder(contexts, pipeline, now_ns), tracer, pipeline)


LINK_ID: Final = "roundtrip.link.id"

Attribute = str | int | float | bool


class Step:
    """One span in the making. `traceparent` is what to hand on to whatever it causes."""

    def __init__(self, span: Span, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.span = span
        self._now_ns = now_ns
        context = span.get_span_context()
        self.traceparent = str(TraceContext(context.trace_id, context.span_id, context.trace_flags.sampled))

    def set(self, name: str, value: Attribute) -> None:
        """Add an attribute. It passes redaction, so a private name or shape is hidden."""
        clean = redaction.field(name, value)
        self.span.set_attribute(name, clean if isinstance(clean, (str, int, float, bool)) else str(clean))

    def fail(self, error_type: str) -> None:
        """Say that this went wrong. `error_type` is from a fixed set: a reason code or an exception's class."""
        self.span.set_attribute(ERROR_TYPE, error_type)
        self.span.set_status(Status(StatusCode.ERROR, error_type))

    def end(self) -> None:
        self.span.end(self._now_ns())


class RequestTracer:
    """Makes steps. Without an SDK tracer they record nothing, but their contexts still join what belongs together."""

    def __init__(self, contexts: Contexts, tracer: Tracer | None, now_ns: Callable[[], int] = time.time_ns) -> None:
        """`now_ns` gives nanoseconds since the epoch."""
        self._contexts = contexts
        self._tracer = tracer
        self._now_ns = now_ns

    def start(
        self,
        name: str,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Step:
        """Begin a step that outlives the caller; whoever has it ends it. `name` is a template, never an id.

        `parent` is a traceparent, also one from outside: what cannot be read is as good as none.
        """
        above = parse(parent) if parent else None
        if self._tracer is None:
            made = parse(self._contexts.new(parent if above else None))
            step = Step(NonRecordingSpan(trace.INVALID_SPAN_CONTEXT if made is None else _sdk(made)))
        else:
            context = (
                Context() if above is None else trace.set_span_in_context(NonRecordingSpan(_sdk(above)), Context())
            )
            step = Step(self._tracer.start_span(name, context, kind, start_time=self._now_ns()), self._now_ns)
        for key, value in (attributes or {}).items():
            step.set(key, value)
        return step

    @contextmanager
    def span(
        self,
        name: str,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Iterator[Step]:
        """A step around a block: current for its log lines, ended with it, failed by an exception's class."""
        step = self.start(name, parent, kind, attributes)
        try:
            with trace.use_span(step.span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
                yield step
        except asyncio.CancelledError:
            step.set("roundtrip.cancelled", True)
            raise
        except BaseException as error:
            step.fail(type(error).__qualname__)
            raise
        finally:
            step.end()


OFF: Final = RequestTracer(Contexts(NEVER), None)
"""A tracer that records nothing, for parts that were given none."""


def _sdk(context: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags)
