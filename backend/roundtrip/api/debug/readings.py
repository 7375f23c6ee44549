"""One reading of the process each second, the last quarter of an hour in memory: for charts, verdict and alerts.

A reading is a row of numbers, most of them counters since the start; what happened within a window is the difference of
two rows. There is no store: after a restart the charts begin anew.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from roundtrip.telemetry.metrics import Metrics

INTERVAL: Final = 1.0
"""Seconds between two readings."""

WINDOW: Final = 900.0
"""Seconds that are kept."""

PAIRING_TYPES: Final = frozenset({"whatsapp_qr", "whatsapp_pairing_code", "whatsapp_paired"})
"""Somebody who pairs sits in front of the page: the alert RoundtripMissedEmits has the same."""

REFUSALS: Final = (
    "unauthorized",
    "forbidden",
    "bot_id_missing",
    "bot_id_invalid",
    "user_id_invalid",
    "unavailable",
)
"""Refused handshakes that the alert RoundtripHandshakesRefused counts."""

CRASHES: Final = ("crashed", "panicked", "killed", "unresponsive", "memory")

EARLY: Final = 5.0
"""Seconds of life below which a socket left too early."""


class Reader:
    """Reads the catalogue of metrics. Each name of a reading is a column."""

    def __init__(self, metrics: Metrics, sockets: Callable[[], int]) -> None:
        """`sockets` counts those that are mapped; the gauge of the metrics would look at each."""
        self._metrics = metrics
        sets = metrics.label_sets
        self._pairing = tuple(n for n, name in enumerate(sets.event_types) if name in PAIRING_TYPES)
        self._scalars: dict[str, Callable[[], float]] = {
            "sent": lambda: _sum(counter.value for row in metrics.sent.values() for counter in row),
            "missed": lambda: _sum(counter.value for row in metrics.missed.values() for counter in row),
            "missed_pairing": self._missed_while_pairing,
            "sockets": sockets,
            "keys": metrics.presence.mapped_keys,
            "accepted": _reader(metrics.socket_connects["accepted"]),
            "handshakes": _summer(metrics.socket_connects.values()),
            "refused": _summer(metrics.socket_connects[result] for result in REFUSALS),
            "with_socket_age": _reader(metrics.pending_with_socket),
            "batch_age": _reader(metrics.outbox_batch_age),
            "links_flapping": _reader(metrics.links_flapping),
            "not_ready": lambda: _sum(_value(g) == 0 for check, g in metrics.ready.items() if check != "draining"),
            "lag_sum": lambda: _sum_of(metrics.event_loop_lag),
            "left": _summer(metrics.socket_disconnects.values()),
            "outbox_failures": _reader(metrics.outbox_failures),
            "task_failures": _reader(metrics.task_failures),
            "dropped": _summer(metrics.telemetry_dropped.values()),
            "canary_failing": _reader(metrics.canary_failing),
            "store_up": _reader(metrics.store_up),
            "lease_used": lambda: metrics.cluster.lease_age() / (metrics.cluster.lease or 1.0),
            "flaps": _reader(metrics.link_flaps),
            "crashes": _summer(metrics.worker_exits[reason] for reason in CRASHES),
            "receipts": lambda: float(sum(metrics.receipt.counts)),
            "acks": lambda: float(sum(metrics.ack.counts)),
        }
        for reason in sets.miss_reasons:
            self._scalars[f"missed_{reason}"] = _of_reason(metrics, reason)
        self._histograms: dict[str, Histogram] = {
            "outbox_write": metrics.outbox_write,
            "loop_lag": metrics.event_loop_lag,
            "lifetime": metrics.socket_lifetime,
        }
        ledger = ("created", "pending", "oldest_at", "size", *sets.outcomes)
        links = (*(f"links_{state}" for state in sets.link_states), "links_crashing")
        self._delivery = [series for by_grade in metrics.delivery.values() for series in by_grade.values()]
        self.bounds: dict[str, tuple[float, ...]] = {"delivery": tuple(self._delivery[0].bounds)}
        for name, histogram in self._histograms.items():
            self.bounds[name] = tuple(bound for bound, _ in _buckets(histogram))
        self.columns: dict[str, int] = {}
        width = 0
        for name in ("at", *self._scalars, *ledger, *links, *self.bounds):
            self.columns[name] = width
            width += len(self.bounds.get(name, (0.0,)))

    def read(self, at: float) -> array[float]:
        """One row; `at` is in seconds since the epoch. Costs a third of a millisecond and no I/O."""
        metrics = self._metrics
        ledger = metrics.ledger.read()
        by_outcome = [
            float(sum(count for (_, number), count in ledger.resolved.items() if number == outcome))
            for outcome in range(1, len(metrics.label_sets.outcomes) + 1)
        ]
        links = metrics.presence.links()
        row = array("d", [at])
        row.extend(read() for read in self._scalars.values())
        row.extend((sum(ledger.created.values()), sum(ledger.pending.values())))
        row.extend((ledger.oldest_pending_at or 0.0, ledger.size_bytes, *by_outcome))
        row.extend(float(links.get(state, 0)) for state in metrics.label_sets.link_states)
        row.append(_value(metrics.links_crashing))
        total = 0.0
        for counts in zip(*(series.counts for series in self._delivery), strict=True):
            total += sum(counts)
            row.append(total)
        for histogram in self._histograms.values():
            row.extend(count for _, count in _buckets(histogram))
        return row

    def _missed_while_pairing(self) -> float:
        """Codes that reached nobody because nobody had come."""
        missed = self._metrics.missed_emits
        return _sum(
            missed[reason][number].value
            for reason in ("never_connected", "disconnected")
            if reason in missed
            for number in self._pairing
        )


class History:
    """The readings of the window, from old to new."""

    def __init__(self, columns: Mapping[str, int], bounds: Mapping[str, tuple[float, ...]]) -> None:
        self._columns = columns
        self._bounds = bounds
        self._rows: deque[array[float]] = deque(maxlen=int(WINDOW / INTERVAL) + 1)

    def add(self, row: array[float]) -> None:
        self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def at(self) -> float:
        """Of the newest reading, in seconds since the epoch."""
        return self._rows[-1][0]

    def now(self, name: str) -> float:
        return self._rows[-1][self._columns[name]]

    def before(self, seconds: float) -> array[float]:
        """The row of so many seconds ago, or the oldest there is."""
        rows = self._rows
        back = min(len(rows) - 1, round(seconds / INTERVAL))
        return rows[len(rows) - 1 - back]

    def increase(self, name: str, seconds: float) -> float:
        """By how much a counter grew."""
        column = self._columns[name]
        return self._rows[-1][column] - self.before(seconds)[column]

    def most(self, name: str, seconds: float) -> float:
        """The largest value within the window."""
        column, rows = self._columns[name], self._rows
        return max(rows[-1 - back][column] for back in range(min(len(rows), round(seconds / INTERVAL) + 1)))

    def count(self, histogram: str, seconds: float) -> float:
        """Observations within the window."""
        column = self._columns[histogram] + len(self._bounds[histogram]) - 1
        return self._rows[-1][column] - self.before(seconds)[column]

    def below(self, histogram: str, bound: float, seconds: float) -> float:
        """Observations within the window that were at most `bound`, which is one of the histogram's."""
        column = self._columns[histogram] + self._bounds[histogram].index(bound)
        return self._rows[-1][column] - self.before(seconds)[column]

    def quantile(self, histogram: str, q: float, seconds: float) -> float | None:
        """As Prometheus' `histogram_quantile`; None without observations."""
        return self._quantile(self._rows[-1], self.before(seconds), histogram, q)

    def _quantile(self, row: array[float], before: array[float], histogram: str, q: float) -> float | None:
        start, bounds = self._columns[histogram], self._bounds[histogram]
        counts = [row[start + n] - before[start + n] for n in range(len(bounds))]
        if counts[-1] <= 0:
            return None
        rank = q * counts[-1]
        n = bisect_left(counts, rank)
        if n >= len(bounds) - 1:
            return bounds[-2]
        low, under = (bounds[n - 1], counts[n - 1]) if n else (0.0, 0.0)
        inside = counts[n] - under
        return low + (bounds[n] - low) * ((rank - under) / inside if inside else 1.0)

    def points(self, step: int, names: Mapping[str, Column]) -> dict[str, list[float | None]]:
        """For charts: each series with a value for every `step` seconds, the newest last."""
        rows = list(self._rows)
        picked = rows[(len(rows) - 1) % step :: step]
        pairs = list(pairwise(picked))
        made: dict[str, list[float | None]] = {"at": [row[0] for _, row in pairs]}
        for name, column in names.items():
            made[name] = [column(self, before, row) for before, row in pairs]
        return made

    def value(self, row: array[float], name: str) -> float:
        return row[self._columns[name]]


