"""Why a link is not connected, and why a command on it is refused.

One table has the public reason codes, whether to retry, and what the user should do; `LinkError` has the refusals.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from roundtrip.errors import RoundtripError
from roundtrip.links.record import DeviceState


class Advice(NamedTuple):
    """What a failure's event and the snapshot carry beside the reason code."""

    retryable: bool
    user_action: str


class LinkError(RoundtripError):
    """A refused command on a link; `retry_after` is in seconds.

    Codes: `phone_number_invalid`, `outbox_full`, `outbox_unavailable`, `store_unavailable`, `client_outdated`,
    `banned`, `another_number_linked`, `too_many_links`, `shutting_down`, `not_simulated`, `link_not_found`,
    `action_impossible`.
    """


_AGAIN: Final = "Press “Link WhatsApp” to link this account again."
_AUTOMATIC: Final = "Nothing to do: this is retried automatically."
_ON_THE_PHONE: Final = "on the phone, under “Linked devices”"

ADVICE: Final[dict[str, Advice]] = {
    # degraded
    "keepalive_lost": Advice(
        True, "Nothing to do: the connection to WhatsApp does not respond; it is being restored automatically."
    ),
    "flapping": Advice(True, "The connection to WhatsApp is unstable. Check the phone's and the server's network."),
    # disconnected
    "connection_lost": Advice(True, "Nothing to do: the connection to WhatsApp is being restored automatically."),
    "unreachable": Advice(True, "WhatsApp could not be reached. Check the network and the proxy; try again later."),
    "rate_limited": Advice(
        True, f"{_AUTOMATIC} WhatsApp limits the request rate; the next attempt follows in a few minutes."
    ),
    # logged out
    "requested": Advice(True, f"You logged out. {_AGAIN} If the phone still lists this device, remove it there."),
    "cancelled": Advice(True, f"Linking was cancelled. {_AGAIN}"),
    "device_removed": Advice(True, f"This device was removed on the phone. {_AGAIN}"),
    "primary_device_gone": Advice(True, "Open WhatsApp on the phone, check that the account works, then link again."),
    "account_banned": Advice(
        False,
        "WhatsApp blocked this account. Open WhatsApp on the phone: it shows the reason, and how to request a review.",
    ),
    "logged_out_by_whatsapp": Advice(True, f"WhatsApp ended this session. {_AGAIN}"),
    # replaced
    "replaced": Advice(
        True,
        "The same session runs somewhere else. Stop it there, then press “Link WhatsApp” to take it over.",
    ),
    # banned
    "banned": Advice(False, "WhatsApp blocked this account temporarily. Wait until the block ends."),
    "banned_too_many_people": Advice(
        False,
        "WhatsApp blocked this account: too many messages to people who do not know it. Wait until the block ends.",
    ),
    "banned_blocked_by_users": Advice(
        False, "WhatsApp blocked this account: too many users blocked it. Wait until the block ends."
    ),
    "banned_too_many_groups": Advice(
        False, "WhatsApp blocked this account: it created too many groups. Wait until the block ends."
    ),
    "banned_same_messages": Advice(
        False, "WhatsApp blocked this account: it sent the same message too often. Wait until the block ends."
    ),
    "banned_broadcast_lists": Advice(
        False, "WhatsApp blocked this account: too many messages to broadcast lists. Wait until the block ends."
    ),
    # client outdated
    "client_outdated": Advice(False, "WhatsApp no longer accepts this version. The operator has to update the server."),
    # failed
    "connect_failure": Advice(True, f"WhatsApp refused the connection. Wait a few minutes. {_AGAIN}"),
    "pairing_code_refused": Advice(
        True,
        "WhatsApp issued no pairing code for this number. Check the number, wait a few minutes, or scan a QR code.",
    ),
    "worker_crashed": Advice(True, f"The connection's process failed repeatedly. {_AGAIN}"),
    "session_crashes": Advice(
        True, f"This account makes its connection's process fail; it is retried once an hour. To retry now: {_AGAIN}"
    ),
    "pairing_incomplete": Advice(True, f"The phone accepted, but WhatsApp did not complete the login. {_AGAIN}"),
    "store_missing": Advice(True, f"This account's keys are no longer on the server. {_AGAIN}"),
    "store_corrupt": Advice(True, f"This account's keys on the server cannot be read. {_AGAIN}"),
    "internal_error": Advice(True, f"An internal error occurred on the server. {_AGAIN}"),
    # on the snapshot only
    "also_linked_elsewhere": Advice(
        True,
        "The same WhatsApp account is linked under another bot too. WhatsApp allows few devices: linking it once more "
        "may unlink one of them. Log one of them out if this is not intended.",
    ),
}
"""Reason codes are public: they are never renamed, new ones may come."""

RETRYING_ADVICE: Final[dict[str, Advice]] = {
    "unreachable": Advice(
        True, f"{_AUTOMATIC} WhatsApp cannot be reached; if this persists, check the network and the proxy."
    ),
    "connect_failure": Advice(True, f"{_AUTOMATIC} WhatsApp refuses the connection at the moment."),
    "worker_crashed": Advice(True, f"{_AUTOMATIC} The connection's process failed repeatedly."),
    "pairing_incomplete": Advice(
        True, f"{_AUTOMATIC} The phone accepted, but WhatsApp has not completed the login yet."
    ),
}
"""In place of `ADVICE` while the backend retries the link without the user."""

DEVICE_ADVICE: Final[dict[DeviceState, Advice]] = {
    DeviceState.REMOVED: Advice(True, f"You logged out, and the device was removed from the account. {_AGAIN}"),
    DeviceState.REMOVING: Advice(
        True,
        "You logged out. WhatsApp could not be reached to remove this device yet; this is retried for a day. "
        f"To be sure, remove it {_ON_THE_PHONE}.",
    ),
    DeviceState.KEPT: Advice(
        True,
        "You logged out, but WhatsApp could not be reached to remove this device. "
        f"If it is still listed {_ON_THE_PHONE}, remove it there.",
    ),
}
"""In place of `ADVICE` for `requested`: by whether the device is still listed in the account."""


def advice(code: str, *, retrying: bool, device: DeviceState | None) -> Advice:
    """The advice for a code of `ADVICE`. `retrying`: the backend retries the link without the user."""
    if code == "requested" and device is not None:
        return DEVICE_ADVICE[device]
    return RETRYING_ADVICE.get(code, ADVICE[code]) if retrying else ADVICE[code]


_LOGOUTS: Final = {"401": "device_removed", "403": "primary_device_gone", "406": "account_banned"}
"""WhatsApp's numbers, as in whatsmeow's `events.ConnectFailureReason`; all others have one general code."""

_BANS: Final = {
    101: "banned_too_many_people",
    102: "banned_blocked_by_users",
    103: "banned_too_many_groups",
    104: "banned_same_messages",
    106: "banned_broadcast_lists",
}
"""WhatsApp's numbers, as in whatsmeow's `events.TempBanReason`."""


def logout_reason(number: str) -> str:
    """The reason code for the number that WhatsApp gives with a logout."""
    return _LOGOUTS.get(number, "logged_out_by_whatsapp")


def ban_reason(number: int) -> str:
    """The reason code for the number that WhatsApp gives with a ban."""
    return _BANS.get(number, "banned")
