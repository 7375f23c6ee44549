"""Who takes part, what may be published, and the branches that a run must have been to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import strategies as st

from roundtrip.events import Connected, Connecting, Degraded, Paired, Payload, Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from tests.support.memory_client import MemoryClient

KEYS: Final = (BotKey("ada", "1"), BotKey("ada", "2"), BotKey("bob", "1"))
TTL: Final = 60.0
QR_LIFE: Final = 12.0
GRACE: Final = 10.0
QUEUE: Final = 16_384
"""Bytes that a slow client may leave unread: some forty events."""

HEARTBEAT: Final = 20.0
"""Seconds after which a client that says nothing is certainly gone: interval, timeout, and a sweep."""

PAYLOADS: Final[dict[str, Payload]] = {
    "connected": Connected("+15550100", "Ada", False),
    "connecting": Connecting(),
    "degraded": Degraded(),
    "paired": Paired("+15550100"),
    "qr": Qr("2@secret", 1, 6, "2026-01-01T00:00:00.000Z"),
}

BRANCHES: Final = frozenset(
    {
        "acked", "received", "superseded", "expired", "late ack upgrade",
        "retry", "replay", "replay with held-back events", "backlog overflow", "replay waits for a slow reader",
        "queue full", "ack timeout", "just disconnected", "disconnected", "never connected", "key mismatch",
        "outage", "refused while down", "kept write", "kept ack whose event's time was up",
        "restart with pending", "crash with pending", "clock forward", "clock back",
        "ping timeout", "identity changed", "upgraded", "polling", "several sockets of a key",
        "token told", "token ended", "token renewed",
    }
)  # fmt: skip
"""What a run must have been to."""

MISS: Final = {
    MissReason.QUEUE_FULL: "queue full",
    MissReason.ACK_TIMEOUT: "ack timeout",
    MissReason.JUST_DISCONNECTED: "just disconnected",
    MissReason.DISCONNECTED: "disconnected",
    MissReason.NEVER_CONNECTED: "never connected",
    MissReason.KEY_MISMATCH: "key mismatch",
}
OUTCOME: Final = {
    Outcome.ACKED: "acked",
    Outcome.RECEIVED: "received",
    Outcome.SUPERSEDED: "superseded",
    Outcome.EXPIRED: "expired",
}

PAUSE: Final = 1.0
"""Seconds for which somebody who reads slowly may leave an event unread and yet count as well-behaved."""

WAYS_OUT: Final = ("hang_up", "reset", "close_engine", "close_frame", "leave", "vanish")

pick = st.integers(0, 3)


@dataclass
class Person:
    """One client and what it did: only somebody who did nothing odd must see everything and stay."""

    client: MemoryClient
    key: BotKey
    acks: bool
    token_end: float | None
    odd: bool = False
    """It read slowly, kept its answers back, or went away: the server may end it, and it may have a gap."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Events since it last said who it is."""

    newest: int = 0
    """The greatest `seq` among them."""

    @property
    def here(self) -> bool:
        return self.client.connected and not self.client.vanished and not self.client.closed

    @property
    def silent(self) -> bool:
        """It does not answer, so that the server may have given it up without its knowing."""
        return self.client.vanished or self.client.slow or not self.client.pongs
