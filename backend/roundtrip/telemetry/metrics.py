"""The whole catalogue of metrics. Labels come from fixed sets only, and every child is resolved once, at the start: a
series that appears with its first increment hides it from every rule that counts.

A counter or histogram is moved by the part that sees the thing happen. What a part already counts (the outbox its
events, the registry its sockets, the link service its links) is read from it when Prometheus scrapes.

To add a metric:

1. here: an attribute with its name and help text; `_loop_counter` or `_loop_histogram` if it moves with each event;
2. a new label's values: `labels.py`, or the enum that owns them and `roundtrip/label_sets.py`, which passes enums;
3. where it moves: `delivery/metrics.py`, `sockets/messages.py`, `links/metrics.py`, or `app.py`, for what is read;
4. its row in `docs/telemetry.md` (`tests/telemetry/test_docs.py` compares), and a panel or rule in `dashboards/`
   if somebody should look at it: then `python -m dashboards`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from roundtrip.telemetry.collectors import (
    PREFIX,
    ClusterCollector,
    LedgerCollector,
    LoopCounter,
    LoopCounters,
    LoopHistogram,
    LoopHistograms,
    PresenceCollector,
    WorkersCollector,
)
from roundtrip.telemetry.labels import ADMIN_LOGINS, GRADES, MODES, OTHER, OVERDUE, PAGE_SPANS, SIGNALS, LabelSets

_ROUND_TRIP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""From loopback to `ACK_TIMEOUT`."""

_DELIVERY: Final = (*_ROUND_TRIP, 10.0, 30.0, 60.0, 600.0, 3600.0, 86400.0)
"""Live deliveries are milliseconds; a replay waits for a client to come back, a day at most."""

_WRITE: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""One durable commit: a good disk takes a millisecond, five seconds is an outage."""

_LIFETIME: Final = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 86400.0)
"""Fine where sockets leave too early, coarse where they last as they should."""

_PAIRING: Final = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 180.0, 300.0)
"""A user fetches a phone: the codes of one pairing last about 160 s."""

_REQUEST: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""OpenTelemetry's for HTTP servers. A polling client's request waits for its next packet."""

_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

_PAUSE: Final = (0.005, 0.01, 0.05, 0.1, 0.5)
"""50 ms is what a collection may take at the most; an event waits as long."""

_OTHER_TRANSITION: Final = (OTHER, OTHER)

Exemplar = dict[str, str] | None
"""`{"trace_id": …}` of a trace that is kept, else None."""

_Child = TypeVar("_Child", Counter, Gauge, Histogram)


class ByLabel(dict[str, _Child]):
    """Children by their one label's value; a value outside the fixed set is the child `other`."""

    def __missing__(self, value: str) -> _Child:
        return self[OTHER]


