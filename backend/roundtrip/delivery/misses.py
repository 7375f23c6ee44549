"""Ends attempts that reached nobody, or that nobody confirmed in time: what is kept and told of each."""

from __future__ import annotations

from roundtrip.delivery.metrics import DeliveryMetrics, DeliverySpans, Misses
from roundtrip.delivery.state import Delivery, DeliveryState
from roundtrip.delivery.wire import Miss, Sockets
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Attempt, MissReason
from roundtrip.telemetry.redaction import look_up


class MissRecorder:
    """Ends attempts as misses. Their events stay pending, with the reason in the outbox, the metrics and the spans."""

    def __init__(self, outbox: Outbox, sockets: Sockets, spans: DeliverySpans, metrics: DeliveryMetrics) -> None:
        self._outbox = outbox
        self._sockets = sockets
        self._spans = spans
        self._metrics = metrics
        self._round: dict[tuple[BotKey, MissReason], Misses] = {}

    def miss(self, delivery: Delivery, miss: Miss, looked_for: BotKey | None = None) -> None:
        """End the newest attempt as a miss; `looked_for` is the key that had no socket, if that is why. It is not
        logged before `flush`. Raises `IllegalTransitionError`."""
        delivery.change(DeliveryState.MISSED)
        event = delivery.event
        found_none = None if looked_for is None else look_up(looked_for.user_id, looked_for.bot_id, miss.keys)
        attempt = Attempt(
            at=delivery.started_ns // 1_000_000,
            mode=delivery.mode,
            sockets=delivery.sockets,
            reason=miss.reason,
            receipt_at=delivery.receipt_ns // 1_000_000 or None,
            keys=miss.keys,
            sids=delivery.sids,
            trace_id=delivery.trace_id,
        )
        if found_none is not None:
            attempt.looked_for, attempt.looked_for_is_user = found_none.looked_for, found_none.looked_for_is_user
            attempt.connected, attempt.connected_is_user = found_none.connected, found_none.connected_is_user
        delivery.finish(attempt)
        self._outbox.record(event.key, event.seq, delivery.attempts)
        self._metrics.missed(delivery, attempt)
        self._spans.attempted(delivery, attempt)
        self._sockets.missed(looked_for or event.key, event.type.wire, event.id, miss)
        misses = self._round.get((event.key, miss.reason))
        if misses is None:
            misses = self._round[event.key, miss.reason] = Misses(event, attempt, delivery.tried)
        misses.count += 1
        misses.last_seq = event.seq

    def flush(self, key: BotKey | None = None) -> None:
        """A round is over, of one key or of all: log one line for each key and reason."""
        for which in [which for which in self._round if key is None or which[0] == key]:
            self._spans.round_missed(self._round.pop(which))
