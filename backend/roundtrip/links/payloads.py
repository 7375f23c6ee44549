"""How a link is shown outside this package: the payloads of its events, its snapshot, and its line for the operator."""

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
from roundtrip.links.record import DeviceState, LinkRecord, LinkState
from roundtrip.telemetry import redaction


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
    stale: bool = False
    """The store is away: this is what was true last, and there may be news that nobody can tell yet. Else left out."""


class LinkView(msgspec.Struct, frozen=True, rename="camel"):
    """One link for the operator; the phone number is masked."""

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
    """Reports in the link's queue."""
    stalled: bool
    """Whether it waits for the outbox to store its next event."""
    deadlines: tuple[str, ...] = ()
    """Names of its armed timers."""
    retry_at: str | None = None
    """When a banned account is tried again."""
    also_linked_elsewhere: bool = False
    worker_id: str | None = None
    """The worker process that its session is in, as logs and traces name it."""
    owner: str | None = None
    """The node that has it, where several may; None on one that is alone with its files."""


class LinkInternals(Protocol):
    """What the operator's view has beside the record: `link.Link`, which imports this module."""

    @property
    def restarts(self) -> int: ...
    @property
    def worker_pid(self) -> int | None: ...
    @property
    def worker_id(self) -> str | None: ...
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


class LinkingCode(msgspec.Struct, frozen=True):
    """The QR or pairing code that is shown now: a secret."""

    expires_at: float
    """In seconds since the epoch."""
    ttl: float
    """Seconds from when it was reported."""
    deadline: float
    """When it expires, on the monotonic clock."""
    qr: str | None = None
    pairing_code: str | None = None
    index: int | None = None
    """Position among the `total` QR codes of one pairing, from 1."""
    total: int | None = None


_NO_CODE: Final = LinkingCode(0.0, 0.0, 0.0)

_REASON_CODES: Final = {
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
    Input.SESSION_CRASHES: "session_crashes",
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
    """The public reason code of an input, None where nothing failed. `report` is the driver's, if one caused it."""
    if isinstance(report, d.LoggedOutByPhone):
        return reasons.logout_reason(report.reason)
    if isinstance(report, d.TemporaryBan):
        return reasons.ban_reason(report.code)
    if cause is Input.LOGOUT:
        return "requested" if paired else "cancelled"
    if isinstance(report, d.ConnectFailed) and report.reason == "pairing_code_refused":
        return report.reason
    if isinstance(report, d.ConnectFailed) and report.reason == "429" and cause is Input.REFUSED:
        return "rate_limited"
    return _REASON_CODES.get(cause)


def linking_code(report: Report | None, now: float, monotonic: float) -> LinkingCode | None:
    """The code that a report carries, None when it carries none. `now` and `monotonic` are the two clocks' times."""
    if isinstance(report, d.QrShown):
        expires_at, deadline = now + report.ttl, monotonic + report.ttl
        return LinkingCode(expires_at, report.ttl, deadline, qr=report.qr, index=report.index, total=report.total)
    if isinstance(report, d.PairingCodeShown):
        return LinkingCode(now + report.ttl, report.ttl, monotonic + report.ttl, pairing_code=report.code)
    return None


def _device_removed(record: LinkRecord) -> bool | None:
    """Whether the account no longer lists the device, None where that is not known or no question."""
    if record.state is not LinkState.LOGGED_OUT:
        return None
    if record.reason_code == "device_removed":
        return True
    return None if record.device is None else record.device is DeviceState.REMOVED


def _advice(record: LinkRecord, reason: str) -> reasons.Advice:
    return reasons.advice(reason, retrying=record.state in LIVE, device=record.device)


def payload(event_type: EventType, record: LinkRecord, code: LinkingCode | None, first: bool) -> Payload:
    """The payload of an event. `record` is the link as it will be once the event is committed; `first`: it was never
    connected before.
    """
    if code is not None and code.qr is not None and event_type is EventType.QR:
        return e.Qr(code.qr, code.index or 1, code.total or 1, rfc3339(code.expires_at))
    if code is not None and code.pairing_code is not None and event_type is EventType.PAIRING_CODE:
        return e.PairingCode(code.pairing_code, rfc3339(code.expires_at))
    if event_type is EventType.CONNECTING:
        return e.Connecting(record.also_linked)
    if event_type is EventType.PAIRED:
        return e.Paired(record.phone_number or "")
    if event_type is EventType.CONNECTED:
        return e.Connected(record.phone_number or "", record.display_name or "", first, record.also_linked)
    kind = e.PAYLOADS[event_type]
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
    key: BotKey, record: LinkRecord | None, code: LinkingCode | None, now: float, monotonic: float, *, shared: bool
) -> Snapshot:
    """The link's present state. `seq` is 0 until the caller fills it in. `shared`: another key has the same account."""
    if record is None:
        return Snapshot(key.user_id, key.bot_id, None, LinkState.IDLE, 0, rfc3339(now))
    reason = record.reason_code
    if reason is None and shared:
        reason = "also_linked_elsewhere"
    advice = _advice(record, reason) if reason is not None and reason in reasons.ADVICE else None
    shown = code if code is not None and code.deadline > monotonic else _NO_CODE
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
        expires_at=None if shown is _NO_CODE else rfc3339(shown.expires_at),
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


def without_codes(snapshot: Snapshot) -> Snapshot:
    """The snapshot without its secrets: for callers that may read a link's state but not pair."""
    return msgspec.structs.replace(snapshot, qr=None, pairing_code=None)


def view(record: LinkRecord, link: LinkInternals) -> LinkView:
    """One link for the operator."""
    return LinkView(
        record.link_id,
        record.key.user_id,
        record.key.bot_id,
        record.state,
        rfc3339(record.since),
        link.restarts,
        link.flaps,
        link.worker_pid,
        None if record.phone_number is None else redaction.mask_phone(record.phone_number),
        record.reason_code,
        link.flapping,
        link.waiting,
        link.stalled,
        link.deadlines,
        rfc3339(record.retry_at) if record.state is LinkState.BANNED and record.retry_at is not None else None,
        link.shared,
        link.worker_id,
    )
