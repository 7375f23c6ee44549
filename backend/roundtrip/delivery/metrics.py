"""Moves the metrics of delivery. The children are resolved, so that one event costs a few additions."""

from __future__ import annotations

from collections.abc import Callable

from roundtrip.delivery.spans import Delivery
from roundtrip.outbox.records import Attempt, Outcome
from roundtrip.telemetry.event_spans import interesting
from roundtrip.telemetry.metrics import Exemplar, Metrics


class DeliveryCounters:
    """Implements `journal.Meter` over the catalogue."""

    __slots__ = ("_delivery", "_kept", "_metrics", "_missed", "_reasons", "_sent")

    def __init__(self, metrics: Metrics, kept: Callable[[str, bool], Exemplar]) -> None:
        """`kept(traceparent, interesting)` gives the exemplar of a trace that will be exported, else None."""
        self._metrics = metrics
        self._kept = kept
        self._sent = metrics.sent
        self._missed = metrics.missed
        self._reasons = metrics.missed_emits
        self._delivery = {
            Outcome.ACKED: metrics.delivery["acked"],
            Outcome.RECEIVED: metrics.delivery["received"],
        }

    def sent(self, delivery: Delivery) -> None:
        self._sent[delivery.mode][delivery.event.type].inc()

    def missed(self, delivery: Delivery, attempt: Attempt) -> None:
        event = delivery.event
        self._missed[attempt.mode][event.type].inc()
        if attempt.reason is not None:
            self._reasons[attempt.reason][event.type].inc(exemplar=self._kept(event.traceparent, True))

    def delivered(self, delivery: Delivery) -> None:
        event = delivery.event
        exemplar = self._kept(event.traceparent, interesting(delivery))
        confirmed_ns = delivery.ack_ns or delivery.receipt_ns
        created = event.created_at / 1000
        self._delivery[delivery.outcome][event.type].observe(max(0.0, confirmed_ns / 1e9 - created), exemplar)
        if delivery.receipt_ns:
            self._metrics.receipt.observe((delivery.receipt_ns - delivery.started_ns) / 1e9, exemplar)
        if delivery.ack_ns:
            self._metrics.ack.observe((delivery.ack_ns - delivery.started_ns) / 1e9, exemplar)

    def upgraded(self, delivery: Delivery) -> None:
        exemplar = self._kept(delivery.event.traceparent, interesting(delivery))
        self._metrics.ack.observe((delivery.ack_ns - delivery.started_ns) / 1e9, exemplar)

    def slowed(self) -> None:
        self._metrics.replays_slowed.inc()

    def failed(self) -> None:
        self._metrics.task_failures.inc()