class Metrics:
    """Every metric of the program over a registry of its own.

    Where an attribute is a tuple of children, the index is the event type's number; where it is a mapping, the
    key is the label's value. Counters and histograms may be moved from any thread.
    """

    def __init__(self, label_sets: LabelSets, version: str, instance: str = "") -> None:
        """`instance` is the `service.instance.id` of this process's traces and logs."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # published without types
        self.label_sets = label_sets
        self.registry = registry = CollectorRegistry()
        types = label_sets.event_types

        # What becomes of an event
        attempts = self._loop_counter(
            "emit_attempts", "Attempts to emit an event to a key's sockets.", "type", "mode", "result"
        )
        self.sent: Mapping[str, tuple[LoopCounter, ...]] = {
            mode: tuple(attempts.labels(type_, mode, "sent") for type_ in types) for mode in MODES
        }
        """By mode, then by type number."""
        self.missed: Mapping[str, tuple[LoopCounter, ...]] = {
            mode: tuple(attempts.labels(type_, mode, "missed") for type_ in types) for mode in MODES
        }
        """By mode, then by type number."""
        missed = self._loop_counter("missed_emits", "Attempts that reached nobody, by why.", "type", "reason")
        self.missed_emits: Mapping[str, tuple[LoopCounter, ...]] = {
            reason: tuple(missed.labels(type_, reason) for type_ in types) for reason in label_sets.miss_reasons
        }
        """By reason, then by type number."""
        self.due = self._loop_counter(
            "events_due", "Events whose key had a socket, each once: when it was confirmed, or its time was over."
        ).labels()
        overdue = self._loop_counter(
            "events_overdue", "Events that were due and not confirmed within ACK_TIMEOUT, by the first cause.", "cause"
        )
        self.overdue: Mapping[str, LoopCounter] = {cause: overdue.labels(cause) for cause in OVERDUE}
        delivery = self._loop_histogram(
            "delivery",
            "From an event's creation to its first confirmation, live or replayed.",
            _DELIVERY,
            "mode",
            "grade",
        )
        self.delivery: Mapping[str, Mapping[str, LoopHistogram]] = {
            mode: {grade: delivery.labels(mode, grade) for grade in GRADES} for mode in MODES
        }
        """By the mode of the attempt that was confirmed, then by grade, `received` or `acked`. Seconds."""
        self.receipt = self._loop_histogram(
            "receipt", "From an attempt to the transport's receipt.", _ROUND_TRIP
        ).labels()
        self.ack = self._loop_histogram(
            "ack", "From an attempt to the application's acknowledgement.", _ROUND_TRIP
        ).labels()
        self.outbox_write = self._histogram(
            "outbox_write", "One durable commit of the outbox, a batch of events.", _WRITE
        )
        self.outbox_batch_age = self._gauge(
            "outbox_oldest_batch_age_seconds", "For how long the oldest batch of the outbox has waited for its commit."
        )
        self.store_up = self._gauge("store_up", "Whether the event store is reached: 1, or 0 while it is away.")
        self.outbox_limit = self._gauge("outbox_limit_bytes", "Size of the outbox past which new links are refused.")
        self.outbox_failures = self._counter("outbox_failures", "Commits that the outbox could not make.")
        self.replays_slowed = self._counter(
            "replays_slowed", "Replays that had to wait, for their clients come and go without confirming anything."
        )
        self.event_ttl = self._gauge("event_ttl_seconds", "For how long an unconfirmed event is kept: then it expires.")
        self.pending_with_socket = self._gauge(
            "oldest_pending_event_with_socket_age_seconds",
            "For how long the oldest pending event has had a socket of its key, 0 when none does.",
        )
        self.ledger = LedgerCollector(label_sets)
        """Reads the outbox's sums; set its `read`."""
        registry.register(self.ledger)

        # Sockets
        self.presence = PresenceCollector(label_sets)
        """Set its `sockets`, `mapped_keys` and `links`, which read the registry and the link service."""
        registry.register(self.presence)
        self.socket_connects = self._family(
            "socket_connects", "Handshakes, by how they ended.", "result", label_sets.connect_results
        )
        self.socket_disconnects = self._family(
            "socket_disconnects", "Sockets that left, by why.", "reason", label_sets.disconnect_reasons
        )
        self.socket_lifetime = self._histogram("socket_lifetime", "From a socket's connect to its end.", _LIFETIME)
        self.packets_refused = self._family(
            "packets_refused",
            "Packets and requests that broke the socket protocol, by how.",
            "what",
            label_sets.packet_refusals,
        )
        self.rate_limited = self._family("rate_limited", "Refusals for exceeding a limit.", "limit", label_sets.limits)
        self.admin_logins = self._family(
            "admin_logins", "Logins to the console with the admin key, by how they ended.", "result", ADMIN_LOGINS
        )
        self.malformed_requests = self._family(
            "malformed_requests", "HTTP requests that could not be taken, by why.", "reason", label_sets.malformed
        )

        # Links
        transitions = self._counter(
            "link_transitions", "Changes of a link's state, by the state entered and why.", "to", "reason"
        )
        self._transitions = {pair: transitions.labels(*pair) for pair in (*label_sets.transitions, _OTHER_TRANSITION)}
        self.link_pairing = self._histogram("link_pairing", "From a link's start to its first connection.", _PAIRING)
        self.link_restarts = self._counter("link_restarts", "Sessions started again after they ended by themselves.")
        self.link_flaps = self._counter("link_flaps", "Links that lost their connection and had it back soon after.")
        self.link_corrections = self._counter(
            "link_corrections", "Times that the library's own word contradicted a link's believed state."
        )
        self.links_flapping = self._gauge("links_flapping", "Links that flap more often than FLAP_LIMIT allows.")
        self.links_restoring = self._gauge("links_restoring", "Links that a restart interrupted, not back yet.")
        crashing = "Links whose worker died more often than the limit allows, within the window."
        self.links_crashing = self._gauge("links_crashing", crashing)
        exits = label_sets.worker_exits
        self.worker_exits = self._family("worker_exits", "Worker processes that ended, by how.", "cause", exits)
        self.workers = WorkersCollector()
        registry.register(self.workers)
        self.cluster = ClusterCollector()
        registry.register(self.cluster)

        # The canary
        self.canary_delivery = self._histogram(
            "canary_delivery", "From a canary's publishing to its acknowledgement.", _ROUND_TRIP
        )
        self.canary_failures = self._family(
            "canary_failures", "Rounds of the canary that failed, by the stage.", "stage", label_sets.canary_stages
        )
        self.canary_failing = self._gauge("canary_failing", "Rounds of the canary that failed in a row, up to now.")
        # The process itself
        http = LoopHistograms(
            "http_server_request_duration_seconds",
            "Requests to both listeners, by how long they took; no websockets.",
            ("method", "route", "status_class"),
            buckets=_REQUEST,
            registry=registry,
        )
        self._http_request = http.labels
        self.event_loop_lag = self._histogram(
            "event_loop_lag", "How much later than asked the event loop ran a timer.", _LAG
        )
        ready = Gauge(f"{PREFIX}_ready", "1 while a check of /readyz is well.", ["check"], registry=registry)
        self.ready: Mapping[str, Gauge] = {name: ready.labels(name) for name in label_sets.ready_checks}
        self.gc_pause = self._loop_histogram(
            "gc_pause", "How long a garbage collection stopped the program.", _PAUSE
        ).labels()
        """Moved by the collector, in whatever thread it runs: one at a time, and without a lock."""
        self.task_failures = self._counter(
            "task_failures", "Background tasks, or single steps of them, that ended in an error."
        )
        self.clock_steps = self._counter("clock_steps", "Times that somebody set the machine's clock.")
        self.telemetry_dropped = self._family(
            "telemetry_dropped", "Spans and log records that were lost on their way out.", "signal", SIGNALS
        )
        self.spans_exported = self._counter("spans_exported", "Spans that the collector took.")
        text = "Spans that pages sent of the events they handled, by what became of them."
        self.page_spans = self._family("page_spans", text, "result", PAGE_SPANS)
        faults = Gauge(f"{PREFIX}_fault_active", "1 while a named fault is switched on.", ["fault"], registry=registry)
        self.fault_active: Mapping[str, Gauge] = {name: faults.labels(name) for name in label_sets.faults}
        Info(f"{PREFIX}_build", "What runs here.", registry=registry).info(
            {"version": version, "python": platform.python_version(), "service_instance_id": instance}
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def set_limits(self, *, event_ttl: float, outbox_bytes: int) -> None:
        """Export what the settings allow, for alerts and panels to compare with. `event_ttl` is in seconds."""
        self.event_ttl.set(event_ttl)
        self.outbox_limit.set(outbox_bytes)

    def count_refusal(self, limit: str) -> None:
        """Somebody exceeded this limit."""
        self.rate_limited[limit].inc()

    def count_malformed(self, reason: str) -> None:
        """An HTTP request could not be taken."""
        self.malformed_requests[reason].inc()

    def count_page_spans(self, result: str, count: int) -> None:
        """This became of spans that a page sent."""
        self.page_spans[result].inc(count)

    def transition(self, to: str, reason: str) -> None:
        """Count a link's change of state. A pair outside the set becomes `other`."""
        self._transitions.get((to, reason), self._transitions[_OTHER_TRANSITION]).inc()

    def http_request(self, method: str, route: str, status_class: str, seconds: float) -> None:
        """Observe a request. All three labels are from fixed sets: the caller sees to it. A series appears with its
        first request, for most pairs of a route and a status never come."""
        self._http_request(method, route, status_class).observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}_total", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, registry=self.registry)

    def _loop_counter(self, name: str, text: str, *labels: str) -> LoopCounters:
        return LoopCounters(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _family(self, name: str, text: str, label: str, values: Iterable[str]) -> ByLabel[Counter]:
        counter = self._counter(name, text, label)
        return ByLabel({value: counter.labels(value) for value in (*values, OTHER)})

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        """Measures seconds."""
        return Histogram(
            f"{PREFIX}_{name}_seconds", text, labels, unit="seconds", buckets=buckets, registry=self.registry
        )

    def _loop_histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> LoopHistograms:
        """Measures seconds."""
        return LoopHistograms(f"{PREFIX}_{name}_seconds", text, labels, buckets=buckets, registry=self.registry)
