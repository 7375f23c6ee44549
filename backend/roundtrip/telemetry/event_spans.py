"""What the courier tells of each event, noted on the event's path and turned into spans elsewhere.

Always kept: an event that missed, was retried or replayed, was slow, expired, or says that a link is unwell. A plain
success follows the head sampler; what is not kept costs one look at its flags.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from roundtrip.telemetry.context import Contexts, parse
from roundtrip.telemetry.logging import debug_on
from roundtrip.telemetry.metrics import Exemplar
from roundtrip.telemetry.redaction import key_hash

log = structlog.get_logger(__name__)

SLOW: Final = 1.0
"""Seconds from creation to confirmation past which an event is worth keeping."""

UNWELL: Final = frozenset(
    {
        "whatsapp_degraded",
        "whatsapp_disconnected",
        "whatsapp_replaced",
        "whatsapp_banned",
        "whatsapp_client_outdated",
        "whatsapp_failed",
    }
)
"""Types of events that are worth keeping however well they are delivered; the collector keeps the same."""

_ABOVE: Final = 10_000
"""Events under way whose parent is remembered. It is not stored: after a restart they are roots in the same trace."""

_PLAIN_EXEMPLAR_EVERY: Final = 0.05
"""Seconds between two exemplars of plain successes: Prometheus keeps one per bucket and scrape."""


class Named(Protocol):
    @property
    def wire(self) -> str: ...


class Key(Protocol):
    @property
    def user_id(self) -> str: ...
    @property
    def bot_id(self) -> str: ...


class EventView(Protocol):
    """A stored event. `created_at` is in milliseconds since the epoch."""

    @property
    def id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def key(self) -> Key: ...
    @property
    def type(self) -> Named: ...
    @property
    def link_id(self) -> str: ...
    @property
    def created_at(self) -> int: ...
    @property
    def traceparent(self) -> str: ...


class AttemptView(Protocol):
    """One finished attempt. `at` is in milliseconds since the epoch."""

    @property
    def at(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def sockets(self) -> int: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def keys(self) -> tuple[str, ...]: ...


class DeliveryView(Protocol):
    """An event on its way; all `*_ns` are nanoseconds since the epoch, 0 while it has not happened."""

    @property
    def event(self) -> EventView: ...
    @property
    def mode(self) -> str: ...
    @property
    def attempts(self) -> Sequence[AttemptView]: ...
    @property
    def tried(self) -> int: ...
    @property
    def outcome(self) -> Named: ...
    @property
    def stored_ns(self) -> int: ...
    @property
    def started_ns(self) -> int: ...
    @property
    def receipt_ns(self) -> int: ...
    @property
    def ack_ns(self) -> int: ...
    @property
    def replay_parent(self) -> str | None: ...


class MissesView(Protocol):
    """Attempts of one key that missed in one round: the first of them, and how many."""

    @property
    def event(self) -> EventView: ...
    @property
    def attempt(self) -> AttemptView: ...
    @property
    def number(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def last_seq(self) -> int: ...


class Missed(NamedTuple):
    """An attempt that reached nobody. Copied, for the delivery goes on."""

    event: EventView
    attempt: AttemptView
    number: int
    stored_ns: int
    started_ns: int
    receipt_ns: int
    ended_ns: int
    replay_parent: str | None
    above: str | None


class Settled(NamedTuple):
    """An event that ended. Not copied, for nothing more happens to it but a late acknowledgement."""

    delivery: DeliveryView
    above: str | None
    """The context that its `create` is a child of, as long as this process knows it."""


class Upgraded(NamedTuple):
    """An acknowledgement that came after the event had ended by a receipt."""

    delivery: DeliveryView
    ack_ns: int


class Connected(NamedTuple):
    """A socket that is up to date. `parent` is what its handshake carried, `replay` the context of its replay."""

    key: Key
    parent: str | None
    replay: str
    started_ns: int
    ended_ns: int
    replayed: int


Note = Missed | Settled | Upgraded | Connected


class Sink(Protocol):
    """Where notes go: it takes or drops them, and never waits."""

    def put(self, note: Note) -> None: ...


class EventSpanRecorder:
    """Implements `delivery.spans.DeliverySpans`. Without a queue nothing is recorded, and contexts are not sampled."""

    def __init__(self, contexts: Contexts, sink: Sink | None, now_ns: Callable[[], int] = time.time_ns) -> None:
        """`now_ns` gives nanoseconds since the epoch."""
        self._new = contexts.new
        self._sink = sink
        self._now_ns = now_ns
        self._debug = debug_on()
        self._connects: dict[str, str | None] = {}
        self._above: dict[str, str] = {}
        self._next_exemplar = 0.0

    def exemplar(self, traceparent: str, interesting: bool) -> Exemplar:
        """The exemplar of an event's trace, None if the trace will not be exported."""
        if self._sink is None:
            return None
        if not interesting:
            if traceparent[-1] != "1":
                return None
            now = time.monotonic()
            if now < self._next_exemplar:
                return None
            self._next_exemplar = now + _PLAIN_EXEMPLAR_EVERY
        return {"trace_id": traceparent[3:35]}

    def context(self, parent: str | None) -> str:
        """The traceparent of a new `create` span, child of `parent` or a root."""
        context = self._new(parent)
        if parent is not None and self._sink is not None:
            above = self._above
            above[context] = parent
            if len(above) > _ABOVE:  # events that ended unseen; the oldest go first
                del above[next(iter(above))]
        return context

    def attempted(self, delivery: DeliveryView, attempt: AttemptView) -> None:
        """An attempt ended as a miss, while its event stays pending."""
        if self._sink is not None:
            self._sink.put(
                Missed(
                    delivery.event,
                    attempt,
                    delivery.tried,
                    delivery.stored_ns,
                    delivery.started_ns,
                    delivery.receipt_ns,
                    self._now_ns(),
                    delivery.replay_parent,
                    self._above.pop(delivery.event.traceparent, None),
                )
            )

    def round_missed(self, misses: MissesView) -> None:
        """One line, however many attempts of a key missed together."""
        event, attempt = misses.event, misses.attempt
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
                connected_keys=[key_hash(event.key.user_id, bot) for bot in attempt.keys],
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
            traceparent=event.traceparent,
        )

    def settled(self, delivery: DeliveryView) -> None:
        """The event ended with `delivery.outcome`."""
        if self._debug:
            self._say_settled(delivery)
        if self._sink is None:
            return
        traceparent = delivery.event.traceparent
        above = self._above.pop(traceparent, None) if self._above else None
        if traceparent[-1] == "1" or interesting(delivery):
            self._sink.put(Settled(delivery, above))

    def upgraded(self, delivery: DeliveryView) -> None:
        """An acknowledgement came for an event that had ended by a receipt."""
        if self._sink is not None and (delivery.event.traceparent[-1] == "1" or interesting(delivery)):
            self._sink.put(Upgraded(delivery, delivery.ack_ns))

    def replay(self, key: Key, sid: str, connect_parent: str | None) -> str | None:
        """A socket's replay begins; the traceparent for its attempts, None when nothing is traced."""
        if self._sink is None:
            return None
        parent = connect_parent if connect_parent is not None and parse(connect_parent) else None
        context = self._new(parent)
        self._connects[context] = parent
        return context

    def replayed(self, key: Key, replay_parent: str | None, started_ns: int, count: int) -> None:
        """A socket's replay is over; `count` events were sent. A connect that had nothing to replay is plain."""
        if self._sink is None or replay_parent is None:
            return
        parent = self._connects.pop(replay_parent, None)
        if count or replay_parent[-1] == "1":
            self._sink.put(Connected(key, parent, replay_parent, started_ns, self._now_ns(), count))

    def _say_settled(self, delivery: DeliveryView) -> None:
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
    """Whether an event that ended is kept whatever the sampler says."""
    if delivery.tried > 1 or delivery.mode == "replay" or delivery.event.type.wire in UNWELL:
        return True
    confirmed = delivery.ack_ns or delivery.receipt_ns
    if confirmed:
        return confirmed - delivery.event.created_at * 1_000_000 > SLOW * 1e9
    return delivery.outcome.wire == "expired"
