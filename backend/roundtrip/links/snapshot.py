"""A link's present state, as the frontend and the API see it."""

from __future__ import annotations

import enum

import msgspec


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


class Snapshot(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What is true now. Optional fields are left out on the wire while they have no value.

    `seq` is the key's newest event, `since`, `expires_at`, `until` and `retry_at` are RFC 3339 UTC. `qr` and
    `pairing_code` are secrets: they go to the key's own user and nowhere else.
    """

    user_id: str
    bot_id: str
    link_id: str | None
    state: LinkState
    seq: int
    since: str
    phone_number: str | None = None
    display_name: str | None = None
    qr: str | None = None
    pairing_code: str | None = None
    expires_at: str | None = None
    index: int | None = None
    total: int | None = None
    reason_code: str | None = None
    retryable: bool | None = None
    user_action: str | None = None
    until: str | None = None
    retry_at: str | None = None
    also_linked_elsewhere: bool | None = None
    device_removed: bool | None = None


def without_codes(snapshot: Snapshot) -> Snapshot:
    """The same, for somebody who may know how a link is but may not pair."""
    return msgspec.structs.replace(snapshot, qr=None, pairing_code=None)
