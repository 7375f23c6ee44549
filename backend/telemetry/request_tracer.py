"""Spans of what happens rarely: a request, a link's start, a worker's life. The SDK's ordinary API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from backend.telemetry import redaction
from backend.telemetry.context import NEVER, Contexts, TraceContext, parse

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
