"""Trace contexts as W3C `traceparent` text, the head sampler, and spans for what is rare: requests, links, workers.

Spans of events, which are frequent, are made by `event_spans` and `span_builder`.

Source: https://www.w3.org/TR/trace-context/ and the OpenTelemetry SDK's samplers, whose decisions these are.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)

from roundtrip.telemetry import redaction

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LOW_64: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_INVERSE: Final = pow(_GOLDEN, -1, 1 << 64)

LINK_ID: Final = "roundtrip.link.id"
"""The attribute that all spans of one link share."""

MAX_TRACESTATE: Final = 512
"""Characters of a `tracestate` that is passed on: what the specification asks for at least."""

Attribute = str | int | float | bool


class TraceContext(NamedTuple):
    """A span's identity: 128 and 64 bits, and whether the head sampler chose its trace."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else '00'}"

    def derived(self, number: int) -> int:
        """The id of a span that belongs to this one: the same after a restart. `number` from 1."""
        return (self.span_id ^ (number * _GOLDEN & _LOW_64)) or 1

    def derives(self, span_id: int, most: int) -> bool:
        """Whether an id is this span's own, or one that it derives from a number up to `most`."""
        return (span_id ^ self.span_id) * _INVERSE & _LOW_64 <= most


def parse(traceparent: str) -> TraceContext | None:
    """Parse a traceparent; None if it is malformed."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    context = TraceContext(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & 1))
    return context if context.trace_id and context.span_id else None


class HeadSampler(NamedTuple):
    """The sampler that `OTEL_TRACES_SAMPLER` names. A trace whose id's low 64 bits are below `bound` is sampled."""

    bound: int
    parent_decides: bool

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> HeadSampler:
        """The SDK's names and defaults: an unknown sampler is `parentbased_always_on`, a wrong ratio is 1."""
        name = environ.get(OTEL_TRACES_SAMPLER, "").strip().lower()
        base = name.removeprefix("parentbased_")
        if base not in {"always_on", "always_off", "traceidratio"}:
            return cls(TraceIdRatioBased(1.0).bound, parent_decides=True)
        rate = {"always_on": 1.0, "always_off": 0.0}.get(base)
        if rate is None:
            try:
                rate = float(environ.get(OTEL_TRACES_SAMPLER_ARG, ""))
            except ValueError:
                rate = 1.0
            rate = rate if 0.0 <= rate <= 1.0 else 1.0
        return cls(TraceIdRatioBased(rate).bound, parent_decides=base != name)

    def samples(self, trace_id: int, parent: TraceContext | None = None) -> bool:
        """The decision on a span of this trace, which `parent` has taken already where parents decide."""
        if parent is not None and self.parent_decides:
            return parent.sampled
        return trace_id & _LOW_64 < self.bound


NEVER: Final = HeadSampler(0, parent_decides=False)
"""The sampler of a process that exports nothing."""


class TraceStates:
    """The `tracestate` that came with a trace from outside, for all spans of that trace: of the newest `limit` traces,
    in memory only. Written on the event loop, read in any thread."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._states: dict[int, TraceState] = {}

    def keep(self, trace_id: int, state: TraceState) -> None:
        states = self._states
        states.pop(trace_id, None)  # the newest stand last
        states[trace_id] = state
        if len(states) > self._limit:
            del states[next(iter(states))]

    def of(self, trace_id: int) -> TraceState | None:
        """None for a trace without one."""
        return self._states.get(trace_id)

    def added_to(self, context: SpanContext) -> SpanContext:
        """A span's context with the state of its trace, if there is one."""
        state = self._states.get(context.trace_id)
        if state is None:
            return context
        return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags, state)


