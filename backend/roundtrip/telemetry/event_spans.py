"""Records events for their spans: called on the event's path, it queues a record and returns.

Always kept: an event that missed, was retried or replayed, was slow or expired, or is of a type that reports trouble
with a link. A plain success follows the head sampler; one that is not kept costs one look at its flags.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from roundtrip.telemetry.logging import debug_on
from roundtrip.telemetry.metrics import Exemplar
from roundtrip.telemetry.redaction import key_hash
from roundtrip.telemetry.span_records import (
    AttemptView,
    Connected,
    DeliveryView,
    Key,
    Missed,
    MissesView,
    Processed,
    Settled,
    SpanRecord,
    Upgraded,
)
from roundtrip.telemetry.trace_ring import TraceRing
from roundtrip.telemetry.tracing import Contexts, parse

log = structlog.get_logger(__name__)

SLOW: Final = 1.0
"""Seconds from creation to confirmation above which an event's trace is always kept."""

ALWAYS_KEPT: Final = frozenset(
    {
        "whatsapp_degraded",
        "whatsapp_disconnected",
        "whatsapp_replaced",
        "whatsapp_banned",
        "whatsapp_client_outdated",
        "whatsapp_failed",
    }
)
"""Types of events whose traces are always kept."""

_MAX_PARENTS: Final = 10_000
"""Pending events whose `create` span's parent is remembered. It is not stored: after a restart they are roots."""

_REFUSALS_KEPT: Final = 10
"""Refused handshakes a second whose spans are kept whatever the head sampler says: nobody reads more."""

_PLAIN_EXEMPLAR_EVERY: Final = 0.05
"""Seconds between two exemplars of plain successes: Prometheus keeps one per bucket and scrape."""


