"""What is kept of a link across restarts."""

from __future__ import annotations

import uuid

import msgspec

from backend.identity import BotKey
from backend.links.snapshot import LinkState


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
    also_linked: bool = False
    """The same WhatsApp account was already linked under another key when this one connected."""

    @property
    def store_name(self) -> str:
        """Name of the store file in the sessions folder."""
        return f"{self.link_id}.db"


def new_record(key: BotKey, now: float, banned_until: float | None = None) -> LinkRecord:
    """A link that begins now."""
    return LinkRecord(key, uuid.uuid4().hex, LinkState.CONNECTING, now, now, banned_until=banned_until)
