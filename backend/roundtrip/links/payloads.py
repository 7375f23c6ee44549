"""How a link looks from outside: its events' payloads, its snapshot, and its line among the operator's links."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from roundtrip import events as e
from roundtrip.clock import rfc3339
from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report
from roundtrip.events import EventType, Payload
from roundtrip.identity import BotKey
from roundtrip.links import reasons
from roundtrip.links.machine import LIVE, Input
from roundtrip.links.record import Device, LinkRecord
from roundtrip.links.snapshot import LinkState, Snapshot
from roundtrip.telemetry import redaction


class Code(msgspec.Struct, frozen=True):
    """The secret that is on the screen now. `ends` is in seconds since the epoch, `ttl` from when it came, `over` on
    the monotonic clock.
    """

    ends: float
    ttl: float
    over: float
    qr: str | None = None
    pairing_code: str | None = None
    index: int | None = None
    total: int | None = None


_NO_CODE: Final = Code(0.0, 0.0, 0.0)


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
    deadlines: tuple[str, ...] = ()
    """What it waits for, beside its session."""
    retry_at: str | None = None
    """When a banned account is tried again."""
    also_linked_elsewhere: bool = False


class LinkInternals(Protocol):
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
    @property
    def deadlines(self) -> tuple[str, ...]: ...
    @property
    def shared(self) -> bool: ...


_OWN_CODES: Final = {
    Input.OFFLINE: "connection_lost",
    Input.GRACE_OVER: "connection_lost",
    Input.FOUND_OFFLINE: "connection_lost",
    Input.CALM_OFFLINE: "connection_lost",
    Input.KEEPALIVE_LOST: "keepalive_lost",
    Input.CALM_AILING: "keepalive_lost",
    Input.REPLACED: "replaced",
    Input.OUTDATED: "client_outdated",
    Input.CONNECT_FAILED: "connect_failure",
    Input.REFUSED: "connect_failure",
    Input.WORKER_CRASHES: "worker_crashed",
    Input.WORKER_KEEPS_DYING: "worker_crashed",
    Input.UNREACHED: "unreachable",
    Input.UNREACHABLE_FOR_LONG: "unreachable",
    Input.PATIENCE_OVER: "unreachable",
    Input.KEYS_REJECTED: "store_missing",
    Input.DEVICE_REMOVED: "requested",
    Input.DEVICE_KEPT: "requested",
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
    if isinstance(report, d.ConnectFailed) and report.reason == "429" and cause is Input.REFUSED:
        return "rate_limited"
    return _OWN_CODES.get(cause)


def code_of(report: Report | None, now: float, monotonic: float) -> Code | None:
    """The secret that a report brings."""
    if isinstance(report, d.QrShown):
        over = monotonic + report.ttl
        return Code(now + report.ttl, report.ttl, over, qr=report.qr, index=report.index, total=report.total)
    if isinstance(report, d.PairingCodeShown):
        return Code(now + report.ttl, report.ttl, monotonic + report.ttl, pairing_code=report.code)
    return None


_GONE_BY_ITSELF: Final = frozenset({"device_removed"})


def _device_removed(record: LinkRecord) -> bool | None:
    if record.state is not LinkState.LOGGED_OUT:
        return None
    if record.reason_code in _GONE_BY_ITSELF:
        return True
    return None if record.device is None else record.device is Device.REMOVED


def _advice(record: LinkRecord, reason: str) -> reasons.Advice:
    return reasons.advice(reason, goes_on=record.state in LIVE, device=record.device)


def payload(says: EventType, record: LinkRecord, code: Code | None, first: bool) -> Payload:
    """The payload of an event about `record`, which is the link as it will be."""
    if code is not None and code.qr is not None and says is EventType.QR:
        return e.Qr(code.qr, code.index or 1, code.total or 1, rfc3339(code.ends))
    if code is not None and code.pairing_code is not None and says is EventType.PAIRING_CODE:
        return e.PairingCode(code.pairing_code, rfc3339(code.ends))
    if says is EventType.CONNECTING:
        return e.Connecting(record.also_linked)
    if says is EventType.PAIRED:
        return e.Paired(record.phone_number or "")
    if says is EventType.CONNECTED:
        return e.Connected(record.phone_number or "", record.display_name or "", first, record.also_linked)
    kind = e.PAYLOADS[says]
    if not issubclass(kind, e.Failure):
        return kind()
    reason = record.reason_code or "internal_error"
    advice = _advice(record, reason)
    if kind is e.Banned:
        until = None if record.banned_until is None else rfc3339(record.banned_until)
        retry_at = None if record.retry_at is None else rfc3339(record.retry_at)
        return e.Banned(reason, advice.retryable, advice.user_action, until, retry_at)
    if kind is e.LoggedOut:
        return e.LoggedOut(reason, advice.retryable, advice.user_action, _device_removed(record))
    return kind(reason, advice.retryable, advice.user_action)


def snapshot(
    key: BotKey, record: LinkRecord | None, code: Code | None, now: float, monotonic: float, *, shared: bool
) -> Snapshot:
    """What is true now; `seq` is left at 0 for the caller to fill in. `shared`: another key has the same account."""
    if record is None:
        return Snapshot(key.user_id, key.bot_id, None, LinkState.IDLE, 0, rfc3339(now))
    reason = record.reason_code
    if reason is None and shared:
        reason = "also_linked_elsewhere"
    advice = _advice(record, reason) if reason is not None and reason in reasons.ADVICE else None
    shown = code if code is not None and code.over > monotonic else _NO_CODE  # one that ended opens nothing
    banned = record.state is LinkState.BANNED
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
        until=rfc3339(record.banned_until) if banned and record.banned_until is not None else None,
        retry_at=rfc3339(record.retry_at) if banned and record.retry_at is not None else None,
        also_linked_elsewhere=shared or None,
        device_removed=_device_removed(record),
    )


def view(record: LinkRecord, workings: LinkInternals) -> LinkView:
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
        workings.deadlines,
        rfc3339(record.retry_at) if record.state is LinkState.BANNED and record.retry_at is not None else None,
        workings.shared,
    )
