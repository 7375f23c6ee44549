"""Moves the metrics of sockets."""

from __future__ import annotations

from backend.telemetry.metrics import Metrics


class SocketMeter:
    """Implements `server.Meter` over the catalogue."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def connected(self, result: str) -> None:
        self._metrics.socket_connects[result].inc()

    def disconnected(self, reason: str, lifetime: float) -> None:
        self._metrics.socket_disconnects[reason].inc()
        self._metrics.socket_lifetime.observe(lifetime)

    def packet_refused(self, what: str) -> None:
        self._metrics.packets_refused[what].inc()

    def step_failed(self) -> None:
        self._metrics.task_failures.inc()
