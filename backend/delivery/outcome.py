"""What becomes of an attempt and of an event: the fixed sets of the contract."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

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
    `key_mismatch`, the bot ids of the same user that had sockets. `sids` are the sockets it was written to, of many
    only the first. `omitted` is how many attempts between this one and the next are not kept.
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
    omitted: int = 0

    def move(self, ms: int) -> None:
        """The clock was set by so much: tell its times by the new one."""
        self.at += ms
        if self.receipt_at is not None:
            self.receipt_at += ms
        if self.ack_at is not None:
            self.ack_at += ms


FIRST_KEPT: Final = 3
LAST_KEPT: Final = 7
"""Attempts of one event that are kept: what went wrong first, what is wrong now. A client that comes and goes for a day
makes thousands between."""


def shorten(attempts: list[Attempt]) -> None:
    """Leave out the middle of too many attempts, and say how many that were."""
    while len(attempts) > FIRST_KEPT + LAST_KEPT:
        gone = attempts.pop(FIRST_KEPT)
        attempts[FIRST_KEPT - 1].omitted += 1 + gone.omitted


def omitted(attempts: Iterable[Attempt]) -> int:
    """How many attempts are left out of a list."""
    return sum(attempt.omitted for attempt in attempts)
