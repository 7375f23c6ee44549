"""Spans of one event's life, built from notes after the outcome is known: the SDK's own, with given ids and times.

A live attempt is a child of its `create`; a replay's attempt belongs to the replay's trace. All link to `create`, and
share `messaging.message.id`, for a trace store cannot search through links. Ids derive from the stored context, so
that an acknowledgement after a restart still finds the span of its attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.attributes import user_attributes as user
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from backend.telemetry.context import TraceContext, parse
from backend.telemetry.journal import Connected, DeliveryView, EventView, Key, Missed, Note, Settled, Upgraded
from backend.telemetry.redaction import key_hash, user_hash

LINK_ID: Final = "roundtrip.link.id"
KEY_HASH: Final = "roundtrip.key.hash"
SEQ: Final = "roundtrip.event.seq"
OUTCOME: Final = "roundtrip.event.outcome"
ATTEMPT: Final = "roundtrip.attempt.number"
MODE: Final = "roundtrip.attempt.mode"
SOCKETS_FOUND: Final = "roundtrip.sockets.found"
MISS_REASON: Final = "roundtrip.miss.reason"
OTHER_KEYS: Final = "roundtrip.miss.other_keys"
"""How many keys of the same user had sockets."""
MAPPED: Final = "roundtrip.socket.mapped"
REPLAYED: Final = "roundtrip.socket.replayed"

SYSTEM: Final = "socketio"

_KEPT: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_OPERATION_TYPE: Final = {
    "create": messaging.MessagingOperationTypeValues.CREATE.value,
    "emit": messaging.MessagingOperationTypeValues.SEND.value,
    "receipt": messaging.MessagingOperationTypeValues.SETTLE.value,
    "ack": messaging.MessagingOperationTypeValues.SETTLE.value,
}
_KIND: Final = {"create": SpanKind.PRODUCER}

_EMIT, _RECEIPT, _ACK = 1, 2, 3
_CONNECT: Final = 1

Attributes = dict[str, str | int | bool]


class SpanBuilder:
    """Turns notes into finished spans."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = resource
        self._scope = scope

    def build(self, note: Note) -> Iterator[ReadableSpan]:
        """The spans that a note stands for; none if its event carries no readable context."""
        if isinstance(note, Settled):
            yield from self._settled(note.delivery)
        elif isinstance(note, Missed):
            yield from self._missed(note)
        elif isinstance(note, Upgraded):
            yield from self._confirmation("ack", note.delivery, note.ack_ns, _ACK)
        else:
            yield from self._connected(note)

    def _settled(self, delivery: DeliveryView) -> Iterator[ReadableSpan]:
        event, attempts, outcome = delivery.event, delivery.attempts, delivery.outcome.wire
        create = parse(event.traceparent)
        if create is None:
            return
        if len(attempts) <= 1:
            yield self._create(event, create, delivery.stored_ns)
        confirmed = outcome in {"acked", "received"}
        if not attempts or not confirmed:
            return
        ack_ns = delivery.ack_ns if outcome == "acked" else 0
        last = attempts[-1]
        if last.reason is None:
            more: Attributes = {
                SOCKETS_FOUND: last.sockets,
                ATTEMPT: len(attempts),
                MODE: str(last.mode),
                OUTCOME: outcome,
            }
            context, parent = _attempt(create, len(attempts), last.mode, delivery.replay_parent)
            end = ack_ns or delivery.receipt_ns
            yield self._span("emit", event, context, parent, create, delivery.started_ns, end, more)
        if delivery.receipt_ns and (last.reason is None or outcome == "received"):  # else told with its miss
            yield from self._confirmation("receipt", delivery, delivery.receipt_ns, _RECEIPT)
        if ack_ns:
            yield from self._confirmation("ack", delivery, ack_ns, _ACK)

    def _missed(self, note: Missed) -> Iterator[ReadableSpan]:
        event, attempt = note.event, note.attempt
        create = parse(event.traceparent)
        if create is None:
            return
        if note.number == 1:
            yield self._create(event, create, note.stored_ns)
        reason = str(attempt.reason)
        more: Attributes = {
            SOCKETS_FOUND: attempt.sockets,
            ATTEMPT: note.number,
            MODE: str(attempt.mode),
            MISS_REASON: reason,
            ERROR_TYPE: reason,
        }
        if attempt.keys:
            more[OTHER_KEYS] = len(attempt.keys)
        context, parent = _attempt(create, note.number, attempt.mode, note.replay_parent)
        status = Status(StatusCode.ERROR, reason)
        yield self._span("emit", event, context, parent, create, note.started_ns, note.ended_ns, more, status)
        if note.receipt_ns:
            receipt = context._replace(span_id=create.derived(note.number * 4 + _RECEIPT))
            yield self._span("receipt", event, receipt, context, create, note.started_ns, note.receipt_ns, {})

    def _confirmation(self, what: str, delivery: DeliveryView, at_ns: int, number: int) -> Iterator[ReadableSpan]:
        """A receipt or an acknowledgement of the newest attempt: from the attempt's start to its coming."""
        event = delivery.event
        create = parse(event.traceparent)
        if create is None or not delivery.attempts:
            return
        count = len(delivery.attempts)
        emit, _ = _attempt(create, count, delivery.attempts[-1].mode, delivery.replay_parent)
        context = emit._replace(span_id=create.derived(count * 4 + number))
        yield self._span(what, event, context, emit, create, delivery.started_ns, at_ns, {})

    def _create(self, event: EventView, create: TraceContext, stored_ns: int) -> ReadableSpan:
        start = event.created_at * 1_000_000
        return self._span("create", event, create, None, None, start, stored_ns, {SEQ: event.seq})

    def _connected(self, note: Connected) -> Iterator[ReadableSpan]:
        replay = parse(note.replay)
        if replay is None:
            return
        parent = parse(note.parent) if note.parent else None
        connect = replay._replace(span_id=replay.derived(_CONNECT))
        attributes = {**_who(note.key), MAPPED: True, REPLAYED: note.replayed}
        yield self._finished(
            "socket connect", SpanKind.SERVER, connect, parent, None, note.started_ns, note.ended_ns, attributes
        )
        if note.replayed:
            yield self._finished(
                "replay",
                SpanKind.INTERNAL,
                replay,
                connect,
                None,
                note.started_ns,
                note.ended_ns,
                {**_who(note.key), messaging.MESSAGING_BATCH_MESSAGE_COUNT: note.replayed},
            )

    def _span(
        self,
        operation: str,
        event: EventView,
        context: TraceContext,
        parent: TraceContext | None,
        link: TraceContext | None,
        start_ns: int,
        end_ns: int,
        more: Attributes,
        status: Status = _UNSET,
    ) -> ReadableSpan:
        type_ = event.type.wire
        attributes: Attributes = {
            messaging.MESSAGING_SYSTEM: SYSTEM,
            messaging.MESSAGING_OPERATION_NAME: operation,
            messaging.MESSAGING_OPERATION_TYPE: _OPERATION_TYPE[operation],
            messaging.MESSAGING_DESTINATION_TEMPLATE: type_,
            messaging.MESSAGING_MESSAGE_ID: event.id,
            LINK_ID: event.link_id,
            **_who(event.key),
            **more,
        }
        kind = _KIND.get(operation, SpanKind.CLIENT)
        name = f"{operation} {type_}"
        return self._finished(name, kind, context, parent, link, start_ns, end_ns, attributes, status)

    def _finished(
        self,
        name: str,
        kind: SpanKind,
        context: TraceContext,
        parent: TraceContext | None,
        link: TraceContext | None,
        start_ns: int,
        end_ns: int,
        attributes: Attributes,
        status: Status = _UNSET,
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=_sdk(context),
            parent=None if parent is None else _sdk(parent),
            resource=self._resource,
            attributes=attributes,
            links=() if link is None else (Link(_sdk(link)),),
            kind=kind,
            status=status,
            start_time=start_ns,
            end_time=max(start_ns, end_ns),
            instrumentation_scope=self._scope,
        )


def _attempt(
    create: TraceContext, number: int, mode: str, replay_parent: str | None
) -> tuple[TraceContext, TraceContext]:
    """The contexts of an attempt's span and of its parent."""
    parent = (parse(replay_parent) if replay_parent is not None and mode == "replay" else None) or create
    return parent._replace(span_id=create.derived(number * 4 + _EMIT)), parent


def _who(key: Key) -> Attributes:
    return {user.USER_HASH: user_hash(key.user_id), KEY_HASH: key_hash(key.user_id, key.bot_id)}


def _sdk(context: TraceContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=False, trace_flags=_KEPT)
