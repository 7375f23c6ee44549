"""Builds the spans of an event from records, once its outcome is known: the SDK's spans, with given ids and times.

A live attempt is a child of its `create`; a replay's attempt belongs to the replay's trace. All link to `create`, and
share `messaging.message.id`, for a trace store cannot search through links. Ids derive from the stored context, so
that an acknowledgement after a restart still finds the span of its attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.attributes import user_attributes as user
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from roundtrip.telemetry.page_spans import PageSpanBuilder
from roundtrip.telemetry.redaction import key_hash, user_hash
from roundtrip.telemetry.span_records import (
    Connected,
    DeliveryView,
    EventView,
    Key,
    Missed,
    Processed,
    Settled,
    SpanRecord,
    Upgraded,
)
from roundtrip.telemetry.tracing import LINK_ID, TraceContext, TraceStates, parse

KEY_HASH: Final = "roundtrip.key.hash"
SEQ: Final = "roundtrip.event.seq"
OUTCOME: Final = "roundtrip.event.outcome"
ATTEMPT: Final = "roundtrip.attempt.number"
MODE: Final = "roundtrip.attempt.mode"
SOCKETS_FOUND: Final = "roundtrip.sockets.found"
MISS_REASON: Final = "roundtrip.miss.reason"
LOOKED_FOR: Final = "roundtrip.looked_for"
"""The key that an attempt looked for, as a hash."""
LOOKED_FOR_IS_USER: Final = "roundtrip.looked_for.is_user"
"""Whether its bot id is the user's id."""
CONNECTED: Final = "roundtrip.connected"
"""The keys of the same user that had sockets, as hashes; of many only the first."""
CONNECTED_IS_USER: Final = "roundtrip.connected.is_user"
"""Whether the bot id of one of them is the user's id."""
MAPPED: Final = "roundtrip.socket.mapped"
REPLAYED: Final = "roundtrip.socket.replayed"

SYSTEM: Final = "socketio"

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_OPERATION_TYPE: Final = {
    "create": messaging.MessagingOperationTypeValues.CREATE.value,
    "emit": messaging.MessagingOperationTypeValues.SEND.value,
    "receipt": messaging.MessagingOperationTypeValues.SETTLE.value,
    "ack": messaging.MessagingOperationTypeValues.SETTLE.value,
}
EMIT, RECEIPT, ACK = 1, 2, 3
"""What a span's id derives from, beside four times the number of its attempt."""
_CONNECT: Final = 1

Attributes = dict[str, str | int | bool | tuple[str, ...]]


class EventSpan(ReadableSpan):
    """A span built here: no events, no trace state, links without attributes, and attributes of plain types."""


