"""Attempts that ended without a confirmation: written, counted, and told as one line per key and round."""

from __future__ import annotations

from backend.delivery.journal import Delivery, Journal, Meter, Misses
from backend.delivery.outbox import Outbox
from backend.delivery.outcome import Attempt, MissReason
from backend.delivery.sockets import Miss, Sockets
from backend.identity import BotKey


class MissBook:
    """Ends attempts as misses. Their events stay pending, and whoever asks can see why."""

    def __init__(self, outbox: Outbox, sockets: Sockets, journal: Journal, meter: Meter) -> None:
        self._outbox = outbox
        self._sockets = sockets
        self._journal = journal
        self._meter = meter
        self._round: dict[tuple[BotKey, MissReason], Misses] = {}

    def miss(self, delivery: Delivery, miss: Miss, looked_for: BotKey | None = None) -> None:
        """An attempt ended. It is not logged before `tell`."""
        event = delivery.event
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
        delivery.finish(attempt)
        self._outbox.record(event.key, event.seq, delivery.attempts)
        self._meter.missed(delivery, attempt)
        self._journal.attempted(delivery, attempt)
        self._sockets.missed(looked_for or event.key, event.type.wire, event.id, miss)
        misses = self._round.get((event.key, miss.reason))
        if misses is None:
            misses = self._round[event.key, miss.reason] = Misses(event, attempt, delivery.tried)
        misses.count += 1
        misses.last_seq = event.seq

    def tell(self, key: BotKey | None = None) -> None:
        """A round is over, of one key or of all: one line for each key and reason."""
        for which in [which for which in self._round if key is None or which[0] == key]:
            self._journal.round_missed(self._round.pop(which))