class EventSpanRecorder:
    """Implements delivery's `DeliverySpans`. Without a queue and a ring nothing is recorded; without a queue no context
    is sampled."""

    def __init__(
        self,
        contexts: Contexts,
        queue: Callable[[SpanRecord], None] | None,
        now_ns: Callable[[], int] = time.time_ns,
        full: Callable[[], bool] = lambda: False,
        ring: TraceRing | None = None,
    ) -> None:
        """`queue` takes a record, or drops it when `full`, and never waits; `ring` keeps the newest in memory. `now_ns`
        returns nanoseconds since the epoch."""
        self._new = contexts.new
        self._queue = queue
        self._ring = ring
        self._records = queue is not None or ring is not None
        self._now_ns = now_ns
        self.on_missed: Callable[[DeliveryView, AttemptView], None] = lambda _delivery, _attempt: None
        """Called with each attempt that missed; set by the console."""
        self.on_late_end: Callable[[str], None] = lambda _event_id: None
        """Called with the id of an event that ended after more than one attempt; set by the console."""
        self._full = full
        self._debug = debug_on()
        self._connect_parents: dict[str, str | None] = {}
        self._create_parents: dict[str, str] = {}
        self._next_exemplar = 0.0
        self._refusals = self._refusals_since = 0

    def exemplar(self, traceparent: str, interesting: bool) -> Exemplar:
        """The exemplar that names the trace of an attempt; None if its spans will be kept nowhere, or another plain one
        was made a moment ago."""
        if not self._records:
            return None
        if not interesting or self._queue is None:
            if traceparent[-1] != "1" and not interesting:
                return None
            now = time.monotonic()
            if now < self._next_exemplar:
                return None
            self._next_exemplar = now + _PLAIN_EXEMPLAR_EVERY
        if self._full():
            return None
        return {"trace_id": traceparent[3:35]}

    def context(self, parent: str | None) -> str:
        """The traceparent of a new `create` span, child of `parent` or a root."""
        context = self._new(parent)
        if parent is not None and self._records:
            parents = self._create_parents
            parents[context] = parent
            if len(parents) > _MAX_PARENTS:  # of events whose end was never recorded; the oldest go first
                del parents[next(iter(parents))]
        return context

    def attempted(self, delivery: DeliveryView, attempt: AttemptView) -> None:
        """An attempt ended as a miss, while its event stays pending."""
        self.on_missed(delivery, attempt)
        if not self._records:
            return
        record = Missed(
            delivery.event,
            attempt,
            delivery.tried,
            delivery.stored_ns,
            delivery.started_ns,
            delivery.receipt_ns,
            self._now_ns(),
            delivery.replay_parent,
            self._create_parent(delivery),
        )
        if self._queue is not None:
            self._queue(record)
        if self._ring is not None:
            self._ring.missed(record)

    def round_missed(self, misses: MissesView) -> None:
        """One line, however many attempts of a key missed together."""
        event, attempt = misses.event, misses.attempt
        looked_up: dict[str, object] = {}
        if attempt.looked_for is not None:
            looked_up = {
                "looked_for": attempt.looked_for,
                "looked_for_is_user": attempt.looked_for_is_user,
                "connected": attempt.connected,
                "connected_is_user": attempt.connected_is_user,
            }
        if misses.count == 1:
            log.info(
                "emit_missed",
                type=event.type.wire,
                reason=attempt.reason,
                mode=attempt.mode,
                attempt=misses.number,
                sockets=attempt.sockets,
                event_id=event.id,
                seq=event.seq,
                link_id=event.link_id,
                key=key_hash(event.key.user_id, event.key.bot_id),
                **looked_up,
                traceparent=event.traceparent,
            )
            return
        log.info(
            "emit_missed_many",
            count=misses.count,
            reason=attempt.reason,
            mode=attempt.mode,
            first_seq=event.seq,
            last_seq=misses.last_seq,
            event_id=event.id,
            key=key_hash(event.key.user_id, event.key.bot_id),
            **looked_up,
            traceparent=event.traceparent,
        )

    def settled(self, delivery: DeliveryView) -> None:
        """The event ended with `delivery.outcome`."""
        if self._debug:
            self._log_settled(delivery)
        if delivery.tried > 1:
            self.on_late_end(delivery.event.id)
        if not self._records:
            return
        self._record(delivery, self._create_parent(delivery))

    def created(self, delivery: DeliveryView) -> None:
        """The event is left to another node: only its creation is told here."""
        if self._records and delivery.event.traceparent[-1] == "1":
            self._record(delivery, self._create_parent(delivery))

    def _create_parent(self, delivery: DeliveryView) -> str | None:
        """What `Settled.create_parent` is. What is not sampled is told whole by the node that finds it interesting."""
        traceparent = delivery.event.traceparent
        if delivery.foreign and traceparent[-1] == "1":
            return ""
        return self._create_parents.pop(traceparent, None) if self._create_parents else None

    def _record(self, delivery: DeliveryView, parent: str | None) -> None:
        traceparent = delivery.event.traceparent
        kept = interesting(delivery)
        exported = self._queue is not None and (kept or traceparent[-1] == "1")
        if exported and self._queue is not None:
            self._queue(Settled(delivery, parent))
        ring = self._ring
        if ring is not None and (kept or ((exported or self._queue is None) and ring.admits())):
            ring.settled(delivery, parent, plain=not kept)

    def upgraded(self, delivery: DeliveryView) -> None:
        """An acknowledgement came for an event that had ended by a receipt."""
        if not self._records:
            return
        kept = interesting(delivery)
        exported = self._queue is not None and (kept or delivery.event.traceparent[-1] == "1")
        if exported and self._queue is not None:
            self._queue(Upgraded(delivery, delivery.ack_ns))
        ring = self._ring
        if ring is not None and (kept or ((exported or self._queue is None) and ring.admits())):
            ring.upgraded(delivery, plain=not kept)

    def processed(self, record: Processed, kept: bool) -> bool:
        """A page says that it handled an event. Whether its span goes anywhere: only where its event's do. `kept` says
        that those are kept whatever the head sampler decided."""
        exported = self._queue is not None and (kept or record.event.traceparent[-1] == "1")
        if exported and self._queue is not None:
            self._queue(record)
        ring = self._ring
        remembered = ring is not None and (kept or ring.holds(record.event.id))
        if remembered and ring is not None:
            ring.processed(record, plain=not kept)
        return exported or remembered

    def replay(self, key: Key, sid: str, connect_parent: str | None) -> str | None:
        """A socket's replay begins; the traceparent for its attempts, None when nothing is traced."""
        if not self._records:
            return None
        parent = connect_parent if connect_parent is not None and parse(connect_parent) else None
        context = self._new(parent)
        self._connect_parents[context] = parent
        return context

    def replayed(self, key: Key, replay_parent: str | None, started_ns: int, count: int) -> None:
        """A socket's replay is over; `count` events were sent. With none the head sampler decides."""
        if replay_parent is None:
            return
        parent = self._connect_parents.pop(replay_parent, None)
        exported = self._queue is not None and (count > 0 or replay_parent[-1] == "1")
        ring = self._ring
        kept = ring is not None and (count > 0 or ((exported or self._queue is None) and ring.admits()))
        if not exported and not kept:
            return
        record = Connected(key, parent, replay_parent, started_ns, self._now_ns(), count)
        if exported and self._queue is not None:
            self._queue(record)
        if kept and ring is not None:
            ring.connected(record)

    def refused(self, code: str, connect_parent: str | None, started_ns: int) -> None:
        """A handshake was refused with this code. All are kept but those of a flood, for which the head sampler
        decides."""
        if not self._records:
            return
        parent = connect_parent if connect_parent is not None and parse(connect_parent) else None
        context, now = self._new(parent), self._now_ns()
        if now - self._refusals_since > 1_000_000_000:
            self._refusals_since, self._refusals = now, 0
        self._refusals += 1
        if self._refusals <= _REFUSALS_KEPT or context[-1] == "1":
            record = Connected(None, parent, context, started_ns, now, 0, code)
            if self._queue is not None:
                self._queue(record)
            if self._ring is not None:
                self._ring.connected(record)

    def _log_settled(self, delivery: DeliveryView) -> None:
        event = delivery.event
        confirmed = delivery.ack_ns or delivery.receipt_ns
        log.debug(
            "event_settled",
            type=event.type.wire,
            outcome=delivery.outcome.wire,
            mode=delivery.mode,
            attempts=delivery.tried,
            seconds=round(confirmed / 1e9 - event.created_at / 1e3, 6) if confirmed else None,
            event_id=event.id,
            seq=event.seq,
            link_id=event.link_id,
            key=key_hash(event.key.user_id, event.key.bot_id),
            traceparent=event.traceparent,
        )


def interesting(delivery: DeliveryView) -> bool:
    """Whether the trace of an event that ended is exported whatever the head sampler decided."""
    if delivery.tried > 1 or delivery.mode == "replay" or delivery.event.type.wire in ALWAYS_KEPT:
        return True
    confirmed = delivery.ack_ns or delivery.receipt_ns
    if confirmed:
        return confirmed - delivery.event.created_at * 1_000_000 > SLOW * 1e9
    return delivery.outcome.wire == "expired"
