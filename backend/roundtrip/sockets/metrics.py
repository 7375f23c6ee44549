"""What the socket server counts, and the counters of the metrics catalogue that it moves."""

from __future__ import annotations

from typing import Protocol

from roundtrip.telemetry.metrics import Metrics


class SocketMetrics(Protocol):
    """Implemented by `SocketCounters`, and by the recorders of tests."""

    def connected(self, result: str) -> None:
        """A handshake ended: `accepted`, or a refusal's code."""

    def disconnected(self, reason: str, lifetime: float) -> None:
        """A mapped socket closed after `lifetime` seconds."""

    def step_failed(self) -> None:
        """One step of a periodic task failed for one socket, or a socket's state was asked to change illegally."""

    def packet_refused(self, what: str) -> None:
        """A client broke the protocol, and was closed for it."""


class SocketCounters:
    """`SocketMetrics` over the metrics catalogue."""

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