class Contexts:
    """Makes the contexts of new spans."""

    def __init__(self, sampler: HeadSampler, bits: Callable[[int], int] = random.getrandbits) -> None:
        """`bits(n)` returns n random bits; tests pass a deterministic one."""
        self.sampler = sampler
        self.bits = bits
        self.states = TraceStates()

    def new(self, parent: str | None = None) -> str:
        """The traceparent of a new span: child of `parent`, or the root of a trace of its own."""
        bits = self.bits
        if parent is not None and len(parent) >= 55:
            trace = parent[3:35]
            sampled = parent[54] in "13579bdf" if self.sampler.parent_decides else self.sampler.samples(int(trace, 16))
            return f"00-{trace}-{bits(64) or 1:016x}-{'01' if sampled else '00'}"
        number = bits(192)
        flag = "01" if number >> 64 & _LOW_64 < self.sampler.bound else "00"
        ids = f"{number:048x}"
        return f"00-{ids[:32]}-{ids[32:]}-{flag}"


class ContextIds(IdGenerator):
    """Gives the SDK's own spans ids from the same source."""

    def __init__(self, contexts: Contexts) -> None:
        self._bits = contexts.bits

    def generate_span_id(self) -> int:
        return self._bits(64) or 1

    def generate_trace_id(self) -> int:
        return self._bits(128) or 1


class Step:
    """One unfinished span. `traceparent` is the parent of whatever it causes; its flag is the head sampler's decision
    for the events among that. The step itself is kept in any case."""

    def __init__(self, span: Span, sampled: bool, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.span = span
        self._now_ns = now_ns
        context = span.get_span_context()
        self.traceparent = str(TraceContext(context.trace_id, context.span_id, sampled))

    def set(self, name: str, value: Attribute) -> None:
        """Add an attribute. It passes redaction, so a private name or shape is hidden."""
        clean = redaction.field(name, value)
        self.span.set_attribute(name, clean if isinstance(clean, (str, int, float, bool)) else str(clean))

    def fail(self, error_type: str) -> None:
        """Set status error. `error_type` is from a fixed set: a reason code or an exception's class."""
        self.span.set_attribute(ERROR_TYPE, error_type)
        self.span.set_status(Status(StatusCode.ERROR, error_type))

    def end(self) -> None:
        self.span.end(self._now_ns())


class RequestTracer:
    """Starts steps. Without an SDK tracer they record nothing, but their contexts still link parents and children."""

    def __init__(self, contexts: Contexts, tracer: Tracer | None, now_ns: Callable[[], int] = time.time_ns) -> None:
        """`now_ns` returns nanoseconds since the epoch."""
        self._contexts = contexts
        self._tracer = tracer
        self._now_ns = now_ns

    def start(
        self,
        name: str,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        tracestate: str | None = None,
    ) -> Step:
        """Start a step that outlives the call; its holder ends it. `name` is a template, never an id.

        `parent` is a traceparent, also one from outside, and `tracestate` what came with it: malformed ones are
        ignored.
        """
        remote = parse(parent) if parent else None
        if self._tracer is None:
            own = parse(self._contexts.new(parent if remote else None))
            step = Step(NonRecordingSpan(trace.INVALID_SPAN_CONTEXT if own is None else _sdk(own)), sampled=False)
        else:
            context = (
                Context()
                if remote is None
                else trace.set_span_in_context(
                    NonRecordingSpan(_sdk(remote, self._state(remote, tracestate))), Context()
                )
            )
            span = self._tracer.start_span(name, context, kind, start_time=self._now_ns())
            sampled = self._contexts.sampler.samples(span.get_span_context().trace_id, remote)
            step = Step(span, sampled, self._now_ns)
        for key, value in (attributes or {}).items():
            step.set(key, value)
        return step

    def _state(self, parent: TraceContext, tracestate: str | None) -> TraceState | None:
        """The state that came with the parent, which is kept for what follows in its trace; else the one kept."""
        states = self._contexts.states
        if tracestate is None or len(tracestate) > MAX_TRACESTATE:
            return states.of(parent.trace_id)
        state = TraceState.from_header([tracestate])
        if state:
            states.keep(parent.trace_id, state)
        return state

    @contextmanager
    def span(
        self,
        name: str,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        tracestate: str | None = None,
    ) -> Iterator[Step]:
        """A step around a block: current for its log lines, ended with it; an exception fails it."""
        step = self.start(name, parent, kind, attributes, tracestate=tracestate)
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
"""A tracer that records nothing: the default of parts that may run without telemetry."""


def _sdk(context: TraceContext, state: TraceState | None = None) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags, trace_state=state)
