"""Metrics that are read from their owner when Prometheus asks, so that nothing is counted twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from roundtrip.telemetry.context import Vocabulary

_PREFIX: Final = "roundtrip"


class LedgerReading(NamedTuple):
    """The outbox's sums at one moment. Keys are the numbers of event types and outcomes; a missing key is 0.

    `resolved` is by first outcome, so it never falls. `oldest_pending_at` is in milliseconds since the epoch.
    """

    created: Mapping[int, int]
    resolved: Mapping[tuple[int, int], int]
    pending: Mapping[int, int]
    oldest_pending_at: int | None
    size_bytes: int


class LedgerCollector(Collector):
    """Created = the five outcomes + pending, per type, in every scrape: all come from one reading."""

    def __init__(self, words: Vocabulary, clock: Callable[[], float] = time.time) -> None:
        self._words = words
        self._clock = clock
        self.read: Callable[[], LedgerReading] = lambda: LedgerReading({}, {}, {}, None, 0)
        """The outbox's sums; must be safe to call from the thread that serves the scrape and cost no I/O."""

    def collect(self) -> Iterable[Metric]:
        now = self._clock()
        reading = self.read()
        created = CounterMetricFamily(f"{_PREFIX}_events_created_total", "Events stored.", labels=["type"])
        resolved = CounterMetricFamily(
            f"{_PREFIX}_events_resolved_total", "Events that ended, by their outcome.", labels=["type", "outcome"]
        )
        pending = GaugeMetricFamily(
            f"{_PREFIX}_events_pending", "Events that wait for a confirmation.", labels=["type"]
        )
        for number, name in enumerate(self._words.event_types):
            created.add_metric([name], reading.created.get(number, 0))
            pending.add_metric([name], reading.pending.get(number, 0))
            for outcome, ending in enumerate(self._words.outcomes, start=1):
                resolved.add_metric([name, ending], reading.resolved.get((number, outcome), 0))
        oldest = reading.oldest_pending_at
        yield created
        yield resolved
        yield pending
        yield GaugeMetricFamily(
            f"{_PREFIX}_oldest_pending_event_age_seconds",
            "Age of the oldest event that waits for a confirmation, 0 when none does.",
            0.0 if oldest is None else max(0.0, now - oldest / 1000),
            unit="seconds",
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_outbox_size_bytes", "Size of the outbox where it is stored.", reading.size_bytes, unit="bytes"
        )

    def describe(self) -> Iterable[Metric]:
        return self.collect()


class PresenceCollector(Collector):
    """Who and what is there now, by the registry's and the link service's own books."""

    def __init__(self, words: Vocabulary) -> None:
        self._words = words
        self.sockets: Callable[[], Mapping[str, int]] = dict
        """Connected and mapped sockets by transport."""
        self.mapped_keys: Callable[[], int] = lambda: 0
        self.links: Callable[[], Mapping[str, int]] = dict
        """Links by state."""

    def collect(self) -> Iterable[Metric]:
        yield _gauge("sockets", "Connected sockets.", "transport", self._words.transports, self.sockets())
        yield GaugeMetricFamily(f"{_PREFIX}_mapped_keys", "Keys that have at least one socket.", self.mapped_keys())
        yield _gauge("links", "WhatsApp links.", "state", self._words.link_states, self.links())

    def describe(self) -> Iterable[Metric]:
        return self.collect()


def _gauge(name: str, text: str, label: str, values: Iterable[str], reading: Mapping[str, int]) -> Metric:
    gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=[label])
    for value in values:
        gauge.add_metric([value], reading.get(value, 0))
    return gauge
