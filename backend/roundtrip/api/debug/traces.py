"""The traces of the ring as JSON: a list of the newest, one whole trace, and what belongs to one event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import msgspec
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME
from opentelemetry.trace import SpanContext

from roundtrip.api.schemas import ApiModel
from roundtrip.telemetry.log_ring import LogRing
from roundtrip.telemetry.span_builder import MISS_REASON
from roundtrip.telemetry.trace_ring import TraceRing, Wanted

MOST_TRACES: Final = 200
MOST_SPANS: Final = 2000
"""Spans of one answer."""

MOST_LINES: Final = 200
"""Log lines of one answer."""

_Text = Annotated[str, msgspec.Meta(max_length=128)]


class TraceQuery(ApiModel, frozen=True):
    """What to look for. `key` and `user` are hashes, as logs and spans have them; `failed` leaves out traces in which
    nothing failed."""

    trace: _Text = ""
    event: _Text = ""
    link: _Text = ""
    key: _Text = ""
    user: _Text = ""
    failed: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_TRACES)] = 50


class SpanLink(ApiModel, frozen=True):
    trace_id: str
    span_id: str


class SpanView(ApiModel, frozen=True):
    """One span. `start` is in microseconds since the epoch, `duration` in microseconds; `error` is what failed."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    service: str
    kind: str
    start: int
    duration: int
    error: str | None
    attributes: dict[str, Any]
    links: tuple[SpanLink, ...]


class TraceSummary(ApiModel, frozen=True):
    """A trace in a list. `name` is that of its first span, `errors` are the distinct reasons of failures."""

    trace_id: str
    name: str
    start: int
    duration: int
    spans: int
    errors: tuple[str, ...]
    events: tuple[str, ...]


class TraceList(ApiModel, frozen=True):
    """The newest traces first. `kept` is how many notes and spans were looked at, `ring` whether there is a ring."""

    traces: tuple[TraceSummary, ...]
    kept: int
    ring: bool


class TraceView(ApiModel, frozen=True):
    """One trace with its log lines. `linked` are the traces that its spans link to, or whose spans link to it."""

    trace_id: str
    spans: tuple[SpanView, ...]
    linked: tuple[str, ...]
    lines: tuple[dict[str, Any], ...]


class EventTraces(ApiModel, frozen=True):
    """All spans that belong to one event: those of its own trace, and its attempts in the traces of replays."""

    spans: tuple[SpanView, ...]
    traces: tuple[str, ...]
    lines: tuple[dict[str, Any], ...]


class Traces:
    """Reads the ring in a thread, for its spans are built then. Without a ring all is empty."""

    def __init__(self, ring: TraceRing | None, lines: LogRing | None) -> None:
        self._ring = ring
        self._lines = lines

    async def newest(self, query: TraceQuery) -> TraceList:
        if self._ring is None:
            return TraceList((), 0, False)
        wanted = Wanted(query.trace, query.event, query.link, query.key, query.user)
        state = self._ring.state()
        spans = await self._find(wanted)
        found = _summaries(spans)
        if query.failed:
            found = [trace for trace in found if trace.errors]
        return TraceList(tuple(found[: query.limit]), state.notes + state.spans, True)

    async def one(self, trace_id: str) -> TraceView | None:
        """None if nothing of this trace is kept."""
        spans = await self._find(Wanted(trace=trace_id))
        if not spans:
            return None
        linked = {link.trace_id for span in spans for link in span.links}
        for event_id in _events(spans)[:20]:
            linked.update(span.trace_id for span in await self._find(Wanted(event=event_id)))
        others = tuple(sorted(linked - {trace_id}))
        return TraceView(trace_id, tuple(spans), others, self._lines_of([trace_id]))

    async def of_event(self, event_id: str, trace_id: str | None) -> EventTraces:
        """`trace_id` is that of the event's creation."""
        own = await self._find(Wanted(event=event_id))
        traces = {span.trace_id for span in own} | ({trace_id} if trace_id else set())
        spans = list(own)
        for trace in sorted(traces):
            whole = await self._find(Wanted(trace=trace))
            spans += [span for span in whole if span.attributes.get(messaging.MESSAGING_MESSAGE_ID) is None]
        return EventTraces(tuple(_ordered(spans)), tuple(sorted(traces)), self._lines_of(traces, event_id))

    async def _find(self, wanted: Wanted) -> list[SpanView]:
        ring = self._ring
        if ring is None:
            return []
        snapshot = ring.snapshot()

        def search() -> list[SpanView]:
            found = [span_view(span) for span in ring.find(snapshot, wanted)]
            return _ordered(found)[-MOST_SPANS:]

        return await asyncio.to_thread(search)

    def _lines_of(self, traces: Iterable[str], event_id: str | None = None) -> tuple[dict[str, Any], ...]:
        if self._lines is None:
            return ()
        lines = self._lines.of_traces(frozenset(traces), MOST_LINES)
        return tuple(line for line in lines if event_id is None or line.get("event_id", event_id) == event_id)


def span_view(span: ReadableSpan) -> SpanView:
    context, parent = span.context, span.parent
    start, end = span.start_time or 0, span.end_time or 0
    return SpanView(
        _trace(context),
        _span(context),
        None if parent is None else _span(parent),
        span.name,
        str(span.resource.attributes.get(SERVICE_NAME, "")),
        span.kind.name,
        start // 1000,
        max(0, end - start) // 1000,
        (span.status.description or "error") if not span.status.is_ok and not span.status.is_unset else None,
        dict(span.attributes or {}),
        tuple(SpanLink(_trace(link.context), _span(link.context)) for link in span.links),
    )


def _trace(context: SpanContext | None) -> str:
    return "" if context is None else f"{context.trace_id:032x}"


def _span(context: SpanContext | None) -> str:
    return "" if context is None else f"{context.span_id:016x}"


def _ordered(spans: Iterable[SpanView]) -> list[SpanView]:
    """By their start, each once."""
    unique = {(span.trace_id, span.span_id): span for span in spans}
    return sorted(unique.values(), key=lambda span: (span.start, -span.duration))


def _events(spans: Sequence[SpanView]) -> list[str]:
    ids = (span.attributes.get(messaging.MESSAGING_MESSAGE_ID) for span in spans)
    return list(dict.fromkeys(event_id for event_id in ids if event_id is not None))


def _summaries(spans: Sequence[SpanView]) -> list[TraceSummary]:
    """The trace with the newest span first."""
    traces: dict[str, list[SpanView]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    made = [_summary(trace_id, members) for trace_id, members in traces.items()]
    return sorted(made, key=lambda trace: -trace.start - trace.duration)


def _summary(trace_id: str, spans: list[SpanView]) -> TraceSummary:
    start = spans[0].start
    errors = dict.fromkeys(str(span.attributes.get(MISS_REASON, span.error)) for span in spans if span.error)
    return TraceSummary(
        trace_id,
        spans[0].name,
        start,
        max(span.start + span.duration for span in spans) - start,
        len(spans),
        tuple(errors),
        tuple(_events(spans)[:20]),
    )
