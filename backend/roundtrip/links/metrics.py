"""What the links count, and how that maps to the metrics catalogue."""

from __future__ import annotations

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
