"""`POST /otlp/v1/traces`: spans that pages send of the events they handled, as the last span of an event's trace.

A page is believed only as far as it may be: a span names an event of the caller's own, in the trace that the event was
created in; name, kind and most attributes are made here. Others are refused, and the response says how many.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

import msgspec
import structlog
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from roundtrip.api.problems import Problem
from roundtrip.api.routes import Call, Route
from roundtrip.api.schemas import ApiModel
from roundtrip.auth.service_keys import Scope
from roundtrip.clock import SYSTEM, Clock
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.rates import Limits
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import LedgerEntry, Outcome
from roundtrip.telemetry.event_spans import ALWAYS_KEPT, SLOW, EventSpanRecorder
from roundtrip.telemetry.redaction import field, user_hash
from roundtrip.telemetry.span_builder import ATTEMPT, MODE
from roundtrip.telemetry.span_records import Processed
from roundtrip.telemetry.tracing import parse

log = structlog.get_logger(__name__)

PATH: Final = "/otlp/v1/traces"

MOST_SPANS: Final = 32
"""Spans of one request that are looked at: each costs a look into the ledger."""

CLOCKS_DIFFER: Final = 300.0
"""Seconds that a page's clock may be wrong by: beyond that its span would stand in another part of the trace."""

VISIBILITY: Final = "roundtrip.page.visibility"
"""Whether the page could be seen when it handled the event: `visible` or `hidden`."""

_TEXTS: Final = frozenset({ERROR_TYPE, MODE, VISIBILITY})
_NUMBERS: Final = frozenset({ATTEMPT})
_TEXT: Final = re.compile(r"[\w .:/-]{1,64}", re.ASCII)
_TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
_SPAN_ID: Final = re.compile(r"[0-9a-fA-F]{16}")
_EVENT_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAX_NUMBER: Final = 1 << 53
_ERROR: Final = 2
_UNNAMED_ERROR: Final = "_OTHER"
"""OpenTelemetry's word for an error without a name."""

Number = int | str
"""64 bits: JSON of protobuf has them as text, and takes both."""


class OtlpValue(ApiModel, frozen=True):
    """An attribute's value; of other kinds than these it is not taken."""

    string_value: str | None = None
    int_value: Number | None = None


class OtlpAttribute(ApiModel, frozen=True):
    key: str
    value: OtlpValue = OtlpValue()


class OtlpStatus(ApiModel, frozen=True):
    code: int = 0


class OtlpSpan(ApiModel, frozen=True):
    """A span as OTLP has it. `messaging.message.id` among its attributes names the event; `traceId` and `parentSpanId`
    are those of the event's `traceparent`. Of the other attributes `error.type`, `roundtrip.attempt.number`,
    `roundtrip.attempt.mode` and `roundtrip.page.visibility` are kept; name and kind are made by the backend."""

    trace_id: str
    span_id: str
    start_time_unix_nano: Number
    end_time_unix_nano: Number
    parent_span_id: str = ""
    attributes: tuple[OtlpAttribute, ...] = ()
    status: OtlpStatus = OtlpStatus()


class OtlpScopeSpans(ApiModel, frozen=True):
    spans: tuple[OtlpSpan, ...] = ()


class OtlpResourceSpans(ApiModel, frozen=True):
    scope_spans: tuple[OtlpScopeSpans, ...] = ()


class OtlpTraces(ApiModel, frozen=True):
    """An `ExportTraceServiceRequest` of OTLP, as JSON. What it says of its resource and scope is not taken."""

    resource_spans: tuple[OtlpResourceSpans, ...] = ()


class PartialSuccess(ApiModel, frozen=True):
    """`rejectedSpans` is a number as text, as JSON of protobuf has it."""

    rejected_spans: str
    error_message: str


class OtlpAccepted(ApiModel, frozen=True, omit_defaults=True):
    """Without `partialSuccess` no span was refused. One that is not sampled, as its event is not, is not refused."""

    partial_success: PartialSuccess | None = None


Refusal = Literal["no_event", "unknown_event", "other_trace", "malformed", "time", "too_many"]

_WHY: Final[Mapping[Refusal, str]] = {
    "no_event": "without an event's id as messaging.message.id",
    "unknown_event": "of events that are not the caller's",
    "other_trace": "whose trace or parent is not the event's traceparent",
    "malformed": "with malformed ids or times",
    "time": "that ended before they began, or whose times are far from the event's",
    "too_many": f"too many: {MOST_SPANS} a request at the most",
}


class _Refused(Exception):  # noqa: N818  # a span's end, not a fault
    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason


class _Claim(NamedTuple):
    """A span whose form is right; what it says has yet to be checked."""

    event_id: str
    trace_id: int
    parent_id: int
    span_id: int
    started_ns: int
    ended_ns: int
    error: str | None
    attributes: dict[str, str | int | bool]


