"""Counters and histograms that only the event loop moves: without locks, a quarter of the cost, on every event's path.

They are collectors of their own, registered as the client library documents it; a test holds what they expose against
the library's own metrics.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


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

    __slots__ = ("_bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper bounds, ascending, the last one infinite."""
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        """Observations of each bucket alone."""
        self.exemplars: list[Exemplar | None] = [None] * len(bounds)
        self.sum = 0.0

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        self.sum += amount
        bucket = bisect_left(self._bounds, amount)
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
