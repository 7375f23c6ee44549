"""What each of neonize's events means, as a report. Pure: the events come in as protobuf messages, by their name.

By name and not by class, so that this file does not load neonize, and with it the Go library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.worker import Refusal

CODES: Final = 6
FIRST_CODE: Final = 60.0
LATER_CODE: Final = 20.0
"""How many codes WhatsApp hands out today, and the seconds that it accepts each."""

_FAILURES: Final = {
    "GENERIC": "400",
    "LOGGED_OUT": "401",
    "TEMP_BANNED": "402",
    "MAIN_DEVICE_GONE": "403",
    "UNKNOWN_LOGOUT": "406",
    "CLIENT_OUTDATED": "405",
    "BAD_USER_AGENT": "409",
    "INTERNAL_SERVER_ERROR": "500",
    "EXPERIMENTAL": "501",
    "SERVICE_UNAVAILABLE": "503",
}
"""neonize numbers whatsmeow's `events.ConnectFailureReason` from 1; these are WhatsApp's own numbers."""

_BANS: Final = {
    "SEND_TO_TOO_MANY_PEOPLE": 101,
    "BLOCKED_BY_USERS": 102,
    "CREATED_TOO_MANY_GROUPS": 103,
    "SENT_TOO_MANY_SAME_MESSAGE": 104,
    "BROADCAST_LIST": 106,
}
"""The same for `events.TempBanReason`."""


def phone_number(user: str) -> str:
    """The phone number in a JID's user part, with a leading plus; a device or agent suffix falls off."""
    digits = user.split(":", 1)[0].split(".", 1)[0]
    return f"+{digits}" if digits.isdigit() else ""


def _name(message: Any, field: str) -> str:
    """The name of an enum field's value."""
    number = getattr(message, field)
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(number)
    return str(value.name) if value is not None else str(number)


def _paired(message: Any) -> d.Report:
    if _name(message, "Status") != "SUCCESS":
        return d.ConnectFailed("pair_error")  # the message's own text may name the account
    return d.PairSucceeded(phone_number(message.ID.User))


def _logged_out(message: Any) -> d.Report:
    # a removal on the phone arrives as a stream error: OnConnect is false then, and the reason is only the default
    return d.LoggedOutByPhone(_FAILURES.get(_name(message, "Reason"), "401") if message.OnConnect else "401")


def _banned(message: Any) -> d.Report:
    name = _name(message, "Code")
    return d.TemporaryBan(_BANS.get(name, 0), float(message.Expire) if message.Expire > 0 else None)


def _refused(message: Any) -> d.Report:
    name = _name(message, "Reason")
    return d.ConnectFailed(_FAILURES.get(name, name))


def _stream_error(message: Any) -> d.Report:
    code = str(message.Code)
    return d.StreamFailed(code if code.isdigit() and len(code) <= 4 else "unknown")


READERS: Final[dict[str, Callable[[Any], d.Report]]] = {
    "PairStatus": _paired,
    "KeepAliveTimeout": lambda _: d.KeepAliveLost(),
    "KeepAliveRestored": lambda _: d.KeepAliveRestored(),
    "LoggedOut": _logged_out,
    "StreamReplaced": lambda _: d.StreamReplaced(),
    "TemporaryBan": _banned,
    "ConnectFailure": _refused,
    "ClientOutdated": lambda _: d.Outdated(),
    "StreamError": _stream_error,
    "Disconnected": lambda _: d.Offline(),
}
"""Every event with a meaning of its own. `Connected` is not here: what it reports has to be asked for first."""

TERMINAL: Final = (
    d.CodesUsedUp,
    d.LoggedOutByPhone,
    d.StreamReplaced,
    d.TemporaryBan,
    d.Outdated,
    d.ConnectFailed,
    d.Unreachable,
)
"""Nothing follows these: the library does not reconnect, so the worker ends."""


_DIAL: Final = "failed to dial"
_HANDSHAKE: Final = "noise handshake failed"
_UNNAMED_BAN: Final = "TemporaryBan.Code not set"
_UNNAMED_REFUSAL: Final = "ConnectFailure.Reason not set"
_CAUSES: Final = (
    "connection refused",
    "no such host",
    "timeout",
    "timed out",
    "certificate",
    "unreachable",
    "reset by peer",
    "cert",
    "decrypt",
    "missing parts",
    "unmarshal",
    "closed",
    "EOF",
)
_BROKEN_STORE: Final = ("file is not a database", "malformed")
_NOBODY: Final = Refusal(None, None, None)


def of_error(text: str, refusal: Refusal | None = None) -> d.Unreachable | d.ConnectFailed | d.TemporaryBan:
    """What an error means that ended the library's connection task. The text itself stays here: it names addresses.

    `refusal` is what the library logged before: a number that neonize does not know ends the task with "required
    field … not set". An error of no known kind says nothing about the account, so it is no refusal.
    """
    said = refusal or _NOBODY
    if _UNNAMED_BAN in text:
        return d.TemporaryBan(said.code or 0, float(said.expire) if said.expire else None)
    if _UNNAMED_REFUSAL in text:
        return d.ConnectFailed(str(said.reason) if said.reason else "unknown")
    if any(word in text for word in _BROKEN_STORE):
        return d.ConnectFailed("store_unreadable")
    if "proxy scheme" in text:
        return d.ConnectFailed("proxy_unsupported")
    cause = next((cause for cause in _CAUSES if cause in text), "no connection")
    if _DIAL in text:
        return d.Unreachable(f"the dial failed: {cause}", d.ConnectStage.DIAL)
    if _HANDSHAKE in text:
        return d.Unreachable(f"the Noise handshake failed: {cause}", d.ConnectStage.HANDSHAKE)
    return d.Unreachable("the library ended with an error of no known kind", d.ConnectStage.UNKNOWN)


def code_ttl(left: int) -> float:
    """Seconds that whatsmeow shows a code while `left` are left, itself included: `qrchan.go` gives more time to the
    first of six, which is what WhatsApp hands out today, and tells it by how many are left."""
    return FIRST_CODE if left == CODES else LATER_CODE


def codes_life(total: int) -> float:
    """Seconds until all codes of a pairing are used up, and the library hangs up."""
    return sum(code_ttl(left) for left in range(1, total + 1))
