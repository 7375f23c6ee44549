"""What links count. The names follow the metrics catalogue; who counts is not their business."""

from __future__ import annotations

from typing import Protocol

from backend.links.snapshot import LinkState


class LinkMeter(Protocol):
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


class NoMeter:
    """Counts nothing."""

    def transition(self, to: LinkState, reason: str) -> None: ...

    def pairing_seconds(self, seconds: float) -> None: ...

    def restart(self) -> None: ...

    def flap(self) -> None: ...

    def correction(self) -> None: ...

    def worker_exit(self, reason: str) -> None: ...
