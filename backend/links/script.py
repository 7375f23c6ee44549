"""What the simulated phone can be asked to do."""

from __future__ import annotations

import enum
from typing import Protocol, runtime_checkable


class SimulateAction(enum.StrEnum):
    """The first seven are the contract's; the rest play the other rows of WhatsApp's table."""

    SCAN = "scan"
    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"
    LOGOUT = "logout"
    REPLACE = "replace"
    BAN = "ban"
    EXPIRE = "expire"
    DEGRADE = "degrade"
    RESTORE = "restore"
    OUTDATED = "outdated"
    CRASH = "crash"
    HANG = "hang"
    UNREACHABLE = "unreachable"
    CONNECT_FAILURE = "connect_failure"
    STREAM_ERROR = "stream_error"
    FLAP = "flap"
    DIE_SILENTLY = "die_silently"
    """The connection is gone and nobody says so: what the comparison with the truth is for."""


@runtime_checkable
class PlaysPhone(Protocol):
    """A driver with a phone that obeys."""

    async def simulate(self, link_id: str, action: SimulateAction) -> bool:
        """Have the phone do it; False when it cannot in its present state, or the link has no session."""
