"""What becomes of an attempt and of an event: the fixed sets of the contract."""

from __future__ import annotations

import enum

import msgspec


class Outcome(enum.IntEnum):
    """State of an event. The number is what the outbox stores; `wire` is the public name."""

    PENDING = 0
    ACKED = 1
    RECEIVED = 2
    SUPERSEDED = 3
    EXPIRED = 4
    DISCARDED = 5

    wire: str

    def __init__(self, _number: int) -> None:
        self.wire = self.name.lower()


class Mode(enum.StrEnum):
    """Whether an attempt is the first sending, or sends what was missed."""

    LIVE = "live"
    REPLAY = "replay"


class MissReason(enum.StrEnum):
    """Why an attempt reached nobody."""

    NEVER_CONNECTED = "never_connected"
    KEY_MISMATCH = "key_mismatch"
    JUST_DISCONNECTED = "just_disconnected"
    DISCONNECTED = "disconnected"
    ACK_TIMEOUT = "ack_timeout"
    QUEUE_FULL = "queue_full"
    SEND_FAILED = "send_failed"


class Attempt(msgspec.Struct, omit_defaults=True):
    """One attempt to emit an event, as the ledger keeps it. Times are milliseconds since the epoch.

    `reason` is None for a sent attempt, which `receipt_at` or `ack_at` confirm. `keys` names, for a
    `key_mismatch`, the bot ids of the same user that had sockets. `sids` are the sockets it was written to.
    """

    at: int
    mode: Mode
    sockets: int = 0
    reason: MissReason | None = None
    receipt_at: int | None = None
    ack_at: int | None = None
    keys: tuple[str, ...] = ()
    sids: tuple[str, ...] = ()
    trace_id: str | None = None
