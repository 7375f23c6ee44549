"""What is stored of a link across restarts: its state and its account, and a device that is still to be removed."""

from __future__ import annotations

import enum
import uuid

import msgspec

from roundtrip.identity import BotKey


class LinkState(enum.StrEnum):
    """The states of the contract."""

    IDLE = "idle"
    CONNECTING = "connecting"
    QR = "qr"
    PAIRING_CODE = "pairing_code"
    PAIRED = "paired"
    CONNECTED = "connected"
    DEGRADED = "degraded"
    DISCONNECTED = "disconnected"
    QR_EXPIRED = "qr_expired"
    LOGGED_OUT = "logged_out"
    REPLACED = "replaced"
    BANNED = "banned"
    CLIENT_OUTDATED = "client_outdated"
    FAILED = "failed"


class DeviceState(enum.StrEnum):
    """After a logout: whether the device is still listed in the WhatsApp account. The values are stored."""

    REMOVING = "removing"
    REMOVED = "removed"
    KEPT = "kept"
    """It could not be removed within `removal_period`, and is not tried any more: the user has to remove it."""


class LinkRecord(msgspec.Struct, frozen=True):
    """One link. Times are in seconds since the epoch. `link_id` is random and names the key file, so that a path
    contains neither a key nor a phone number, and cannot be guessed.
    """

    key: BotKey
    link_id: str
    state: LinkState
    since: float
    """When `state` was entered."""
    started_at: float
    """When the link was asked for."""
    phone_number: str | None = None
    display_name: str | None = None
    paired: bool = False
    """The key file holds keys that WhatsApp accepted."""
    connected_before: bool = False
    reason_code: str | None = None
    """One of `reasons.ADVICE`."""
    banned_until: float | None = None
    """End of a ban as WhatsApp named it, None when it named none."""
    also_linked: bool = False
    """The newest event reported that the same WhatsApp account is linked under another key too."""
    retry_at: float | None = None
    """When a banned account is tried again."""
    device: DeviceState | None = None

    @property
    def crashes(self) -> bool:
        """Whether its session brought its worker down again and again, and is not started with others any more."""
        return self.reason_code == "session_crashes"

    @property
    def store_name(self) -> str:
        """Name of the key file in the sessions folder."""
        return store_name(self.link_id)


class Removal(msgspec.Struct, frozen=True):
    """A device that is to be removed from its account between `since` and `until`, in seconds since the epoch. Its keys
    are not deleted before that.
    """

    key: BotKey
    link_id: str
    phone_number: str | None
    since: float
    until: float

    def remaining(self, now: float) -> float:
        """Seconds until it is given up. `now` is the wall clock's, which may have been set since: the result is never
        longer than the whole period.
        """
        return min(max(0.0, self.until - now), max(0.0, self.until - self.since))


def store_name(link_id: str) -> str:
    """Name of a link's key file in the sessions folder."""
    return f"{link_id}.db"


def new_record(key: BotKey, now: float) -> LinkRecord:
    """The record of a link that begins at `now`."""
    return LinkRecord(key, uuid.uuid4().hex, LinkState.CONNECTING, now, now)