class SpanBuilder:
    """Turns records into finished spans."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, states: TraceStates | None = None) -> None:
        self._states = states or TraceStates()  # of traces from outside
        self._resource = resource
        self._scope = scope
        self._pages = PageSpanBuilder(resource, scope)

    def build(self, record: SpanRecord) -> Iterator[ReadableSpan]:
        """The spans of a record; none if its event's context is malformed."""
        if isinstance(record, Settled):
            yield from self._settled(record.delivery, record.create_parent)
        elif isinstance(record, Missed):
            yield from self._missed(record)
        elif isinstance(record, Upgraded):
            yield from self._upgraded(record.delivery, record.ack_ns)
        elif isinstance(record, Processed):
            if tree := _span_tree(record.event):
                yield self._pages.span(record, tree.create, tree.type, tree.common)
        else:
            yield from self._connected(record)

    def _settled(self, delivery: DeliveryView, create_parent: str | None) -> Iterator[ReadableSpan]:
        attempts, outcome = delivery.attempts, delivery.outcome.wire
        tree = _span_tree(delivery.event)
        if tree is None:
            return
        first = not attempts or (delivery.tried == 1 and attempts[0].reason is None)
        if first and create_parent != "":  # else it was built with the first miss, or elsewhere
            yield self._create(tree, delivery.mode, delivery.stored_ns, create_parent)
        if not attempts or outcome not in {"acked", "received"}:
            return
        last = attempts[-1]
        context, parent = _attempt(tree, delivery.tried, last.mode, delivery.replay_parent)
        start, receipt_ns = delivery.started_ns, delivery.receipt_ns
        ack_ns = delivery.ack_ns if outcome == "acked" else 0
        if last.reason is None:
            extra: Attributes = {SOCKETS_FOUND: last.sockets, ATTEMPT: delivery.tried, MODE: str(last.mode)}
            extra[OUTCOME] = outcome
            yield self._span("emit", tree, context, parent, start, ack_ns or receipt_ns, extra)
        if receipt_ns and (last.reason is None or delivery.receipt_late):  # else it was reported with its miss
            yield self._settle("receipt", tree, delivery.tried, context, start, receipt_ns)
        if ack_ns:
            yield self._settle("ack", tree, delivery.tried, context, start, ack_ns)

    def _missed(self, record: Missed) -> Iterator[ReadableSpan]:
        attempt = record.attempt
        tree = _span_tree(record.event)
        if tree is None:
            return
        if record.number == 1 and record.create_parent != "":
            yield self._create(tree, attempt.mode, record.stored_ns, record.create_parent)
        reason = str(attempt.reason)
        extra: Attributes = {SOCKETS_FOUND: attempt.sockets, ATTEMPT: record.number, MODE: str(attempt.mode)}
        extra |= {MISS_REASON: reason, ERROR_TYPE: reason}
        if attempt.looked_for is not None:
            extra[LOOKED_FOR], extra[LOOKED_FOR_IS_USER] = attempt.looked_for, attempt.looked_for_is_user
        if attempt.connected:
            extra[CONNECTED], extra[CONNECTED_IS_USER] = attempt.connected, attempt.connected_is_user
        context, parent = _attempt(tree, record.number, attempt.mode, record.replay_parent)
        status = Status(StatusCode.ERROR, reason)
        yield self._span("emit", tree, context, parent, record.started_ns, record.ended_ns, extra, status)
        if record.receipt_ns:
            yield self._settle("receipt", tree, record.number, context, record.started_ns, record.receipt_ns)

    def _upgraded(self, delivery: DeliveryView, ack_ns: int) -> Iterator[ReadableSpan]:
        tree = _span_tree(delivery.event)
        if tree is None or not delivery.attempts:
            return
        number = delivery.tried
        context, _ = _attempt(tree, number, delivery.attempts[-1].mode, delivery.replay_parent)
        yield self._settle("ack", tree, number, context, delivery.started_ns, ack_ns)

    def _create(self, tree: _SpanTree, mode: str, stored_ns: int, create_parent: str | None) -> ReadableSpan:
        """From the event's creation to its commit, whose time a replay after a restart does not know."""
        start = tree.event.created_at * 1_000_000
        end = stored_ns if mode == "live" else start
        parent = parse(create_parent) if create_parent is not None else None
        return self._span(
            "create", tree, tree.sdk, parent and _sdk(parent), start, end, {SEQ: tree.event.seq}, links=()
        )

    def _settle(
        self, what: str, tree: _SpanTree, number: int, emit: SpanContext, started_ns: int, at_ns: int
    ) -> ReadableSpan:
        """A receipt or an acknowledgement of an attempt: from the attempt's start to its arrival."""
        span_id = tree.create.derived(number * 4 + (RECEIPT if what == "receipt" else ACK))
        context = SpanContext(emit.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)
        return self._span(what, tree, context, emit, started_ns, at_ns, {})

    def _connected(self, record: Connected) -> Iterator[ReadableSpan]:
        replay = parse(record.replay)
        if replay is None:
            return
        parent = parse(record.parent) if record.parent else None
        connect = _sdk(TraceContext(replay.trace_id, replay.derived(_CONNECT), replay.sampled))
        code = record.refused
        own = {} if record.key is None else _key_attributes(record.key)
        mapped: Attributes = {MAPPED: True, REPLAYED: record.replayed}
        result: Attributes = mapped if code is None else {MAPPED: False, ERROR_TYPE: code}
        yield self._finished(
            "socket connect",
            SpanKind.SERVER,
            connect,
            parent and _sdk(parent),
            (),
            record.started_ns,
            record.ended_ns,
            {**own, **result},
            _UNSET if code is None else Status(StatusCode.ERROR, code),
        )
        if record.replayed:
            yield self._finished(
                "replay",
                SpanKind.INTERNAL,
                _sdk(replay),
                connect,
                (),
                record.started_ns,
                record.ended_ns,
                {**own, messaging.MESSAGING_BATCH_MESSAGE_COUNT: record.replayed},
            )

    def _span(
        self,
        operation: str,
        tree: _SpanTree,
        context: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        extra: Attributes,
        status: Status = _UNSET,
        links: tuple[Link, ...] | None = None,
    ) -> ReadableSpan:
        attributes = {
            messaging.MESSAGING_OPERATION_NAME: operation,
            messaging.MESSAGING_OPERATION_TYPE: _OPERATION_TYPE[operation],
            **tree.common,
            **extra,
        }
        return self._finished(
            f"{operation} {tree.type}",
            SpanKind.PRODUCER if operation == "create" else SpanKind.CLIENT,
            context,
            parent,
            tree.links if links is None else links,
            start_ns,
            end_ns,
            attributes,
            status,
        )

    def _finished(
        self,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        links: tuple[Link, ...],
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        status: Status = _UNSET,
    ) -> ReadableSpan:
        context = self._states.added_to(context)
        made: type[ReadableSpan] = ReadableSpan if context.trace_state else EventSpan
        return made(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            links=links,
            kind=kind,
            status=status,
            start_time=start_ns,
            end_time=max(start_ns, end_ns),
            instrumentation_scope=self._scope,
        )


class _SpanTree(NamedTuple):
    """What all spans of one event share."""

    event: EventView
    type: str
    create: TraceContext
    sdk: SpanContext
    links: tuple[Link, ...]
    common: Attributes


def _span_tree(event: EventView) -> _SpanTree | None:
    """None if the event's context is malformed."""
    create = parse(event.traceparent)
    if create is None:
        return None
    sdk = _sdk(create)
    common: Attributes = {
        messaging.MESSAGING_SYSTEM: SYSTEM,
        messaging.MESSAGING_DESTINATION_TEMPLATE: event.type.wire,
        messaging.MESSAGING_MESSAGE_ID: event.id,
        LINK_ID: event.link_id,
        **_key_attributes(event.key),
    }
    return _SpanTree(event, event.type.wire, create, sdk, (Link(sdk),), common)


def _attempt(tree: _SpanTree, number: int, mode: str, replay_parent: str | None) -> tuple[SpanContext, SpanContext]:
    """The contexts of an attempt's span and of its parent."""
    replay = parse(replay_parent) if replay_parent is not None and mode == "replay" else None
    parent = tree.sdk if replay is None else _sdk(replay)
    span_id = tree.create.derived(number * 4 + EMIT)
    return SpanContext(parent.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED), parent


def _key_attributes(key: Key) -> Attributes:
    return {user.USER_HASH: user_hash(key.user_id), KEY_HASH: key_hash(key.user_id, key.bot_id)}


def _sdk(context: TraceContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=False, trace_flags=_SAMPLED)
