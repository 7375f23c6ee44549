"""The newest traces, in memory and bounded in bytes: what a person reads in the console without a collector.

Kept as in an export: what missed, was retried, replayed, slow or failed always, plain successes sampled (`admits`),
each in a part of its own, so that a busy day cannot wash the misses away. What is put here is a note of a few hundred
bytes; its spans are built when somebody asks, by the builder of the export, hence with the same ids.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Generic, NamedTuple, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import StatusCode

from roundtrip.telemetry.redaction import key_hash, user_hash
from roundtrip.telemetry.span_builder import SpanBuilder
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
    copied_attempt,
    copied_delivery,
    copied_event,
)
from roundtrip.telemetry.tracing import LINK_ID

_Item = TypeVar("_Item")

NOTE_BYTES: Final = 1792
"""What a note takes at the most, with its event and its attempt; `tests/telemetry/test_trace_ring.py` measures it."""

SPAN_BYTES: Final = 6144
"""What a finished span of a request or a link takes at the most."""

_LOOKED_AT: Final = 1000
"""Notes that are looked through for one event."""

PLAIN_PER_SECOND: Final = 10.0
PLAIN_BURST: Final = 200.0
"""Plain successes that are kept: all of a quiet day, some of a busy one."""


class Wanted(NamedTuple):
    """What to look for; None and "" are any. `key` and `user` are hashes."""

    trace: str = ""
    event: str = ""
    link: str = ""
    key: str = ""
    user: str = ""


class _Part(Generic[_Item]):
    """A queue bounded in bytes: the oldest go first."""

    __slots__ = ("_each", "_limit", "dropped", "items")

    def __init__(self, size: int, each: int) -> None:
        """`each` is what an item takes."""
        self.items: deque[_Item] = deque(maxlen=max(1, size // each))
        self._each = each
        self.dropped = 0

    def put(self, item: _Item) -> None:
        items = self.items
        self.dropped += len(items) == items.maxlen
        items.append(item)

    @property
    def bytes(self) -> int:
        return len(self.items) * self._each


class RingState(NamedTuple):
    """How full the ring is. `oldest_ns` is when its oldest kept miss or retry ended, 0 without one."""

    bytes: int
    limit: int
    notes: int
    spans: int
    washed_out: int


class TraceRing:
    """Written on the event loop. Read it there too, or from another thread over `snapshot`."""

    def __init__(
        self,
        size: int,
        resource: Resource,
        scope: InstrumentationScope,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`size` is in bytes: a half for what is always kept, a quarter each for plain successes and for requests."""
        self._size = size
        self._kept: _Part[SpanRecord] = _Part(size // 2, NOTE_BYTES)
        self._plain: _Part[SpanRecord] = _Part(size // 4, NOTE_BYTES)
        self._spans: _Part[ReadableSpan] = _Part(size // 4, SPAN_BYTES)
        self._builder = SpanBuilder(resource, scope)
        self._monotonic = monotonic
        self._tokens = PLAIN_BURST
        self._refilled = monotonic()

    def admits(self) -> bool:
        """Whether one more plain success may be kept now; the caller then puts it."""
        if self._tokens < 1.0:
            now = self._monotonic()
            self._tokens = min(PLAIN_BURST, self._tokens + (now - self._refilled) * PLAIN_PER_SECOND)
            self._refilled = now
            if self._tokens < 1.0:
                return False
        self._tokens -= 1.0
        return True

    def missed(self, record: Missed) -> None:
        _event, attempt, number, stored, started, receipt, ended, replay, create = record
        event = copied_event(record.event)
        self._kept.put(Missed(event, copied_attempt(attempt), number, stored, started, receipt, ended, replay, create))

    def settled(self, delivery: DeliveryView, create_parent: str | None, *, plain: bool) -> None:
        """`plain`: it is kept because `admits` said so."""
        (self._plain if plain else self._kept).put(Settled(copied_delivery(delivery), create_parent))

    def upgraded(self, delivery: DeliveryView, *, plain: bool) -> None:
        (self._plain if plain else self._kept).put(Upgraded(copied_delivery(delivery), delivery.ack_ns))

    def connected(self, record: Connected) -> None:
        (self._kept if record.replayed else self._plain).put(record)

    def holds(self, event_id: str) -> bool:
        """Whether a plain success of this event is among the newest that are kept."""
        return any(
            isinstance(note, Settled) and note.delivery.event.id == event_id
            for note in islice(reversed(self._plain.items), _LOOKED_AT)
        )

    def processed(self, record: Processed, *, plain: bool) -> None:
        event, span_id, started, ended, error, attributes = record
        note = Processed(copied_event(event), span_id, started, ended, error, attributes)
        (self._plain if plain else self._kept).put(note)

    def span(self, span: ReadableSpan) -> None:
        """A finished span of a request, a link or a worker."""
        self._spans.put(span)

    def snapshot(self) -> tuple[list[SpanRecord], list[ReadableSpan]]:
        """The notes, each part from old to new, and the finished spans."""
        return [*self._plain.items, *self._kept.items], list(self._spans.items)

    def find(self, snapshot: tuple[list[SpanRecord], list[ReadableSpan]], wanted: Wanted) -> Iterator[ReadableSpan]:
        """The spans of a snapshot that have all that is wanted. In any thread: many notes take some milliseconds."""
        notes, spans = snapshot
        for span in spans:
            if _span_matches(span, wanted):
                yield span
        for note in notes:
            if _matches(note, wanted):
                for span in self._builder.build(note):
                    if not wanted.trace or _trace_id(span) == wanted.trace:
                        yield span

    def newest_failure(self) -> str | None:
        """The trace of the newest request, link or worker that failed."""
        for span in reversed(self._spans.items):
            if span.status.status_code is StatusCode.ERROR:
                return _trace_id(span)
        return None

    def newest_slow(self, seconds: float) -> str | None:
        """The newest event that waited this long for its commit; looks at a few hundred."""
        for part in (self._kept.items, self._plain.items):
            for note in islice(reversed(part), 200):
                if isinstance(note, Settled) and note.delivery.mode == "live":
                    waited_ns = note.delivery.stored_ns - note.delivery.event.created_at * 1_000_000
                    if waited_ns >= seconds * 1e9:
                        return note.delivery.event.id
        return None

    def state(self) -> RingState:
        parts = (self._kept, self._plain, self._spans)
        notes = len(self._kept.items) + len(self._plain.items)
        return RingState(
            sum(part.bytes for part in parts),
            self._size,
            notes,
            len(self._spans.items),
            self._kept.dropped,
        )


class RingProcessor(SpanProcessor):
    """Gives the SDK's own finished spans to the ring."""

    def __init__(self, ring: TraceRing) -> None:
        self._ring = ring

    def on_end(self, span: ReadableSpan) -> None:
        self._ring.span(span)


def _matches(note: SpanRecord, wanted: Wanted) -> bool:
    key: Key | None
    event: EventView | None
    traces: tuple[str, ...]
    if isinstance(note, Connected):
        key, event, traces = note.key, None, (note.replay,)
    elif isinstance(note, Processed):
        key, event, traces = note.event.key, note.event, (note.event.traceparent,)
    elif isinstance(note, Missed):
        key, event, traces = note.event.key, note.event, (note.event.traceparent, note.replay_parent or "")
    else:
        delivery = note.delivery
        key, event = delivery.event.key, delivery.event
        traces = (event.traceparent, delivery.replay_parent or "")
    return (
        (not wanted.trace or wanted.trace in {traceparent[3:35] for traceparent in traces})
        and (not wanted.event or (event is not None and event.id == wanted.event))
        and (not wanted.link or (event is not None and event.link_id == wanted.link))
        and (not wanted.key or (key is not None and key_hash(key.user_id, key.bot_id) == wanted.key))
        and (not wanted.user or (key is not None and user_hash(key.user_id) == wanted.user))
    )


def _span_matches(span: ReadableSpan, wanted: Wanted) -> bool:
    if wanted.event or wanted.key or wanted.user:
        return False
    attributes = span.attributes or {}
    return (not wanted.trace or _trace_id(span) == wanted.trace) and (
        not wanted.link or attributes.get(LINK_ID) == wanted.link
    )


def _trace_id(span: ReadableSpan) -> str:
    return "" if span.context is None else f"{span.context.trace_id:032x}"
