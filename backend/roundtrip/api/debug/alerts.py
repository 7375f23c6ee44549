"""The alerts as the process itself sees them: the rules of `dashboards/prometheus/alerts.yaml` over its own readings.

Names, severities, thresholds and windows are those of that file; `tests/api/debug/test_alerts.py` compares the two.
What a process cannot know of itself (that it is down, what was hours ago) is in `UNSEEN`, each with its reason.
Which of them hold at present: `active.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from roundtrip.api.debug.readings import EARLY, History

MINUTE: Final = 60.0


class Situation(NamedTuple):
    """What rules look at, beside the readings. `faults` are those switched on, `event_ttl` is in seconds."""

    history: History
    faults: tuple[str, ...]
    event_ttl: float
    outbox_max_bytes: int


class Rule(NamedTuple):
    """One alert. `value` is what it shows while its condition holds, None else; `for_` seconds must pass until it
    fires."""

    name: str
    severity: str
    summary: str
    value: Callable[[Situation], float | None]
    for_: float = 0.0


def above(value: float | None, threshold: float) -> float | None:
    return value if value is not None and value > threshold else None


def at_least(value: float, threshold: float) -> float | None:
    return value if value >= threshold else None


def missed_ratio(s: Situation, seconds: float) -> float | None:
    """The share of attempts that reached nobody while somebody should be there."""
    h = s.history
    reasons = ("just_disconnected", "queue_full", "send_failed", "pairing")
    lost = sum(h.increase(f"missed_{reason}", seconds) for reason in reasons)
    attempts = h.increase("sent", seconds) + h.increase("missed", seconds)
    return lost / attempts if attempts else None


def early_ratio(s: Situation, seconds: float, least: float) -> float | None:
    """The share of the sockets that ended which had lived for less than `EARLY`; None with fewer than `least`."""
    ended = s.history.count("lifetime", seconds)
    return s.history.below("lifetime", EARLY, seconds) / ended if ended >= least else None


def _missed_emits(s: Situation) -> float | None:
    return above(missed_ratio(s, 5 * MINUTE), 0.1) if s.history.increase("missed", 5 * MINUTE) >= 5 else None


def unmapped(s: Situation) -> float:
    """Sockets that are connected and that the socket map cannot find."""
    h = s.history
    return h.now("accepted") - h.now("left") - h.now("sockets")


def _receipts_missing(s: Situation) -> float | None:
    h = s.history
    gone = h.increase("receipts", 5 * MINUTE) == 0 and h.now("receipts") > 0
    return at_least(h.increase("missed_ack_timeout", 5 * MINUTE), 3) if gone else None


def pending_age(s: Situation) -> float:
    oldest = s.history.now("oldest_at")
    return max(0.0, s.history.at - oldest / 1000) if oldest else 0.0


def _balance(s: Situation) -> float | None:
    h = s.history
    ended = sum(h.now(outcome) for outcome in ("acked", "received", "superseded", "expired", "discarded"))
    return h.now("created") - ended - h.now("pending") or None


def _refused(s: Situation) -> float | None:
    h = s.history
    refused, all_ = h.increase("refused", 5 * MINUTE), h.increase("handshakes", 5 * MINUTE)
    return above(refused / all_, 0.9) if refused >= 20 else None


def _down(s: Situation) -> float:
    return s.history.now("links_disconnected") + s.history.now("links_degraded")


def _of_links(s: Situation, count: float) -> float | None:
    """The share of the linked accounts."""
    linked = sum(s.history.now(f"links_{state}") for state in ("connected", "degraded", "disconnected", "paired"))
    return count / linked if linked else None


RULES: Final = (
    Rule(
        "RoundtripKeyMismatch",
        "critical",
        "Events are emitted under a key that differs from the frontend's.",
        lambda s: above(s.history.increase("missed_key_mismatch", 5 * MINUTE), 0),
    ),
    Rule(
        "RoundtripMissedEmits",
        "warning",
        "Events reach nobody while somebody should be there.",
        _missed_emits,
        2 * MINUTE,
    ),
    Rule(
        "RoundtripUnmappedSockets",
        "critical",
        "Sockets are connected that the registry cannot find.",
        lambda s: above(unmapped(s), 0),
        MINUTE,
    ),
    Rule(
        "RoundtripSocketChurn",
        "warning",
        "Most sockets leave within five seconds of connecting.",
        lambda s: above(early_ratio(s, 5 * MINUTE, 5), 0.5),
        2 * MINUTE,
    ),
    Rule(
        "RoundtripAcksMissing",
        "warning",
        "Sockets take events and do not confirm them.",
        lambda s: at_least(s.history.increase("missed_ack_timeout", 5 * MINUTE), 3),
        MINUTE,
    ),
    Rule(
        "RoundtripReceiptsMissing",
        "warning",
        "Transports have stopped to confirm what is sent to them.",
        _receipts_missing,
        MINUTE,
    ),
    Rule(
        "RoundtripHandshakesRefused", "critical", "Nearly every page is refused when it connects.", _refused, 2 * MINUTE
    ),
    Rule(
        "RoundtripPendingWithSocket",
        "warning",
        "An event waits although a page that it is for is connected.",
        lambda s: above(s.history.now("with_socket_age"), 60),
        MINUTE,
    ),
    Rule(
        "RoundtripLedgerOutOfBalance", "critical", "Events appeared or vanished without an outcome.", _balance, MINUTE
    ),
    Rule(
        "RoundtripLinkFlapping",
        "warning",
        "WhatsApp links lose their connection again and again.",
        lambda s: above(_of_links(s, s.history.now("links_flapping")), 0.1),
        MINUTE,
    ),
    Rule(
        "RoundtripLinksDown",
        "critical",
        "Many WhatsApp links are down and stay down.",
        lambda s: above(_of_links(s, _down(s)), 0.2) if _down(s) >= 3 else None,
        5 * MINUTE,
    ),
    Rule(
        "RoundtripWorkerCrashes",
        "warning",
        "WhatsApp workers die again and again.",
        lambda s: above(s.history.increase("crashes", 10 * MINUTE), 5) or above(s.history.now("links_crashing"), 0),
    ),
    Rule(
        "RoundtripHostDies",
        "warning",
        "A host of WhatsApp accounts died three times in ten minutes.",
        lambda s: above(s.history.increase("crashes", 10 * MINUTE), 2.5),
    ),
    Rule(
        "RoundtripClientOutdated",
        "critical",
        "WhatsApp refuses this version of the library.",
        lambda s: above(s.history.now("links_client_outdated"), 0),
    ),
    Rule(
        "RoundtripNotReady",
        "critical",
        "A backend runs and cannot do its work.",
        lambda s: above(s.history.now("not_ready"), 0),
        MINUTE,
    ),
    Rule(
        "RoundtripOutboxStuck",
        "critical",
        "The outbox hangs in a commit.",
        lambda s: above(s.history.now("batch_age"), 10),
        15.0,
    ),
    Rule(
        "RoundtripStoreDown",
        "critical",
        "A node does not reach its store.",
        lambda s: 1.0 if s.history.now("store_up") == 0 else None,
        30.0,
    ),
    Rule(
        "RoundtripNodeLeaseOld",
        "warning",
        "A node renews its lease late or not at all.",
        lambda s: above(s.history.most("lease_used", MINUTE), 0.5),
        2 * MINUTE,
    ),
    Rule(
        "RoundtripEventLoopStalls",
        "critical",
        "The event loop stands still again and again.",
        lambda s: above(s.history.increase("lag_sum", 10 * MINUTE) / (10 * MINUTE), 0.08),
        2 * MINUTE,
    ),
    Rule(
        "RoundtripOutboxSlow",
        "warning",
        "The outbox writes slowly, so every event waits.",
        lambda s: above(s.history.quantile("outbox_write", 0.9, 5 * MINUTE), 0.1),
        2 * MINUTE,
    ),
    Rule(
        "RoundtripOutboxFailing",
        "critical",
        "The outbox cannot be written.",
        lambda s: above(s.history.increase("outbox_failures", 5 * MINUTE), 0),
    ),
    Rule(
        "RoundtripOutboxFull",
        "warning",
        "The outbox is nearly full.",
        lambda s: above(s.history.now("size"), 0.8 * s.outbox_max_bytes),
        5 * MINUTE,
    ),
    Rule(
        "RoundtripEventLoopBlocked",
        "warning",
        "Something blocks the event loop.",
        lambda s: above(s.history.quantile("loop_lag", 0.99, 5 * MINUTE), 0.1),
        5 * MINUTE,
    ),
    Rule(
        "RoundtripTaskDied",
        "warning",
        "A background task died.",
        lambda s: above(s.history.increase("task_failures", 15 * MINUTE), 0),
    ),
    Rule("RoundtripFaultActive", "info", "A named fault is switched on.", lambda s: above(len(s.faults), 0)),
    Rule(
        "RoundtripCanaryFailing",
        "critical",
        "A node's own event does not come back to it.",
        lambda s: at_least(s.history.now("canary_failing"), 2),
    ),
    Rule(
        "RoundtripTelemetryDropped",
        "warning",
        "Traces or logs have holes.",
        lambda s: above(s.history.increase("dropped", 5 * MINUTE), 0),
        2 * MINUTE,
    ),
)

UNSEEN: Final = {
    "RoundtripNodeLost": "what the other nodes took over is counted by them",
    "RoundtripTakeoversFlapping": "looks half an hour back, and at all nodes",
    "RoundtripCrashLoop": "a process knows its own life only",
    "RoundtripCollectorLosing": "the collector is another process",
    "RoundtripObserverDown": "the observers are other processes",
    "RoundtripWatchdog": "fires always, to show that Prometheus reaches the receiver",
    "RoundtripAlertsNotSent": "Prometheus and Alertmanager are other processes",
    "RoundtripRulesFailing": "Prometheus is another process",
    "RoundtripBackendDown": "a process that is down sees nothing",
    "RoundtripCollectorFailing": "the collector is another process",
    "RoundtripDeliveryBurnFast": "looks hours back; the console keeps a quarter of an hour",
    "RoundtripDeliveryBurnSlow": "looks days back; the console keeps a quarter of an hour",
}
"""Alerts that only Prometheus can give."""
