"""What delivery reports of each event: spans and logs (`telemetry/event_spans.py` implements it) and metrics.

The labelled children of the metrics are resolved beforehand, so that an event costs a few additions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from roundtrip.delivery.state import Delivery
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, MissReason, Mode, Outcome, StoredEvent
from roundtrip.telemetry.event_spans import interesting
from roundtrip.telemetry.labels import OVERDUE
from roundtrip.telemetry.metrics import Exemplar, Metrics


class Misses:
    """The attempts of one key that missed in one round, for one reason: they are logged as one line."""

    __slots__ = ("attempt", "count", "event", "last_seq", "number")

    def __init__(self, event: StoredEvent, attempt: Attempt, number: int) -> None:
        self.event = event
        """The first one's, as is its `attempt`, which was the event's `number`th."""
        self.attempt = attempt
        self.number = number
        self.count = 0
        self.last_seq = event.seq


class DeliverySpans(Protocol):
    """What spans and logs are made of. Called on the event loop, on the event's path: take a note and return."""

    def context(self, parent: str | None) -> str:
        """The traceparent of a new `create` span, child of `parent` or a root."""

    def attempted(self, delivery: Delivery, attempt: Attempt) -> None:
        """An attempt ended as a miss, while its event stays pending; `delivery` has its times, and its `tried` is the
        attempt's number."""

    def round_missed(self, misses: Misses) -> None:
        """Attempts of one key missed together, for one reason. Each was reported to `attempted` before."""

    def created(self, delivery: Delivery) -> None:
        """The event was stored here, and another node tells what becomes of it."""

    def settled(self, delivery: Delivery) -> None:
        """The event ended with `delivery.outcome`. If it was confirmed, `delivery` has its newest attempt's times,
        and that attempt is the last of `delivery.attempts`."""

    def upgraded(self, delivery: Delivery) -> None:
        """An acknowledgement (`delivery.ack_ns`) came for an event that had ended by a receipt."""

    def replay(self, key: BotKey, sid: str, connect_parent: str | None) -> str | None:
        """A socket's replay begins; the traceparent for its attempts, None when there is no trace."""

    def replayed(self, key: BotKey, replay_parent: str | None, started_ns: int, count: int) -> None:
        """A socket's replay is over; `count` events were sent, which may be none."""


class DeliveryMetrics(Protocol):
    """What delivery counts, on the event's path."""

    def sent(self, delivery: Delivery) -> None:
        """An attempt was confirmed."""

    def missed(self, delivery: Delivery, attempt: Attempt) -> None:
        """An attempt reached nobody, or was not confirmed in time: `attempt.reason`."""

    def delivered(self, delivery: Delivery) -> None:
        """The event was confirmed: `delivery` has the times, and its outcome is the grade."""

    def upgraded(self, delivery: Delivery) -> None:
        """An acknowledgement came after the event had ended by a receipt."""

    def slowed(self) -> None:
        """A replay is delayed, because its clients come and go without confirming anything."""

    def failed(self) -> None:
        """The handling of one event failed by a mistake of this program."""


_LATE: Final = "late"
_OVERDUE: Final = frozenset(reason for reason in MissReason if reason.value in OVERDUE)
"""Reasons of attempts that make their event overdue: its key had a socket, or would have had one but for a defect."""


class DeliveryCounters:
    """Implements `DeliveryMetrics` over the catalogue.

    Of an event that was due, that is whose key had a socket, it counts once whether it was confirmed within
    `ack_timeout` of when both were there: at its confirmation, or at the first attempt that failed. That an attempt
    failed before a restart is known from the attempts that the outbox keeps.
    """

    __slots__ = (
        "_delivery",
        "_due",
        "_exemplar_of",
        "_metrics",
        "_missed",
        "_overdue",
        "_reasons",
        "_sent",
        "_timeout_ns",
    )

    def __init__(
        self, metrics: Metrics, exemplar_of: Callable[[str, bool], Exemplar], *, ack_timeout: float = 5.0
    ) -> None:
        """`exemplar_of(traceparent, interesting)` gives the exemplar of a trace that will be exported, else None;
        `ack_timeout` is in seconds."""
        self._metrics = metrics
        self._due = metrics.due
        self._overdue = metrics.overdue
        self._timeout_ns = int(ack_timeout * 1e9)
        self._exemplar_of = exemplar_of
        self._sent = metrics.sent
        self._missed = metrics.missed
        self._reasons = metrics.missed_emits
        self._delivery = {
            mode: {Outcome.ACKED: metrics.delivery[mode]["acked"], Outcome.RECEIVED: metrics.delivery[mode]["received"]}
            for mode in Mode
        }

    def sent(self, delivery: Delivery) -> None:
        self._sent[delivery.mode][delivery.event.type].inc()

    def missed(self, delivery: Delivery, attempt: Attempt) -> None:
        event = delivery.event
        self._missed[attempt.mode][event.type].inc()
        if attempt.reason is not None:
            self._reasons[attempt.reason][event.type].inc(exemplar=self._exemplar_of(_trace_of(delivery), True))
            # A newer event ends the open attempt of an older one as a timeout too: that one's time was not over
            ended = attempt.reason is MissReason.ACK_TIMEOUT and not delivery.failures
            if attempt.reason in _OVERDUE and not ended and not _counted(delivery.attempts[:-1]):
                self._due.inc()
                self._overdue[attempt.reason].inc()

    def delivered(self, delivery: Delivery) -> None:
        event = delivery.event
        exemplar = self._exemplar_of(_trace_of(delivery), interesting(delivery))
        confirmed_ns = delivery.ack_ns or delivery.receipt_ns
        created = event.created_at / 1000
        attempts = delivery.attempts
        if (len(attempts) == 1 and attempts[0].reason is None) or not _counted(attempts):
            self._due.inc()
            if confirmed_ns - max(event.created_at * 1_000_000, delivery.due_ns) > self._timeout_ns:
                self._overdue[_LATE].inc()
        histogram = self._delivery[delivery.mode][delivery.state.outcome]
        histogram.observe(max(0.0, confirmed_ns / 1e9 - created), exemplar)
        if delivery.receipt_ns:
            self._metrics.receipt.observe((delivery.receipt_ns - delivery.started_ns) / 1e9, exemplar)
        if delivery.ack_ns:
            self._metrics.ack.observe((delivery.ack_ns - delivery.started_ns) / 1e9, exemplar)

    def upgraded(self, delivery: Delivery) -> None:
        exemplar = self._exemplar_of(_trace_of(delivery), interesting(delivery))
        self._metrics.ack.observe((delivery.ack_ns - delivery.started_ns) / 1e9, exemplar)

    def slowed(self) -> None:
        self._metrics.replays_slowed.inc()

    def failed(self) -> None:
        self._metrics.task_failures.inc()


def _trace_of(delivery: Delivery) -> str:
    """The traceparent of the trace that the newest attempt's spans are in: that of its replay, or of its event."""
    if delivery.mode is Mode.REPLAY and delivery.replay_parent is not None:
        return delivery.replay_parent
    return delivery.event.traceparent


def _counted(attempts: Sequence[Attempt]) -> bool:
    """Whether one of these attempts has made its event overdue."""
    return any(attempt.reason in _OVERDUE for attempt in attempts)
