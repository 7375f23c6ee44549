"""Traces: read from `OTEL_*`, built only where an OTLP endpoint is set.

Two ways in: `journal` for events, on their path and cheap; `tracer` for what is rare (requests, links, workers).
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
    OTEL_SERVICE_NAME,
)
from opentelemetry.semconv.attributes.service_attributes import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION

from backend.telemetry.context import NEVER, ContextIds, Contexts, HeadSampler
from backend.telemetry.journal import DeliveryJournal
from backend.telemetry.request_tracer import RequestTracer

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

    from backend.telemetry.pipeline import Pipeline

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

    def __init__(self, journal: DeliveryJournal, tracer: RequestTracer, pipeline: Pipeline | None) -> None:
        self.journal = journal
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
        return Tracing(DeliveryJournal(contexts, None), RequestTracer(contexts, None), None)
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

    from backend.telemetry.otlp_spans import QuickSpanExporter
    from backend.telemetry.pipeline import BoundedProcessor, Pipeline
    from backend.telemetry.spans import SpanBuilder

    protocol = environ.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL) or environ.get(OTEL_EXPORTER_OTLP_PROTOCOL)
    if protocol not in {None, "", "http/protobuf"}:
        log.warning("otlp_protocol_not_built_in", protocol=protocol, used="http/protobuf")
    whose = resource(version)
    processor = BoundedProcessor(exporter or QuickSpanExporter(), dropped)
    provider = TracerProvider(
        contexts.sampler.of_sdk(), whose, shutdown_on_exit=False, id_generator=ContextIds(contexts)
    )
    provider.add_span_processor(processor)
    pipeline = Pipeline(SpanBuilder(whose, InstrumentationScope(SCOPE, version)), processor, dropped)
    tracer = RequestTracer(contexts, provider.get_tracer(SCOPE, version), now_ns)
    return Tracing(DeliveryJournal(contexts, pipeline, now_ns), tracer, pipeline)
