"""The spans of a plain delivery, straight from its record to OTLP's bytes, without span objects between.

Nearly all records are of events that were confirmed at their first, live attempt, and their spans differ in ids and
times only. What else they hold is cut out of the bytes of the first such record, which `span_builder` builds and
`otlp_encoding` encodes, as they do all other records: so the bytes are the same, whatever attributes there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from roundtrip.telemetry.otlp_encoding import (
    LOCAL,
    NO_STATUS,
    TIMES,
    EncodedSpans,
    attribute,
    encode_span,
    envelope,
    varint,
)
from roundtrip.telemetry.span_builder import ACK, EMIT, RECEIPT, SEQ, EventSpan, SpanBuilder
from roundtrip.telemetry.span_records import DeliveryView, EventView, Settled, SpanRecord
from roundtrip.telemetry.tracing import TraceContext, TraceStates

_TRACEPARENT: Final = re.compile("00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")

_EMIT, _RECEIPT, _ACK = (TraceContext(0, 0, sampled=True).derived(4 + part) for part in (EMIT, RECEIPT, ACK))
"""What the span ids of a first attempt differ in from that of `create`."""

_SEQ_FIELDS: Final = [b"", *(attribute(SEQ, (1 << 7 * size) - 1)[:-size] for size in range(1, 10))]
"""The attribute of an event's number up to the number, by the length of that."""

_ANY: Final = SpanContext(1, 1, is_remote=False)
_END: Final = NO_STATUS + LOCAL
_LINK_BYTES: Final = 35
_ID_BYTES: Final = 36
_MOST: Final = 8192
"""Links of which the attributes are remembered, some 200 bytes each."""


class _Parts(NamedTuple):
    """What the spans of one operation share: between the parent and the times; up to the event's id; and last."""

    name: bytes
    attributes: bytes
    extra: bytes = b""


class EventEncoder:
    """Builds spans as `SpanBuilder` does; those of plain deliveries are bytes already."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, states: TraceStates | None = None) -> None:
        """`states` as of `SpanBuilder`."""
        self._states = states or TraceStates()
        self._builder = SpanBuilder(resource, scope, self._states)
        any_span = EventSpan("", _ANY, resource=resource, instrumentation_scope=scope)
        self._envelope = envelope(any_span)
        self._operations: dict[tuple[str, str, int, bool, bool], tuple[_Parts, ...]] = {}
        """By type, outcome, sockets, and whether there is a receipt and an acknowledgement."""
        self._links: dict[tuple[str, str, str], bytes] = {}
        """The attributes of a link, a user and a bot, which follow the event's id."""

    def build(self, record: SpanRecord) -> Iterable[ReadableSpan]:
        """As `SpanBuilder.build`."""
        if not isinstance(record, Settled):
            return self._builder.build(record)
        delivery, create_parent = record
        ids = _TRACEPARENT.fullmatch(delivery.event.traceparent)
        parent = _TRACEPARENT.fullmatch(create_parent) if create_parent is not None else None
        if ids is None or not _plain(delivery) or (parent is None and create_parent is not None):
            return self._builder.build(record)
        if self._states.of(int(ids[1], 16)) is not None:
            return self._builder.build(record)
        event, outcome, sockets = delivery.event, delivery.outcome.wire, delivery.attempts[-1].sockets
        ack_ns = delivery.ack_ns if outcome == "acked" else 0
        what = event.type.wire, outcome, sockets, delivery.receipt_ns > 0, ack_ns > 0
        whose = event.link_id, event.key.user_id, event.key.bot_id
        operations, link = self._operations.get(what), self._links.get(whose)
        if operations is None or link is None:
            built = list(self._builder.build(record))
            self._operations[what], self._links[whose] = self._cut(event, built)
            return built
        spans = _encode(delivery, ack_ns, ids, parent, operations, link)
        return [EncodedSpans(self._envelope, b"".join(spans), len(spans))]

    def _cut(self, event: EventView, spans: Sequence[ReadableSpan]) -> tuple[tuple[_Parts, ...], bytes]:
        """What later spans of the same kind share with these of a plain delivery, and the link's attributes."""
        for known in (self._operations, self._links):
            if len(known) >= _MOST:
                known.clear()
        cut = []
        for span in spans:
            context = cast("SpanContext", span.context)
            wire = encode_span(span, context)
            begin = wire.index(b"\x0a\x10" + context.trace_id.to_bytes(16, "big")) + 28
            begin += 0 if span.parent is None else 10
            times = wire.index(TIMES.pack(0x39, span.start_time, 0x41, span.end_time), begin)
            name = wire[begin:times]
            at = wire.index(event.id.encode(), times)
            rest = wire[at + _ID_BYTES : len(wire) - len(_END) - _LINK_BYTES * len(span.links)]
            cut.append((name, wire[times + TIMES.size : at], rest))
        link = cut[-1][2]  # a receipt or an acknowledgement, which have nothing of their own
        create, emit, *settles = cut
        parts = [_Parts(create[0], create[1]), _Parts(emit[0], emit[1], emit[2].removeprefix(link))]
        return (*parts, *(_Parts(name, attributes) for name, attributes, _ in settles)), link


