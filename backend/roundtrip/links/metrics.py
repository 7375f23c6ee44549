"""What the links count, and how that maps to the metrics catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from roundtrip.links.record import LinkState
from roundtrip.telemetry.metrics import Metrics


class LinkMetrics(Protocol):
    """Called on the event loop when it happens. Must not raise."""

    def transition(self, to: LinkState, reason: str) -> None:
        """`roundtrip_link_transitions_total`. `reason` is a value of `machine.Reason`."""

    def pairing_seconds(self, seconds: float) -> None:
        """`roundtrip_link_pairing_seconds`: from a link's start to its first connection."""

    def restart(self) -> None:
        """`roundtrip_link_restarts_total`: a session is started again after it ended by itself."""

    def flap(self) -> None:
        """`roundtrip_link_flaps_total`: a connection was lost and restored soon after."""

    def correction(self) -> None:
        """`roundtrip_link_corrections_total`: the driver's answer contradicted the recorded state."""


class LinkCounters:
    """`LinkMetrics` over the metrics catalogue."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def transition(self, to: LinkState, reason: str) -> None:
        self._metrics.transition(to, reason)

    def pairing_seconds(self, seconds: float) -> None:
        self._metrics.link_pairing.observe(seconds)

    def restart(self) -> None:
        self._metrics.link_restarts.inc()

    def flap(self) -> None:
        self._metrics.link_flaps.inc()

    def correction(self) -> None:
        self._metrics.link_corrections.inc()


class LinkCounts(Protocol):
    """What the link service knows of its links' numbers. `restoring` has how many a restart interrupted, for how many
    of them the attempt to restore them is over, and whether all are."""

    @property
    def restoring(self) -> tuple[int, int, bool]: ...

    @property
    def crashing(self) -> int: ...

    @property
    def flapping(self) -> int: ...

    def counts(self) -> Mapping[LinkState, int]: ...


def read_links(metrics: Metrics, links: LinkCounts) -> None:
    """Have the gauges of links read from the service when Prometheus scrapes."""
    metrics.presence.links = lambda: {state.value: count for state, count in links.counts().items()}
    metrics.links_restoring.set_function(lambda: links.restoring[0] - links.restoring[1])
    metrics.links_crashing.set_function(lambda: links.crashing)
    metrics.links_flapping.set_function(lambda: links.flapping)
