"""How a link looks from outside: its events' payloads, its snapshot, and its line among the operator's links."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from backend import events as e
from backend.events import EventType, Payload
from backend.identity import BotKey
from backend.links import driver as d
from backend.links import reasons
from backend.links.clock import rfc3339
from backend.links.driver import Report
from backend.links.machine import Input
from backend.links.record import LinkRecord
from backend.links.snapshot import LinkState, Snapshot
from backend.telemetry import redaction


class Code(msgspec.Struct, frozen=True):
    """The secret that is on the screen now. `ends` is in seconds since the epoch."""

    ends: float
    qr: str | None = None
    pairing_code: str | None = None
    index: int | None = None
    total: int | None = None


_NO_CODE: Final = Code(0.0)


class LinkView(msgspec.Struct, frozen=True, rename="camel"):
    """One link for the operator's eyes; the phone number is masked."""

    link_id: str
    user_id: str
    bot_id: str
    state: LinkState
    since: str
    restarts: int
    flaps: int
    worker_pid: int | None
    phone_number: str | None
    reason_code: str | None
    flapping: bool
    waiting: int
    """Reports that were not taken up yet."""
    stalled: bool
    """Whether it waits for the outbox to store its next event."""


class Workings(Protocol):
    """What a link tells the operator beside its record."""

    @property
    def restarts(self) -> int: ...
    @property
    def worker_pid(self) -> int | None: ...
    @property
    def flaps(self) -> int: ...
    @property
    def flapping(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    @property
    def stalled(self) -> bool: ...


_OWN_CODES: Final = {
    Input.OFFLINE: "connection_lost",
    Input.GRACE_OVER: "connection_lost",
    Input.FOUND_OFFLINE: "connection_lost",
    Input.CALM_OFFLINE: "connection_lost",
    Input.REPLACED: "replaced",
    Input.OUTDATED: "client_outdated",
    Input.CONNECT_FAILED: "connect_failure",
    Input.WORKER_CRASHES: "worker_crashed",
    Input.UNREACHABLE_FOR_GOOD: "unreachable",
    Input.UNREACHABLE_FOR_LONG: "unreachable",
    Input.PAIRING_INCOMPLETE: "pairing_incomplete",
    Input.STORE_MISSING: "store_missing",
    Input.STORE_CORRUPT: "store_corrupt",
    Input.FLAPPING: "flapping",
}


def reason_code(cause: Input, report: Report | None, paired: bool) -> str | None:
    """The public reason code of what happened, None where nothing failed."""
    if isinstance(report, d.LoggedOutByPhone):
        return reasons.of_logout(report.reason)
    if isinstance(report, d.TemporaryBan):
        return reasons.of_ban(report.code)
    if cause is Input.LOGOUT:
        return "requested" if paired else "cancelled"
    if isinstance(report, d.ConnectFailed) and report.reason == "pairing_code_refused":
        return report.reason
    return _OWN_CODES.get(cause)


def code_of(report: Report | None, now: float) -> Code | None:
    """The secret that a report brings."""
    if isinstance(report, d.QrShown):
        return Code(now + report.ttl, qr=report.qr, index=report.index, total=report.total)
    if isinstance(report, d.PairingCodeShown):
        return Code(now + report.ttl, pairing_code=report.code)
    return None


def payload(says: EventType, record: LinkRecord, code: Code | None, first: bool) -> Payload:
    """The payload of an event about `record`, which is the link as it will be."""
    if code is not None and code.qr is not None and says is EventType.QR:
        return e.Qr(code.qr, code.index or 1, code.total or 1, rfc3339(code.ends))
    if code is not None and code.pairing_code is not None and says is EventType.PAIRING_CODE:
        return e.PairingCode(code.pairing_code, rfc3339(code.ends))
    if says is EventType.PAIRED:
        return e.Paired(record.phone_number or "")
    if says is EventType.CONNECTED:
        return e.Connected(record.phone_number or "", record.display_name or "", first)
    kind = e.PAYLOADS[says]
    if not issubclass(kind, e.Failure):
        return kind()
    reason = record.reason_code or "internal_error"
    advice = reasons.ADVICE[reason]
    if kind is e.Banned:
        until = None if record.banned_until is None else rfc3339(record.banned_until)
        return e.Banned(reason, advice.retryable, advice.user_action, until)
    return kind(reason, advice.retryable, advice.user_action)


def snapshot(key: BotKey, record: LinkRecord | None, code: Code | None, now: float, duplicate: bool) -> Snapshot:
    """What is true now; `seq` is left at 0 for the caller to fill in."""
    if record is None:
        return Snapshot(key.user_id, key.bot_id, None, LinkState.IDLE, 0, rfc3339(now))
    reason = record.reason_code
    if reason is None and duplicate:
        reason = "also_linked_elsewhere"
    advice = None if reason is None else reasons.ADVICE.get(reason)
    shown = code if code is not None and code.ends > now else _NO_CODE  # one that ended opens nothing
    until = record.banned_until if record.state is LinkState.BANNED else None
    return Snapshot(
        key.user_id,
        key.bot_id,
        record.link_id,
        record.state,
        0,
        rfc3339(record.since),
        phone_number=record.phone_number,
        display_name=record.display_name,
        qr=shown.qr,
        pairing_code=shown.pairing_code,
        expires_at=None if shown is _NO_CODE else rfc3339(shown.ends),
        index=shown.index,
        total=shown.total,
        reason_code=reason,
        retryable=advice and advice.retryable,
        user_action=advice and advice.user_action,
        until=None if until is None else rfc3339(until),
    )


def view(record: LinkRecord, workings: Workings) -> LinkView:
    """One link as the operator sees it."""
    return LinkView(
        record.link_id,
        record.key.user_id,
        record.key.bot_id,
        record.state,
        rfc3339(record.since),
        workings.restarts,
        workings.flaps,
        workings.worker_pid,
        None if record.phone_number is None else redaction.mask_phone(record.phone_number),
        record.reason_code,
        workings.flapping,
        workings.waiting,
        workings.stalled,
    )
