"""Implementations of `prometheus_client`'s Collector interface, of two kinds.

`LoopCounters` and `LoopHistograms` are counted on the event loop, on the path of every event: one owner, hence no lock,
which is most of what the client library's own cost. `LedgerCollector` and `PresenceCollector` count nothing: they read
the part that already does when Prometheus scrapes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from roundtrip.telemetry.labels import ANNOUNCEMENTS, SPREAD, TAKEOVERS, LabelSets

PREFIX: Final = "roundtrip"
"""Of every metric's name."""


class LoopCounter:
    """One series of a counter."""

    __slots__ = ("exemplar", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.exemplar: Exemplar | None = None

    def inc(self, amount: float = 1.0, exemplar: dict[str, str] | None = None) -> None:
        """`amount` is not negative."""
        self.value += amount
        if exemplar is not None:
            self.exemplar = Exemplar(exemplar, amount, time.time())


class LoopHistogram:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper bounds, ascending, the last one infinite."""
        self.bounds = bounds
        self.counts = [0] * len(bounds)
        """Observations of each bucket alone."""
        self.exemplars: list[Exemplar | None] = [None] * len(bounds)
        self.sum = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self.sum += amount
        bucket = bisect_left(self.bounds, amount)
        self.counts[bucket] += 1
        if exemplar is not None:
            self.exemplars[bucket] = Exemplar(exemplar, amount, time.time())


class LoopCounters(Collector):
    """A counter with labels. Resolve each series once and keep it."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry) -> None:
        self._family = name, text, labels
        self._series: dict[tuple[str, ...], LoopCounter] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> LoopCounter:
        """The series with these label values, in the order of the labels' names."""
        return self._series.setdefault(values, LoopCounter())

    def collect(self) -> Iterable[Metric]:
        name, text, labels = self._family
        family = CounterMetricFamily(name, text, labels=labels)
        for values, series in self._series.items():
            family.add_metric(values, series.value, exemplar=series.exemplar)
        yield family

    def describe(self) -> Iterable[Metric]:
        name, text, labels = self._family
        yield CounterMetricFamily(name, text, labels=labels)


class LoopHistograms(Collector):
    """A histogram of seconds with labels. Resolve each series once and keep it."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._family = name, text, labels
        self._bounds: Final = (*buckets, float("inf"))
        self._names: Final = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]  # published without types
        self._series: dict[tuple[str, ...], LoopHistogram] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> LoopHistogram:
        """The series with these label values, in the order of the labels' names."""
        return self._series.setdefault(values, LoopHistogram(self._bounds))

    def collect(self) -> Iterable[Metric]:
        family = self._empty()
        for values, series in self._series.items():
            total = 0
            buckets: list[tuple[str, float, Exemplar | None]] = []
            for name, count, exemplar in zip(self._names, series.counts, series.exemplars, strict=True):
                total += count
                buckets.append((name, total, exemplar))
            family.add_metric(values, buckets, series.sum)  # type: ignore[arg-type]  # any sequence
        yield family

    def describe(self) -> Iterable[Metric]:
        yield self._empty()

    def _empty(self) -> HistogramMetricFamily:
        name, text, labels = self._family
        return HistogramMetricFamily(name, text, labels=labels, unit="seconds")


class LedgerReading(NamedTuple):
    """The outbox's sums at one moment. Keys are the numbers of event types and outcomes; a missing key is 0.

    `resolved` is by first outcome, so it never falls. `oldest_pending_at` is in milliseconds since the epoch.
    `exported` is False where another node of the same store exports them: then there are no samples.
    """

    created: Mapping[int, int]
    resolved: Mapping[tuple[int, int], int]
    pending: Mapping[int, int]
    oldest_pending_at: int | None
    size_bytes: int
    exported: bool = True


class LedgerCollector(Collector):
    """Created = the five outcomes + pending, per type, in every scrape: all come from one reading."""

    def __init__(self, label_sets: LabelSets, clock: Callable[[], float] = time.time) -> None:
        self._labels = label_sets
        self._clock = clock
        self.read: Callable[[], LedgerReading] = lambda: LedgerReading({}, {}, {}, None, 0)
        """Returns the outbox's sums; must be safe to call from the thread that serves the scrape and cost no I/O."""

    def collect(self) -> Iterable[Metric]:
        now = self._clock()
        reading = self.read()
        created = CounterMetricFamily(f"{PREFIX}_events_created_total", "Events stored.", labels=["type"])
        resolved = CounterMetricFamily(
            f"{PREFIX}_events_resolved_total", "Events that ended, by their outcome.", labels=["type", "outcome"]
        )
        pending = GaugeMetricFamily(f"{PREFIX}_events_pending", "Events that wait for a confirmation.", labels=["type"])
        age = GaugeMetricFamily(
            f"{PREFIX}_oldest_pending_event_age_seconds",
            "Age of the oldest event that waits for a confirmation, 0 when none does.",
            unit="seconds",
        )
        size = GaugeMetricFamily(f"{PREFIX}_outbox_size_bytes", "Size of the outbox where it is stored.", unit="bytes")
        if reading.exported:
            for number, name in enumerate(self._labels.event_types):
                created.add_metric([name], reading.created.get(number, 0))
                pending.add_metric([name], reading.pending.get(number, 0))
                for outcome, ending in enumerate(self._labels.outcomes, start=1):
                    resolved.add_metric([name, ending], reading.resolved.get((number, outcome), 0))
            oldest = reading.oldest_pending_at
            age.add_metric((), 0.0 if oldest is None else max(0.0, now - oldest / 1000))
            size.add_metric((), reading.size_bytes)
        yield from (created, resolved, pending, age, size)

    def describe(self) -> Iterable[Metric]:
        return self.collect()


class PresenceCollector(Collector):
    """Sockets, keys and links that exist now, as the registry and the link service count them."""

    def __init__(self, label_sets: LabelSets) -> None:
        self._labels = label_sets
        self.sockets: Callable[[], Mapping[str, int]] = dict
        """Connected and mapped sockets by transport."""
        self.mapped_keys: Callable[[], int] = lambda: 0
        self.links: Callable[[], Mapping[str, int]] = dict
        """Links by state."""

    def collect(self) -> Iterable[Metric]:
        yield _gauge("sockets", "Connected sockets.", "transport", self._labels.transports, self.sockets())
        yield GaugeMetricFamily(f"{PREFIX}_mapped_keys", "Keys that have at least one socket.", self.mapped_keys())
        yield _gauge("links", "WhatsApp links.", "state", self._labels.link_states, self.links())

    def describe(self) -> Iterable[Metric]:
        return self.collect()


class ClusterCollector(Collector):
    """This node among those that share its store. Every node exports `nodes` by its own count: take the maximum."""

    def __init__(self) -> None:
        self.nodes: Callable[[], int] = lambda: 1
        """Live nodes of the store, this one included; set where the store is shared, as is `lease_age`."""
        self.lease_age: Callable[[], float] = lambda: 0.0
        self.lease = 0.0
        """How long a lease lasts without a renewal, in seconds; set where the store is shared."""
        self.takeovers = dict.fromkeys(TAKEOVERS, 0)
        """Links that this node took, by why."""
        self.announcements = dict.fromkeys(ANNOUNCEMENTS, 0)
        """Keys with news that this node told others of, and those that it found behind though nobody told it."""

    def collect(self) -> Iterable[Metric]:
        text = "Live nodes on the same store, this one included."
        yield GaugeMetricFamily(f"{PREFIX}_nodes", text, self.nodes())
        text = "Age of the node's newest lease that the store confirmed, 0 without a shared store."
        yield GaugeMetricFamily(f"{PREFIX}_node_lease_age_seconds", text, self.lease_age(), unit="seconds")
        text = "For how long the node's lease lasts without a renewal, 0 without a shared store."
        yield GaugeMetricFamily(f"{PREFIX}_node_lease_seconds", text, self.lease, unit="seconds")
        text = "Links that this node took over, by why."
        family = CounterMetricFamily(f"{PREFIX}_link_takeovers", text, labels=["reason"])
        for reason, count in self.takeovers.items():
            family.add_metric([reason], count)
        yield family
        text = "Keys with a new event that this node told another one of, and those whose events it found untold."
        family = CounterMetricFamily(f"{PREFIX}_announcements", text, labels=["result"])
        for result, count in self.announcements.items():
            family.add_metric([result], count)
        yield family

    def describe(self) -> Iterable[Metric]:
        return self.collect()


class WorkersReading(Protocol):
    """One worker process, as far as it is measured: `drivers.base.WorkerView`."""

    @property
    def sessions(self) -> int: ...
    @property
    def memory(self) -> int | None: ...


class WorkersCollector(Collector):
    """The worker processes that run now, as the driver knows them. No series per worker: their mean and the largest."""

    def __init__(self) -> None:
        self.read: Callable[[], Sequence[WorkersReading]] = tuple
        """Set by the program, where the driver has workers."""

    def collect(self) -> Iterable[Metric]:
        workers = self.read()
        yield GaugeMetricFamily(f"{PREFIX}_workers", "Worker processes that run.", len(workers))
        sessions = _spread([worker.sessions for worker in workers])
        yield _gauge("worker_sessions", "Sessions in one worker: the mean, and the most.", "stat", SPREAD, sessions)
        memory = _spread([worker.memory for worker in workers if worker.memory is not None])
        text = "Memory of one worker (PSS): the mean, and the most."
        yield _gauge("worker_memory_bytes", text, "stat", SPREAD, memory)

    def describe(self) -> Iterable[Metric]:
        return self.collect()


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "max": max(values)} if values else {}


def _gauge(name: str, text: str, label: str, values: Iterable[str], reading: Mapping[str, float]) -> Metric:
    gauge = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=[label])
    for value in values:
        gauge.add_metric([value], reading.get(value, 0))
    return gauge
