"""What links count. The names follow the metrics catalogue; who counts is not their business."""

from __future__ import annotations

from typing import Protocol

from roundtrip.events import Payload
from roundtrip.identity import BotKey
from roundtrip.links.snapshot import LinkState
from roundtrip.telemetry.metrics import Metrics


class LinkMetrics(Protocol):
    """Told as things happen, on the event loop; must not raise."""

    def transition(self, to: LinkState, reason: str) -> None:
        """`roundtrip_link_transitions_total`. `reason` is a value of `machine.Reason`."""

    def pairing_seconds(self, seconds: float) -> None:
        """`roundtrip_link_pairing_seconds`: from a link's start to its first connection."""

    def restart(self) -> None:
        """`roundtrip_link_restarts_total`: a session is started again after it ended by itself."""

    def flap(self) -> None:
        """`roundtrip_link_flaps_total`: a connection was lost and had back soon after."""

    def correction(self) -> None:
        """`roundtrip_link_corrections_total`: the library's own word contradicted the believed state."""

    def worker_exit(self, reason: str) -> None:
        """`roundtrip_worker_exits_total`: a worker ended. `reason` is a value of `worker_life.Exit`."""


class NoMetrics:
    """Counts nothing."""

    def transition(self, to: LinkState, reason: str) -> None: ...

    def pairing_seconds(self, seconds: float) -> None: ...

    def restart(self) -> None: ...

    def flap(self) -> None: ...

    def correction(self) -> None: ...

    def worker_exit(self, reason: str) -> None: ...


class Publisher(Protocol):
    """Stores and delivers events."""

    @property
    def full(self) -> bool:
        """Whether no new event would find room now."""

    async def check(self) -> None:
        """Return when an event could be stored now. Raises `StorageError`."""

    async def publish(
        self, key: BotKey, link_id: str, payload: Payload, *, expires_at: int | None, traceparent: str | None
    ) -> object:
        """Return once the event is committed. `expires_at` is in milliseconds since the epoch.

        Raises `StorageError`, and then nothing was stored.
        """


class LinkCounters:
    """Implements `links.meter.LinkMeter` over the catalogue."""

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

    def worker_exit(self, reason: str) -> None:
        self._metrics.worker_exits[reason].inc()
