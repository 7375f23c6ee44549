"""The outbox's sums, as the metrics read them."""

from __future__ import annotations

from collections.abc import Callable

from backend.delivery.outbox import Outbox
from backend.telemetry.readings import LedgerReading


def ledger_reading(outbox: Outbox) -> Callable[[], LedgerReading]:
    """Enum numbers are what both sides count by."""

    def read() -> LedgerReading:
        totals = outbox.totals()
        return LedgerReading(
            {int(type_): count for type_, count in totals.created.items()},
            {(int(type_), int(outcome)): count for (type_, outcome), count in totals.resolved.items()},
            {int(type_): count for type_, count in totals.pending.items()},
            totals.oldest_pending_at,
            totals.size_bytes,
        )

    return read