def _plain(delivery: DeliveryView) -> bool:
    """Whether the event was confirmed at its first, live attempt."""
    event = delivery.event
    settled = delivery.receipt_ns or (delivery.ack_ns and delivery.outcome.wire == "acked")
    if delivery.tried != 1 or delivery.mode != "live" or not settled:
        return False
    attempt = delivery.attempts[-1]
    return (
        attempt.reason is None
        and attempt.mode == "live"
        and delivery.outcome.wire in {"acked", "received"}
        and len(event.id) == _ID_BYTES
        and event.id.isascii()
    )


def _encode(
    delivery: DeliveryView,
    ack_ns: int,
    ids: re.Match[str],
    parent: re.Match[str] | None,
    operations: tuple[_Parts, ...],
    link: bytes,
) -> list[bytes]:
    """The spans of a plain delivery, each as a field of its scope. `ids` are those of its `create`, whose parent is
    `parent`."""
    event, started = delivery.event, delivery.started_ns
    create, emit, *settles = operations
    trace, number = bytes.fromhex(ids[1]), int(ids[2], 16)
    own, of_create = b"%b%b" % (event.id.encode(), link), number.to_bytes(8, "big")
    head = b"\x0a\x10%b\x12\x08" % trace
    end = b"\x6a\x21\x0a\x10%b\x12\x08%b\x35%b%b" % (trace, of_create, LOCAL[2:], _END)
    seq, created, emit_id = varint(event.seq), event.created_at * 1_000_000, _span_id(number ^ _EMIT)
    above = b"" if parent is None else b"\x22\x08" + bytes.fromhex(parent[2])
    extra = _SEQ_FIELDS[len(seq)] + seq + _END
    receipt_ns = delivery.receipt_ns
    spans = [
        _span(head + of_create + above, create, created, delivery.stored_ns, own, extra),
        _span(head + emit_id + b"\x22\x08" + of_create, emit, started, ack_ns or receipt_ns, own, emit.extra + end),
    ]
    above = b"\x22\x08" + emit_id
    if receipt_ns:
        spans.append(_span(head + _span_id(number ^ _RECEIPT) + above, settles[0], started, receipt_ns, own, end))
    if ack_ns:
        spans.append(_span(head + _span_id(number ^ _ACK) + above, settles[-1], started, ack_ns, own, end))
    return spans


def _span(ids: bytes, parts: _Parts, start_ns: int, end_ns: int, own: bytes, end: bytes) -> bytes:
    times = TIMES.pack(0x39, start_ns, 0x41, max(start_ns, end_ns))
    body = b"".join((ids, parts.name, times, parts.attributes, own, end))
    return b"\x12%b%b" % (varint(len(body)), body)


def _span_id(number: int) -> bytes:
    return (number or 1).to_bytes(8, "big")