Column = Callable[[History, "array[float]", "array[float]"], float | None]
"""A chart's value between two readings."""


def rate(name: str) -> Column:
    """A counter's growth per second."""
    return lambda history, before, row: _rounded(
        (history.value(row, name) - history.value(before, name)) / max(0.001, row[0] - before[0])
    )


def gauge(name: str) -> Column:
    return lambda history, _before, row: history.value(row, name)


def age(name: str) -> Column:
    """Seconds since a time in milliseconds, 0 without one."""

    def column(history: History, _before: array[float], row: array[float]) -> float:
        at = history.value(row, name)
        return _rounded(max(0.0, row[0] - at / 1000)) if at else 0.0

    return column


def quantile(histogram: str, q: float) -> Column:
    def column(history: History, before: array[float], row: array[float]) -> float | None:
        found = history._quantile(row, before, histogram, q)
        return None if found is None else _rounded(found)

    return column


CHARTS: Final[Mapping[str, Column]] = {
    "found": rate("sent"),
    "missing": rate("missed"),
    "p50": quantile("delivery", 0.5),
    "p99": quantile("delivery", 0.99),
    "pending": gauge("pending"),
    "oldest": age("oldest_at"),
    "sockets": gauge("sockets"),
    "keys": gauge("keys"),
    "came": rate("accepted"),
    "left": rate("left"),
    "connected": gauge("links_connected"),
    "lag": quantile("loop_lag", 0.99),
    "write": quantile("outbox_write", 0.9),
}
"""The console's series, by the name that its page knows."""


def _of_reason(metrics: Metrics, reason: str) -> Callable[[], float]:
    row = metrics.missed_emits[reason]
    return lambda: _sum(counter.value for counter in row)


def _reader(counter: Counter | Gauge) -> Callable[[], float]:
    return lambda: _value(counter)


def _summer(counters: Iterable[Counter]) -> Callable[[], float]:
    several = tuple(counters)
    return lambda: _sum(map(_value, several))


def _value(metric: Counter | Gauge) -> float:
    """By the library's public way."""
    return float(next(iter(metric.collect())).samples[0].value)


def _buckets(histogram: Histogram) -> list[tuple[float, float]]:
    """Bounds and cumulative counts."""
    samples = next(iter(histogram.collect())).samples
    return [(float(sample.labels["le"]), sample.value) for sample in samples if "le" in sample.labels]


def _sum_of(histogram: Histogram) -> float:
    samples = next(iter(histogram.collect())).samples
    return next(float(sample.value) for sample in samples if sample.name.endswith("_sum"))


def _sum(values: Iterable[float]) -> float:
    return float(sum(values))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
