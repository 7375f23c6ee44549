"""The alerts as the process itself sees them: the rules of `dashboards/prometheus/alerts.yaml` over its own readings.

Severities, sentences, thresholds and windows are read from `alert_table.py`, which is generated from that file.
What a process cannot know of itself (that it is down, what was hours ago) is in `UNSEEN`, each with its reason.
Which of them hold at present: `active.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from roundtrip.api.debug.alert_table import ALERTS, Alert
from roundtrip.api.debug.readings import EARLY, History


class Situation(NamedTuple):
    """What rules look at, beside the readings. `faults` are those switched on, `event_ttl` is in seconds."""

    history: History
    faults: tuple[str, ...]
    event_ttl: float
    outbox_max_bytes: int


class Rule(NamedTuple):
    """One alert. `value` is what it shows while its condition holds, None else."""

    name: str
    value: Callable[[Situation, Alert], float | None]

    @property
    def alert(self) -> Alert:
        return ALERTS[self.name]


def above(value: float | None, threshold: float) -> float | None:
    return value if value is not None and value > threshold else None


def at_least(value: float, threshold: float) -> float | None:
    return value if value >= threshold else None


def missed_ratio(s: Situation, seconds: float) -> float | None:
    """The share of attempts that reached nobody while somebody should be there."""
    h = s.history
    reasons = ("key_mismatch", "just_disconnected", "queue_full", "send_failed", "pairing")
    lost = sum(h.increase(f"missed_{reason}", seconds) for reason in reasons)
    attempts = h.increase("sent", seconds) + h.increase("missed", seconds)
    return lost / attempts if attempts else None


def early_ratio(s: Situation, seconds: float, least: float) -> float | None:
    """The share of the sockets that ended which had lived for less than `EARLY`; None with fewer than `least`."""
    ended = s.history.count("lifetime", seconds)
    return s.history.below("lifetime", EARLY, seconds) / ended if ended >= least else None


def _more(counter: str) -> Callable[[Situation, Alert], float | None]:
    """A counter that grew by more than the limit."""
    return lambda s, a: above(s.history.increase(counter, a.windows[0]), a.limits[0])


def _is_above(reading: str) -> Callable[[Situation, Alert], float | None]:
    return lambda s, a: above(s.history.now(reading), a.limits[0])


def _key_mismatch(s: Situation, a: Alert) -> float | None:
    """Many now, or one now and one a while ago."""
    (many, some), (window, ago) = a.limits, a.windows
    now = s.history.increase("missed_key_mismatch", window)
    before = s.history.increase("missed_key_mismatch", ago + window) - s.history.increase("missed_key_mismatch", ago)
    return now if now >= many or (now > some and before > some) else None


def _missed_emits(s: Situation, a: Alert) -> float | None:
    (share, least), (window,) = a.limits, a.windows
    return above(missed_ratio(s, window), share) if s.history.increase("missed", window) >= least else None


def _socket_churn(s: Situation, a: Alert) -> float | None:
    (share, least), (window,) = a.limits, a.windows
    return above(early_ratio(s, window, least), share)


def unmapped(s: Situation) -> float:
    """Sockets that are connected and that the socket map cannot find."""
    h = s.history
    return h.now("accepted") - h.now("left") - h.now("sockets")


def _acks_missing(s: Situation, a: Alert) -> float | None:
    (least, share), (window,) = a.limits, a.windows
    missing, sent = s.history.increase("missed_ack_timeout", window), s.history.increase("sent", window)
    return at_least(missing, least) if missing > share * (missing + sent) else None


def _receipts_missing(s: Situation, a: Alert) -> float | None:
    h, window = s.history, a.windows[0]
    gone = h.increase("receipts", window) == 0 and h.now("receipts") > 0
    return at_least(h.increase("missed_ack_timeout", window), a.limits[0]) if gone else None


def pending_age(s: Situation) -> float:
    oldest = s.history.now("oldest_at")
    return max(0.0, s.history.at - oldest / 1000) if oldest else 0.0


def _balance(s: Situation, _alert: Alert) -> float | None:
    h = s.history
    ended = sum(h.now(outcome) for outcome in ("acked", "received", "superseded", "expired", "discarded"))
    return h.now("created") - ended - h.now("pending") or None


def _refused(s: Situation, a: Alert) -> float | None:
    (share, least), (window,) = a.limits, a.windows
    refused, all_ = s.history.increase("refused", window), s.history.increase("handshakes", window)
    return above(refused / all_, share) if refused >= least else None


def _down(s: Situation) -> float:
    return s.history.now("links_disconnected") + s.history.now("links_degraded")


def _links_down(s: Situation, a: Alert) -> float | None:
    _none, share, least = a.limits
    return above(_of_links(s, _down(s)), share) if _down(s) >= least else None


def _worker_crashes(s: Situation, a: Alert) -> float | None:
    (deaths, links), (window,) = a.limits, a.windows
    return above(s.history.increase("crashes", window), deaths) or above(s.history.now("links_crashing"), links)


def _of_links(s: Situation, count: float) -> float | None:
    """The share of the linked accounts."""
    linked = sum(s.history.now(f"links_{state}") for state in ("connected", "degraded", "disconnected", "paired"))
    return count / linked if linked else None


RULES: Final = (
    Rule("RoundtripKeyMismatch", _key_mismatch),
    Rule("RoundtripMissedEmits", _missed_emits),
    Rule("RoundtripUnmappedSockets", lambda s, a: above(unmapped(s), a.limits[0])),
    Rule("RoundtripSocketChurn", _socket_churn),
    Rule("RoundtripAcksMissing", _acks_missing),
    Rule("RoundtripReceiptsMissing", _receipts_missing),
    Rule("RoundtripHandshakesRefused", _refused),
    Rule("RoundtripPendingWithSocket", _is_above("with_socket_age")),
    Rule("RoundtripLedgerOutOfBalance", _balance),
    Rule("RoundtripLinkFlapping", lambda s, a: above(_of_links(s, s.history.now("links_flapping")), a.limits[-1])),
    Rule("RoundtripLinksDown", _links_down),
    Rule("RoundtripWorkerCrashes", _worker_crashes),
    Rule("RoundtripHostDies", _more("crashes")),
    Rule("RoundtripClientOutdated", _is_above("links_client_outdated")),
    Rule("RoundtripNotReady", _is_above("not_ready")),
    Rule("RoundtripOutboxStuck", _is_above("batch_age")),
    Rule("RoundtripStoreDown", lambda s, a: 1.0 if s.history.now("store_up") == a.limits[0] else None),
    Rule("RoundtripNodeLeaseOld", lambda s, a: above(s.history.most("lease_used", a.windows[0]), a.limits[0])),
    Rule(
        "RoundtripEventLoopStalls",
        lambda s, a: above(s.history.increase("lag_sum", a.windows[0]) / a.windows[0], a.limits[0]),
    ),
    Rule(
        "RoundtripOutboxSlow",
        lambda s, a: above(s.history.quantile("outbox_write", 0.9, a.windows[0]), a.limits[0]),
    ),
    Rule("RoundtripOutboxFailing", _more("outbox_failures")),
    Rule("RoundtripOutboxFull", lambda s, a: above(s.history.now("size"), a.limits[0] * s.outbox_max_bytes)),
    Rule(
        "RoundtripEventLoopBlocked",
        lambda s, a: above(s.history.quantile("loop_lag", 0.99, a.windows[0]), a.limits[0]),
    ),
    Rule("RoundtripTaskDied", _more("task_failures")),
    Rule("RoundtripFaultActive", lambda s, a: above(len(s.faults), a.limits[0])),
    Rule("RoundtripCanaryFailing", lambda s, a: at_least(s.history.now("canary_failing"), a.limits[0])),
    Rule("RoundtripTelemetryDropped", _more("dropped")),
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
