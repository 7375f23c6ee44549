"""What is kept of a link across restarts."""

from __future__ import annotations

import enum
import uuid

import msgspec

from roundtrip.identity import BotKey
from roundtrip.links.snapshot import LinkState


class Device(enum.StrEnum):
    """What became of the device in the account, once somebody logged out."""

    REMOVING = "removing"
    REMOVED = "removed"
    KEPT = "kept"
    """WhatsApp could not be asked for so long that nothing tries any more: the person has to remove it."""


class LinkRecord(msgspec.Struct, frozen=True):
    """One link. Times are in seconds since the epoch. `link_id` is random and names the store file, so neither a key
    nor a phone number can be read from a path, and no path can be guessed.
    """

    key: BotKey
    link_id: str
    state: LinkState
    since: float
    started_at: float
    phone_number: str | None = None
    display_name: str | None = None
    paired: bool = False
    """The store holds keys that WhatsApp accepted."""
    connected_before: bool = False
    reason_code: str | None = None
    banned_until: float | None = None
    """WhatsApp's own end of a ban, None when it names none."""
    also_linked: bool = False
    """The same WhatsApp account is linked under another key too, as it was told last."""
    retry_at: float | None = None
    """When a banned account is tried again."""
    device: Device | None = None

    @property
    def store_name(self) -> str:
        """Name of the store file in the sessions folder."""
        return store_name(self.link_id)


class Removal(msgspec.Struct, frozen=True):
    """A device that is still to be removed from an account; the keys are kept for as long. Times since the epoch."""

    key: BotKey
    link_id: str
    phone_number: str | None
    since: float
    until: float

    def left(self, now: float) -> float:
        """Seconds that it is still tried, from the wall clock's `now`, which may have been set meanwhile."""
        return min(max(0.0, self.until - now), max(0.0, self.until - self.since))


def store_name(link_id: str) -> str:
    """Name of a link's store file in the sessions folder."""
    return f"{link_id}.db"


def new_record(key: BotKey, now: float) -> LinkRecord:
    """A link that begins now."""
    return LinkRecord(key, uuid.uuid4().hex, LinkState.CONNECTING, now, now)