class PageTraces:
    """`spans` None takes nothing: each request is told so. `count(result, spans)` counts what became of spans; `limits`
    None counts no requests."""

    def __init__(
        self,
        outbox: Outbox,
        spans: EventSpanRecorder | None = None,
        count: Callable[[str, int], None] = lambda _result, _spans: None,
        limits: Limits | None = None,
        proxies: Proxies | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._outbox = outbox
        self._spans = spans
        self._count = count
        self._limits = limits
        self._proxies = proxies or Proxies()
        self._clock = clock

    @property
    def on(self) -> bool:
        """Whether spans are taken."""
        return self._spans is not None

    async def take(self, call: Call) -> msgspec.Struct:
        recorder = self._spans
        if recorder is None:
            raise Problem("browser_traces_off", "Spans of pages are not taken: ROUNDTRIP_BROWSER_TRACES is off.", 404)
        user_id, request = call.user.user_id, call.request
        if self._limits is not None:
            address = self._proxies.client(request.remote, request.headers.getall("X-Forwarded-For", ()))
            self._limits.page_traces(user_id, address)
        results: Counter[str] = Counter()
        refused: Counter[Refusal] = Counter()
        found: dict[str, LedgerEntry | None] = {}
        for number, span in enumerate(_spans(call.body_as(OtlpTraces))):
            if number >= MOST_SPANS:
                refused["too_many"] += 1
                continue
            try:
                claim = _claim(span)
                if claim.event_id not in found:
                    found[claim.event_id] = await self._outbox.find(claim.event_id)
                record, kept = self._record(claim, found[claim.event_id], user_id)
                results["accepted" if recorder.processed(record, kept) else "not_sampled"] += 1
            except _Refused as why:
                refused[why.reason] += 1
        for result, count in (results + refused).items():
            self._count(result, count)
        if not refused:
            return OtlpAccepted()
        log.info("page_spans_refused", user=user_hash(user_id), refused=dict(refused), **results)
        message = "; ".join(f"{count} {_WHY[reason]}" for reason, count in sorted(refused.items()))
        return OtlpAccepted(PartialSuccess(str(refused.total()), f"Spans refused: {message}."))

    def _record(self, claim: _Claim, entry: LedgerEntry | None, user_id: str) -> tuple[Processed, bool]:
        """A span that is right, and whether its event's are kept in any case. Raises `_Refused`."""
        if entry is None or entry.key.user_id != user_id:
            raise _Refused("unknown_event")
        create = parse(entry.traceparent)
        if create is None or (create.trace_id, create.span_id) != (claim.trace_id, claim.parent_id):
            raise _Refused("other_trace")
        tried = sum(1 + attempt.omitted for attempt in entry.attempts)
        if create.derives(claim.span_id, 4 * (tried + 1)):
            raise _Refused("malformed")  # the id of one of this program's own spans
        earliest = entry.created_at / 1e3 - CLOCKS_DIFFER
        latest = self._clock.wall() + CLOCKS_DIFFER
        if not earliest <= claim.started_ns / 1e9 <= claim.ended_ns / 1e9 <= latest:
            raise _Refused("time")
        record = Processed(entry, claim.span_id, claim.started_ns, claim.ended_ns, claim.error, claim.attributes)
        return record, is_kept(entry)

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "POST",
                PATH,
                "sendSpans",
                "Spans of what a page did with its events, as OTLP (off unless BROWSER_TRACES is on)",
                self.take,
                OtlpAccepted,
                scope=Scope.TRACES_WRITE,
                body=OtlpTraces,
                problems=("browser_traces_off", "rate_limited", "outbox_unavailable"),
            ),
        )


def is_kept(entry: LedgerEntry) -> bool:
    """Whether the spans of an event are kept whatever the head sampler decided, by what the ledger says of it: the
    same as `event_spans.interesting` says while it is delivered."""
    attempts = entry.attempts
    if entry.type.wire in ALWAYS_KEPT or len(attempts) > 1 or entry.outcome is Outcome.EXPIRED:
        return True
    for attempt in attempts:
        if attempt.reason is not None or attempt.mode == "replay" or attempt.omitted:
            return True
        confirmed = attempt.ack_at or attempt.receipt_at
        if confirmed and confirmed - entry.created_at > SLOW * 1e3:
            return True
    return False


def _spans(traces: OtlpTraces) -> Iterator[OtlpSpan]:
    for of_resource in traces.resource_spans:
        for of_scope in of_resource.scope_spans:
            yield from of_scope.spans


def _claim(span: OtlpSpan) -> _Claim:
    """Raises `_Refused`."""
    values = {attribute.key: attribute.value for attribute in span.attributes}
    event_id = values.get(messaging.MESSAGING_MESSAGE_ID, OtlpValue()).string_value or ""
    if not _EVENT_ID.fullmatch(event_id):
        raise _Refused("no_event")
    ids = (_TRACE_ID, span.trace_id), (_SPAN_ID, span.parent_span_id), (_SPAN_ID, span.span_id)
    if not all(pattern.fullmatch(text) for pattern, text in ids) or not int(span.span_id, 16):
        raise _Refused("malformed")
    attributes: dict[str, str | int | bool] = {}
    for name, value in values.items():
        if name in _TEXTS and value.string_value is not None and _TEXT.fullmatch(value.string_value):
            attributes[name] = str(field(name, value.string_value))
        elif name in _NUMBERS and value.int_value is not None:
            attributes[name] = _number(value.int_value, _MAX_NUMBER)
    error = attributes.pop(ERROR_TYPE, None)
    if error is None and span.status.code == _ERROR:
        error = _UNNAMED_ERROR
    started, ended = (_number(at, 1 << 63) for at in (span.start_time_unix_nano, span.end_time_unix_nano))
    trace_id, parent_id, span_id = (int(text, 16) for _, text in ids)
    return _Claim(
        event_id, trace_id, parent_id, span_id, started, ended, None if error is None else str(error), attributes
    )


def _number(value: Number, below: int) -> int:
    """Raises `_Refused` for what is no number of this size."""
    if isinstance(value, str):
        if not value.isascii() or not value.isdigit() or len(value) > 20:
            raise _Refused("malformed")
        value = int(value)
    if not 0 <= value < below:
        raise _Refused("malformed")
    return value
