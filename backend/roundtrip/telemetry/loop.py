"""How late the event loop is: what every event waits, whatever else is fast."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

EVERY: Final = 0.25
"""Seconds between two looks: often enough to catch a stall, rare enough to cost nothing."""


class LoopLag:
    """A timer that asks to run every quarter of a second and notes how much later it did. Lives on the loop."""

    def __init__(self, histogram: Histogram, every: float = EVERY) -> None:
        self._histogram = histogram
        self._every = every
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._due = self._loop.time() + self._every
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._histogram.observe(max(0.0, self._loop.time() - self._due))
        self._arm()


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
