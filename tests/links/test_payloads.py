"""How a link is shown outside: reason codes, event payloads, snapshots, the operator's view."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from roundtrip import events as e
from roundtrip.clock import rfc3339
from roundtrip.drivers import base as d
from roundtrip.events import EventType
from roundtrip.links import payloads
from roundtrip.links.machine import Input
from roundtrip.links.payloads import LinkingCode, Snapshot, without_codes
from roundtrip.links.record import DeviceState, LinkRecord, LinkState
from tests.support.links import KEY, NAME, ONLINE, PHONE, QR, staged

S = LinkState


NOW = 1_800_000_000.0


LINK = LinkRecord(KEY, "link", S.CONNECTED, NOW - 5.0, NOW - 9.0, PHONE, NAME, True, True)


UNPAIRED = LinkRecord(KEY, "link", S.QR, NOW - 5.0, NOW - 9.0)


CAUSES = {
    "connection_lost": (Input.OFFLINE, Input.GRACE_OVER, Input.FOUND_OFFLINE, Input.CALM_OFFLINE),
    "keepalive_lost": (Input.KEEPALIVE_LOST, Input.CALM_AILING),
    "replaced": (Input.REPLACED,),
    "client_outdated": (Input.OUTDATED,),
    "connect_failure": (Input.CONNECT_FAILED, Input.REFUSED),
    "worker_crashed": (Input.WORKER_CRASHES, Input.WORKER_KEEPS_DYING),
    "session_crashes": (Input.SESSION_CRASHES,),
    "unreachable": (Input.UNREACHED, Input.UNREACHABLE_FOR_LONG, Input.PATIENCE_OVER),
    "store_missing": (Input.KEYS_REJECTED, Input.STORE_MISSING),
    "store_corrupt": (Input.STORE_CORRUPT,),
    "requested": (Input.DEVICE_REMOVED, Input.DEVICE_KEPT, Input.LOGOUT),
    "pairing_incomplete": (Input.PAIRING_INCOMPLETE,),
    "flapping": (Input.FLAPPING,),
}


@pytest.mark.parametrize("cause", Input, ids=lambda c: c.name)
def test_the_reason_code_of_each_cause(cause: Input) -> None:
    wanted = {one: code for code, causes in CAUSES.items() for one in causes}
    assert payloads.reason_code(cause, None, True) == wanted.get(cause)


@pytest.mark.parametrize(
    ("cause", "report", "paired", "code"),
    [
        (Input.LOGOUT, None, False, "cancelled"),
        (Input.LOGGED_OUT, d.LoggedOutByPhone("406"), True, "account_banned"),
        (Input.BANNED, d.TemporaryBan(103, None), True, "banned_too_many_groups"),
        (Input.CONNECT_FAILED, d.ConnectFailed("pairing_code_refused"), False, "pairing_code_refused"),
        (Input.CONNECT_FAILED, d.ConnectFailed("429"), False, "connect_failure"),
        (Input.REFUSED, d.ConnectFailed("429"), True, "rate_limited"),
        (Input.REFUSED, d.ConnectFailed("400"), True, "connect_failure"),
    ],
)
def test_the_reason_code_of_a_report(cause: Input, report: d.Report | None, paired: bool, code: str) -> None:
    assert payloads.reason_code(cause, report, paired) == code


def test_a_code_expires_on_both_clocks() -> None:
    assert payloads.linking_code(QR, 1000.0, 7.0) == LinkingCode(1060.0, 60.0, 67.0, qr=QR.qr, index=1, total=6)
    shown = d.PairingCodeShown("ABCD-1234", 160.0)
    assert payloads.linking_code(shown, 1000.0, 7.0) == LinkingCode(1160.0, 160.0, 167.0, pairing_code="ABCD-1234")
    assert payloads.linking_code(ONLINE, 1000.0, 7.0) is None
    assert payloads.linking_code(None, 1000.0, 7.0) is None


def test_a_snapshot_shows_a_code_until_it_expires() -> None:
    code = LinkingCode(NOW + 60.0, 60.0, 60.0, qr=QR.qr, index=2, total=6)
    shown = payloads.snapshot(KEY, UNPAIRED, code, NOW, 59.9, shared=False)
    assert (shown.qr, shown.pairing_code, shown.index, shown.total) == (QR.qr, None, 2, 6)
    assert shown.expires_at == rfc3339(NOW + 60.0)
    over = payloads.snapshot(KEY, UNPAIRED, code, NOW, 60.0, shared=False)
    assert (over.qr, over.pairing_code, over.expires_at, over.index, over.total) == (None,) * 5
    assert (over.state, over.link_id, over.since, over.seq) == (S.QR, "link", rfc3339(NOW - 5.0), 0)
    typed = payloads.snapshot(KEY, UNPAIRED, LinkingCode(NOW, 1.0, 1.0, pairing_code="A"), NOW, 0.0, shared=False)
    assert (typed.pairing_code, typed.qr) == ("A", None)


def test_a_snapshot_of_no_link() -> None:
    idle = payloads.snapshot(KEY, None, None, NOW, 0.0, shared=True)
    assert (idle.state, idle.since, idle.link_id, idle.also_linked_elsewhere) == (S.IDLE, rfc3339(NOW), None, None)


def test_the_ends_of_a_ban_are_shown_while_it_lasts() -> None:
    banned = replace(LINK, state=S.BANNED, reason_code="banned", banned_until=NOW + 9.0, retry_at=NOW + 10.0)
    shown = payloads.snapshot(KEY, banned, None, NOW, 0.0, shared=False)
    assert (shown.until, shown.retry_at, shown.retryable) == (rfc3339(NOW + 9.0), rfc3339(NOW + 10.0), False)
    open_end = payloads.snapshot(KEY, replace(banned, banned_until=None, retry_at=None), None, NOW, 0.0, shared=False)
    assert (open_end.until, open_end.retry_at) == (None, None)
    later = payloads.snapshot(KEY, replace(banned, state=S.CONNECTED, reason_code=None), None, NOW, 0.0, shared=False)
    assert (later.until, later.retry_at, later.retryable, later.user_action) == (None,) * 4


def test_a_shared_account_is_the_reason_code_only_where_there_is_no_other() -> None:
    shared = payloads.snapshot(KEY, LINK, None, NOW, 0.0, shared=True)
    assert (shared.reason_code, shared.also_linked_elsewhere, shared.retryable) == ("also_linked_elsewhere", True, True)
    alone = payloads.snapshot(KEY, LINK, None, NOW, 0.0, shared=False)
    assert (alone.reason_code, alone.also_linked_elsewhere) == (None, None)
    worse = replace(LINK, state=S.DEGRADED, reason_code="flapping")
    assert payloads.snapshot(KEY, worse, None, NOW, 0.0, shared=True).reason_code == "flapping"
    unknown = payloads.snapshot(KEY, replace(LINK, reason_code="of_a_later_release"), None, NOW, 0.0, shared=False)
    assert (unknown.reason_code, unknown.user_action) == ("of_a_later_release", None)


@pytest.mark.parametrize(
    ("state", "reason", "device", "removed"),
    [
        (S.LOGGED_OUT, "requested", DeviceState.REMOVED, True),
        (S.LOGGED_OUT, "requested", DeviceState.REMOVING, False),
        (S.LOGGED_OUT, "requested", DeviceState.KEPT, False),
        (S.LOGGED_OUT, "cancelled", None, None),
        (S.LOGGED_OUT, "device_removed", None, True),
        (S.LOGGED_OUT, "account_banned", None, None),
        (S.CONNECTED, None, DeviceState.REMOVED, None),
    ],
)
def test_whether_the_account_still_lists_the_device(
    state: LinkState, reason: str | None, device: DeviceState | None, removed: bool | None
) -> None:
    record = replace(LINK, state=state, reason_code=reason, device=device)
    assert payloads.snapshot(KEY, record, None, NOW, 0.0, shared=False).device_removed is removed
    if state is S.LOGGED_OUT:
        shown = payloads.payload(EventType.LOGGED_OUT, record, None, first=False)
        assert isinstance(shown, e.LoggedOut)
        assert shown.device_removed is removed


@pytest.mark.parametrize("state", sorted(set(S) - {S.IDLE}), ids=str)
def test_every_event_of_a_link_has_its_payload(state: LinkState) -> None:
    event_type = EventType[state.name]
    record = replace(LINK, state=state, reason_code="internal_error")
    code = LinkingCode(NOW, 1.0, 1.0, qr="q") if state is S.QR else LinkingCode(NOW, 1.0, 1.0, pairing_code="p")
    payload = payloads.payload(event_type, record, code if state in (S.QR, S.PAIRING_CODE) else None, first=True)
    assert type(payload) is e.PAYLOADS[event_type]
    if isinstance(payload, e.Qr):
        assert payload == e.Qr("q", 1, 1, rfc3339(NOW))


def test_the_fields_of_payloads() -> None:
    failed = replace(LINK, state=S.FAILED, reason_code=None)
    failure = payloads.payload(EventType.FAILED, failed, None, first=False)
    assert isinstance(failure, e.Failed)
    assert failure.reason_code == "internal_error"
    assert payloads.payload(EventType.CONNECTED, LINK, None, first=True) == e.Connected(PHONE, NAME, True, False)
    shared = replace(LINK, also_linked=True, display_name=None)
    assert payloads.payload(EventType.CONNECTED, shared, None, first=False) == e.Connected(PHONE, "", False, True)
    assert payloads.payload(EventType.CONNECTING, shared, None, first=False) == e.Connecting(True)
    assert payloads.payload(EventType.PAIRED, LINK, None, first=False) == e.Paired(PHONE)
    banned = replace(LINK, state=S.BANNED, reason_code="banned", banned_until=NOW + 1.0, retry_at=NOW + 2.0)
    shown = payloads.payload(EventType.BANNED, banned, None, first=False)
    assert isinstance(shown, e.Banned)
    assert (shown.until, shown.retry_at, shown.retryable) == (rfc3339(NOW + 1.0), rfc3339(NOW + 2.0), False)
    no_end = payloads.payload(EventType.BANNED, replace(banned, banned_until=None, retry_at=None), None, first=False)
    assert isinstance(no_end, e.Banned)
    assert (no_end.until, no_end.retry_at) == (None, None)
    away = replace(LINK, state=S.DISCONNECTED, reason_code="unreachable")
    on = payloads.payload(EventType.DISCONNECTED, away, None, first=False)
    off = payloads.payload(EventType.FAILED, replace(away, state=S.FAILED), None, first=False)
    assert isinstance(on, e.Disconnected)
    assert isinstance(off, e.Failed)
    assert on.user_action != off.user_action, "tried on by itself, or not"


def test_a_snapshot_without_codes_is_the_same_in_all_else() -> None:
    full = Snapshot("u", "b", "l", LinkState.QR, 3, "s", qr="q", pairing_code="p", index=1, total=6, expires_at="e")
    assert without_codes(full) == Snapshot("u", "b", "l", LinkState.QR, 3, "s", index=1, total=6, expires_at="e")


async def test_the_operators_view(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        begun = stage.clock.now()
        await stage.clock.advance(10.0)
        await stage.report(d.Offline())
        (view,) = stage.service.links()
        assert (view.state, view.since, view.deadlines) == (S.CONNECTED, rfc3339(begun), ("grace",))
        assert (view.user_id, view.bot_id, view.link_id) == (*KEY, stage.service.snapshot(KEY).link_id)
        assert (view.reason_code, view.retry_at, view.also_linked_elsewhere, view.stalled) == (None, None, False, False)
        assert (view.waiting, view.flapping, view.restarts, view.flaps) == (0, False, 0, 0)
        await stage.report(d.TemporaryBan(101, 100.0))
        (view,) = stage.service.links()
        assert (view.retry_at, view.worker_pid) == (rfc3339(stage.clock.now() + 100.0), None)
        assert view.reason_code == "banned_too_many_people"
        await stage.clock.advance(102.0)
        (view,) = stage.service.links()
        assert (view.state, view.retry_at) == (S.CONNECTING, None)
