"""What the library reports, as `drivers.base` reports: its events, the error that ends its connection, its log lines.

Pure: events come in as protobuf messages and by name, not by class, so that this module does not load neonize, and with
it the Go library.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from roundtrip.drivers import base as d

CODES: Final = 6
FIRST_CODE_TTL: Final = 60.0
LATER_CODE_TTL: Final = 20.0
"""How many codes WhatsApp gives out today, and the seconds for which it accepts each."""

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
    """The phone number in a JID's user part, with a leading plus and without a device or agent suffix; "" when it holds
    none."""
    digits = user.split(":", 1)[0].split(".", 1)[0]
    return f"+{digits}" if digits.isdigit() else ""


def _name(message: Any, field: str) -> str:
    """The name of an enum field's value."""
    number = getattr(message, field)
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(number)
    return str(value.name) if value is not None else str(number)


def _pair_status(message: Any) -> d.Report:
    if _name(message, "Status") != "SUCCESS":
        return d.ConnectFailed("pair_error")  # without the message's text: it may name the account
    return d.PairSucceeded(phone_number(message.ID.User))


def _logged_out(message: Any) -> d.Report:
    # after a removal on the phone, which arrives as a stream error, OnConnect is false and Reason only a default
    return d.LoggedOutByPhone(_FAILURES.get(_name(message, "Reason"), "401") if message.OnConnect else "401")


def _temporary_ban(message: Any) -> d.Report:
    name = _name(message, "Code")
    return d.TemporaryBan(_BANS.get(name, 0), float(message.Expire) if message.Expire > 0 else None)


def _connect_failure(message: Any) -> d.Report:
    name = _name(message, "Reason")
    return d.ConnectFailed(_FAILURES.get(name, name))


def _stream_error(message: Any) -> d.Report:
    code = str(message.Code)
    return d.StreamFailed(code if code.isdigit() and len(code) <= 4 else "unknown")


READERS: Final[dict[str, Callable[[Any], d.Report]]] = {
    "PairStatus": _pair_status,
    "KeepAliveTimeout": lambda _: d.KeepAliveLost(),
    "KeepAliveRestored": lambda _: d.KeepAliveRestored(),
    "LoggedOut": _logged_out,
    "StreamReplaced": lambda _: d.StreamReplaced(),
    "TemporaryBan": _temporary_ban,
    "ConnectFailure": _connect_failure,
    "ClientOutdated": lambda _: d.Outdated(),
    "StreamError": _stream_error,
    "Disconnected": lambda _: d.Offline(),
}
"""Event name → report. `Connected` is missing: what it reports has to be queried first."""

TERMINAL: Final = (
    d.CodesUsedUp,
    d.LoggedOutByPhone,
    d.StreamReplaced,
    d.TemporaryBan,
    d.Outdated,
    d.ConnectFailed,
    d.Unreachable,
)
"""Nothing follows these: the library does not reconnect, so the worker exits."""


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


class Refusal(NamedTuple):
    """The numbers in a `failure` of WhatsApp's; None for one that is missing. `expire` is in seconds."""

    reason: int | None
    code: int | None
    expire: int | None


_NO_REFUSAL: Final = Refusal(None, None, None)


def error_report(text: str, refusal: Refusal | None = None) -> d.Unreachable | d.ConnectFailed | d.TemporaryBan:
    """The report for the error that ended the library's connection task. It holds none of `text`, which names
    addresses.

    `refusal` is what the library logged before: a number that neonize does not know ends the task with "required
    field … not set". An error of no known kind is no refusal: it implies nothing about the account.
    """
    numbers = refusal or _NO_REFUSAL
    if _UNNAMED_BAN in text:
        return d.TemporaryBan(numbers.code or 0, float(numbers.expire) if numbers.expire else None)
    if _UNNAMED_REFUSAL in text:
        return d.ConnectFailed(str(numbers.reason) if numbers.reason else "unknown")
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
    first of six, which is what WhatsApp gives out today, and recognizes it by how many are left."""
    return FIRST_CODE_TTL if left == CODES else LATER_CODE_TTL


def codes_ttl(total: int) -> float:
    """Seconds until all codes of a pairing are used up, and the library disconnects."""
    return sum(code_ttl(left) for left in range(1, total + 1))


_REFUSED: Final = re.compile(rb"connect failure: <failure ([^>]*)>")
_ATTRIBUTE: Final = re.compile(rb'\b(reason|code|expire)="(\d{1,9})"')
_CODES: Final = b"<pair-device>"
_CODE: Final = b"<ref>"
_RAN_OUT: Final = b"Ran out of QR codes"
_LOST: Final = b"Failed to reconnect after 515 code: "
_LOST_LIMIT: Final = 2048
_LOGIN_DUE: Final = b"Got 515 code"


class LibraryLog:
    """What only the library's log holds: refusals by number, how many codes there are, and how they ended.

    `on_lost` is called with the library's error, in whatever thread it comes, when the reconnect failed that follows a
    515 (after a scan, or when WhatsApp asks for it): the library tries once and raises no event.
    """

    def __init__(self, on_lost: Callable[[str], None], on_login_due: Callable[[], None] = lambda: None) -> None:
        """`on_login_due` is called, in the library's thread, before the library connects again after a pairing."""
        self._on_lost = on_lost
        self._on_login_due = on_login_due
        self.codes: int | None = None
        """How many codes WhatsApp gave out for this pairing."""
        self.ran_out = False
        """Whether the last code was shown until it expired."""
        self.refusal: Refusal | None = None
        """The last one, ban or not."""

    def feed(self, entry: bytes) -> None:
        """One line, as neonize passes it on."""
        if (refused := _REFUSED.search(entry)) is not None:
            found = {name: int(digits) for name, digits in _ATTRIBUTE.findall(refused[1])}
            self.refusal = Refusal(found.get(b"reason"), found.get(b"code"), found.get(b"expire"))
        elif _CODES in entry:
            self.codes = entry.count(_CODE) or None
        elif _RAN_OUT in entry:
            self.ran_out = True
        elif _LOGIN_DUE in entry:
            self._on_login_due()
        elif (at := entry.find(_LOST)) >= 0:
            self._on_lost(entry[at + len(_LOST) :][:_LOST_LIMIT].decode(errors="replace"))


class CodeSequence:
    """Counts the codes of one pairing. Times are in seconds on the event loop's clock."""

    def __init__(self, log: LibraryLog) -> None:
        self._log = log
        self._index = 0
        self._expires = 0.0

    def next(self, now: float) -> tuple[int, int, float]:
        """A new code is shown. Returns its index from 1, how many there are as far as is known, and its seconds."""
        self._index += 1
        total = self._total()
        ttl = code_ttl(total - self._index + 1)
        self._expires = now + ttl
        return self._index, total, ttl

    def used_up(self, now: float) -> bool:
        """Whether the last code has expired."""
        return now > self._expires and self._index == self._total()

    def _total(self) -> int:
        return max(self._log.codes or CODES, self._index)
