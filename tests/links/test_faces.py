"""How a link looks from outside: payloads, snapshots, the operator's line; and what a step changes in its record."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from roundtrip import events as e
from roundtrip.clock import rfc3339
from roundtrip.drivers import base as d
from roundtrip.events import EventType
from roundtrip.links import payloads as faces
from roundtrip.links.machine import Input
from roundtrip.links.payloads import Code
from roundtrip.links.policy import Ban
from roundtrip.links.record import Device, LinkRecord, new_record
from roundtrip.links.snapshot import LinkState
from roundtrip.links.transition_table import content_changed, record_after, step
from tests.links.helpers import KEY, NAME, ONLINE, PHONE, QR, staged

S = LinkState
NOW = 1_800_000_000.0
LINK = LinkRecord(KEY, "link", S.CONNECTED, NOW - 5.0, NOW - 9.0, PHONE, NAME, True, True)
UNPAIRED = LinkRecord(KEY, "link", S.QR, NOW - 5.0, NOW - 9.0)

OWN = {
    "connection_lost": (Input.OFFLINE, Input.GRACE_OVER, Input.FOUND_OFFLINE, Input.CALM_OFFLINE),
    "keepalive_lost": (Input.KEEPALIVE_LOST, Input.CALM_AILING),
    "replaced": (Input.REPLACED,),
    "client_outdated": (Input.OUTDATED,),
    "connect_failure": (Input.CONNECT_FAILED, Input.REFUSED),
    "worker_crashed": (Input.WORKER_CRASHES, Input.WORKER_KEEPS_DYING),
    "unreachable": (Input.UNREACHED, Input.UNREACHABLE_FOR_LONG, Input.PATIENCE_OVER),
    "store_missing": (Input.KEYS_REJECTED, Input.STORE_MISSING),
    "store_corrupt": (Input.STORE_CORRUPT,),
    "requested": (Input.DEVICE_REMOVED, Input.DEVICE_KEPT, Input.LOGOUT),
    "pairing_incomplete": (Input.PAIRING_INCOMPLETE,),
    "flapping": (Input.FLAPPING,),
}


@pytest.mark.parametrize("cause", Input, ids=lambda c: c.name)
def test_the_reason_code_of_each_cause(cause: Input) -> None:
    wanted = {one: code for code, causes in OWN.items() for one in causes}
    assert faces.reason_code(cause, None, True) == wanted.get(cause)


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
def test_what_a_report_adds_to_it(cause: Input, report: d.Report | None, paired: bool, code: str) -> None:
    assert faces.reason_code(cause, report, paired) == code


def test_a_code_ends_on_both_clocks() -> None:
    assert faces.code_of(QR, 1000.0, 7.0) == Code(1060.0, 60.0, 67.0, qr=QR.qr, index=1, total=6)
    shown = d.PairingCodeShown("ABCD-1234", 160.0)
    assert faces.code_of(shown, 1000.0, 7.0) == Code(1160.0, 160.0, 167.0, pairing_code="ABCD-1234")
    assert faces.code_of(ONLINE, 1000.0, 7.0) is None
    assert faces.code_of(None, 1000.0, 7.0) is None


def test_a_snapshot_shows_a_code_until_it_ends() -> None:
    code = Code(NOW + 60.0, 60.0, 60.0, qr=QR.qr, index=2, total=6)
    shown = faces.snapshot(KEY, UNPAIRED, code, NOW, 59.9, shared=False)
    assert (shown.qr, shown.pairing_code, shown.index, shown.total) == (QR.qr, None, 2, 6)
    assert shown.expires_at == rfc3339(NOW + 60.0)
    over = faces.snapshot(KEY, UNPAIRED, code, NOW, 60.0, shared=False)
    assert (over.qr, over.pairing_code, over.expires_at, over.index, over.total) == (None,) * 5
    assert (over.state, over.link_id, over.since, over.seq) == (S.QR, "link", rfc3339(NOW - 5.0), 0)
    typed = faces.snapshot(KEY, UNPAIRED, Code(NOW, 1.0, 1.0, pairing_code="A"), NOW, 0.0, shared=False)
    assert (typed.pairing_code, typed.qr) == ("A", None)


def test_a_snapshot_of_no_link() -> None:
    idle = faces.snapshot(KEY, None, None, NOW, 0.0, shared=True)
    assert (idle.state, idle.since, idle.link_id, idle.also_linked_elsewhere) == (S.IDLE, rfc3339(NOW), None, None)


def test_the_ends_of_a_ban_are_shown_while_it_lasts() -> None:
    banned = replace(LINK, state=S.BANNED, reason_code="banned", banned_until=NOW + 9.0, retry_at=NOW + 10.0)
    shown = faces.snapshot(KEY, banned, None, NOW, 0.0, shared=False)
    assert (shown.until, shown.retry_at, shown.retryable) == (rfc3339(NOW + 9.0), rfc3339(NOW + 10.0), False)
    open_end = faces.snapshot(KEY, replace(banned, banned_until=None, retry_at=None), None, NOW, 0.0, shared=False)
    assert (open_end.until, open_end.retry_at) == (None, None)
    later = faces.snapshot(KEY, replace(banned, state=S.CONNECTED, reason_code=None), None, NOW, 0.0, shared=False)
    assert (later.until, later.retry_at, later.retryable, later.user_action) == (None,) * 4


def test_a_second_bot_of_an_account_is_said_where_nothing_is_worse() -> None:
    shared = faces.snapshot(KEY, LINK, None, NOW, 0.0, shared=True)
    assert (shared.reason_code, shared.also_linked_elsewhere, shared.retryable) == ("also_linked_elsewhere", True, True)
    alone = faces.snapshot(KEY, LINK, None, NOW, 0.0, shared=False)
    assert (alone.reason_code, alone.also_linked_elsewhere) == (None, None)
    worse = replace(LINK, state=S.DEGRADED, reason_code="flapping")
    assert faces.snapshot(KEY, worse, None, NOW, 0.0, shared=True).reason_code == "flapping"
    unknown = faces.snapshot(KEY, replace(LINK, reason_code="of_a_later_release"), None, NOW, 0.0, shared=False)
    assert (unknown.reason_code, unknown.user_action) == ("of_a_later_release", None)


@pytest.mark.parametrize(
    ("state", "reason", "device", "removed"),
    [
        (S.LOGGED_OUT, "requested", Device.REMOVED, True),
        (S.LOGGED_OUT, "requested", Device.REMOVING, False),
        (S.LOGGED_OUT, "requested", Device.KEPT, False),
        (S.LOGGED_OUT, "cancelled", None, None),
        (S.LOGGED_OUT, "device_removed", None, True),
        (S.LOGGED_OUT, "account_banned", None, None),
        (S.CONNECTED, None, Device.REMOVED, None),
    ],
)
def test_whether_the_account_still_lists_the_device(
    state: LinkState, reason: str | None, device: Device | None, removed: bool | None
) -> None:
    record = replace(LINK, state=state, reason_code=reason, device=device)
    assert faces.snapshot(KEY, record, None, NOW, 0.0, shared=False).device_removed is removed
    if state is S.LOGGED_OUT:
        told = faces.payload(EventType.LOGGED_OUT, record, None, first=False)
        assert isinstance(told, e.LoggedOut)
        assert told.device_removed is removed


@pytest.mark.parametrize("state", sorted(set(S) - {S.IDLE}), ids=str)
def test_every_event_of_a_link_has_its_payload(state: LinkState) -> None:
    says = EventType[state.name]
    record = replace(LINK, state=state, reason_code="internal_error")
    code = Code(NOW, 1.0, 1.0, qr="q") if state is S.QR else Code(NOW, 1.0, 1.0, pairing_code="p")
    payload = faces.payload(says, record, code if state in (S.QR, S.PAIRING_CODE) else None, first=True)
    assert type(payload) is e.PAYLOADS[says]
    if isinstance(payload, e.Qr):
        assert payload == e.Qr("q", 1, 1, rfc3339(NOW))


def test_what_payloads_say() -> None:
    failed = replace(LINK, state=S.FAILED, reason_code=None)
    said = faces.payload(EventType.FAILED, failed, None, first=False)
    assert isinstance(said, e.Failed)
    assert said.reason_code == "internal_error"
    assert faces.payload(EventType.CONNECTED, LINK, None, first=True) == e.Connected(PHONE, NAME, True, False)
    shared = replace(LINK, also_linked=True, display_name=None)
    assert faces.payload(EventType.CONNECTED, shared, None, first=False) == e.Connected(PHONE, "", False, True)
    assert faces.payload(EventType.CONNECTING, shared, None, first=False) == e.Connecting(True)
    assert faces.payload(EventType.PAIRED, LINK, None, first=False) == e.Paired(PHONE)
    banned = replace(LINK, state=S.BANNED, reason_code="banned", banned_until=NOW + 1.0, retry_at=NOW + 2.0)
    told = faces.payload(EventType.BANNED, banned, None, first=False)
    assert isinstance(told, e.Banned)
    assert (told.until, told.retry_at, told.retryable) == (rfc3339(NOW + 1.0), rfc3339(NOW + 2.0), False)
    no_end = faces.payload(EventType.BANNED, replace(banned, banned_until=None, retry_at=None), None, first=False)
    assert isinstance(no_end, e.Banned)
    assert (no_end.until, no_end.retry_at) == (None, None)
    away = replace(LINK, state=S.DISCONNECTED, reason_code="unreachable")
    on = faces.payload(EventType.DISCONNECTED, away, None, first=False)
    off = faces.payload(EventType.FAILED, replace(away, state=S.FAILED), None, first=False)
    assert isinstance(on, e.Disconnected)
    assert isinstance(off, e.Failed)
    assert on.user_action != off.user_action, "tried on by itself, or not"


def moved(record: LinkRecord, cause: Input, report: d.Report | None = None, ban: Ban | None = None) -> LinkRecord:
    return record_after(record, cause, step(record.state, cause), report, NOW, ban)


def test_a_state_that_stays_began_when_it_did() -> None:
    assert moved(LINK, Input.ONLINE, ONLINE).since == LINK.since
    assert moved(LINK, Input.STREAM_FAILED, d.StreamFailed("1")) == LINK
    assert moved(LINK, Input.GRACE_OVER) == replace(
        LINK, state=S.DISCONNECTED, since=NOW, reason_code="connection_lost"
    )


def test_flapping_is_why_whatever_was_the_last_straw() -> None:
    flapping = record_after(LINK, Input.OFFLINE, step(S.CONNECTED, Input.FLAPPING), d.Offline(), NOW)
    assert (flapping.state, flapping.reason_code) == (S.DEGRADED, "flapping")


def test_what_pairing_and_logging_in_bring() -> None:
    paired = moved(UNPAIRED, Input.PAIRED, d.PairSucceeded(PHONE))
    assert (paired.paired, paired.phone_number, paired.display_name, paired.connected_before) == (
        True,
        PHONE,
        None,
        False,
    )
    online = moved(paired, Input.ONLINE, ONLINE)
    assert online == replace(paired, state=S.CONNECTED, since=NOW, display_name=NAME, connected_before=True)
    assert moved(online, Input.ONLINE, d.Online(PHONE, "")).display_name == NAME, "not known yet is not gone"
    straight = moved(UNPAIRED, Input.ONLINE, ONLINE)
    assert (straight.paired, straight.phone_number) == (True, PHONE)


@pytest.mark.parametrize("cause", [Input.LOGGED_OUT, Input.LOGOUT])
def test_a_link_that_is_gone_remembers_no_account(cause: Input) -> None:
    shared = replace(LINK, also_linked=True, device=Device.REMOVING)
    gone = moved(shared, cause, d.LoggedOutByPhone("401") if cause is Input.LOGGED_OUT else None)
    assert (gone.state, gone.paired, gone.phone_number, gone.display_name, gone.also_linked) == (
        S.LOGGED_OUT,
        False,
        None,
        None,
        False,
    )
    assert gone.device is Device.REMOVING
    ended = replace(gone, reason_code="requested")
    for told, device in ((Input.DEVICE_REMOVED, Device.REMOVED), (Input.DEVICE_KEPT, Device.KEPT)):
        assert moved(ended, told) == replace(ended, device=device)


def test_a_ban_leaves_its_ends() -> None:
    ban = Ban(101, NOW, None, NOW + 7.0)
    banned = moved(LINK, Input.BANNED, d.TemporaryBan(101, None), ban)
    assert (banned.state, banned.banned_until, banned.retry_at) == (S.BANNED, None, NOW + 7.0)
    assert banned.reason_code == "banned_too_many_people"
    assert (banned.paired, banned.phone_number) == (True, PHONE)


@pytest.mark.parametrize(
    ("change", "news"),
    [
        ({"phone_number": "+1"}, True),
        ({"display_name": "B"}, True),
        ({"reason_code": "banned"}, True),
        ({"also_linked": True}, True),
        ({"device": Device.KEPT}, True),
        ({"since": 1.0}, False),
        ({"connected_before": False}, False),
        ({}, False),
    ],
)
def test_what_is_news(change: dict[str, object], news: bool) -> None:
    assert content_changed(LINK, replace(LINK, **change)) is news


def test_a_new_record_begins_now() -> None:
    record = new_record(KEY, 7.0)
    assert record == LinkRecord(KEY, record.link_id, S.CONNECTING, 7.0, 7.0)


async def test_the_operators_line(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        begun = stage.clock.now()
        await stage.clock.pass_(10.0)
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
        await stage.clock.pass_(102.0)
        (view,) = stage.service.links()
        assert (view.state, view.retry_at) == (S.CONNECTING, None)
