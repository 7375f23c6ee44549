"""What one step changes in a link's record, and which changes are worth an event."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from roundtrip.drivers import base as d
from roundtrip.links import transition_table
from roundtrip.links.machine import Input
from roundtrip.links.policy import Ban
from roundtrip.links.record import DeviceState, LinkRecord, LinkState
from roundtrip.links.transition_table import content_changed, step
from tests.support.links import KEY, NAME, ONLINE, PHONE

S = LinkState


NOW = 1_800_000_000.0


LINK = LinkRecord(KEY, "link", S.CONNECTED, NOW - 5.0, NOW - 9.0, PHONE, NAME, True, True)


UNPAIRED = LinkRecord(KEY, "link", S.QR, NOW - 5.0, NOW - 9.0)


def record_after(
    record: LinkRecord, cause: Input, report: d.Report | None = None, ban: Ban | None = None
) -> LinkRecord:
    return transition_table.record_after(record, cause, step(record.state, cause), report, NOW, ban)


def test_since_changes_with_the_state_only() -> None:
    assert record_after(LINK, Input.ONLINE, ONLINE).since == LINK.since
    assert record_after(LINK, Input.STREAM_FAILED, d.StreamFailed("1")) == LINK
    assert record_after(LINK, Input.GRACE_OVER) == replace(
        LINK, state=S.DISCONNECTED, since=NOW, reason_code="connection_lost"
    )


def test_flapping_is_the_reason_whatever_the_last_loss_was() -> None:
    flapping = transition_table.record_after(LINK, Input.OFFLINE, step(S.CONNECTED, Input.FLAPPING), d.Offline(), NOW)
    assert (flapping.state, flapping.reason_code) == (S.DEGRADED, "flapping")


def test_pairing_and_logging_in_add_the_account() -> None:
    paired = record_after(UNPAIRED, Input.PAIRED, d.PairSucceeded(PHONE))
    assert (paired.paired, paired.phone_number, paired.display_name, paired.connected_before) == (
        True,
        PHONE,
        None,
        False,
    )
    online = record_after(paired, Input.ONLINE, ONLINE)
    assert online == replace(paired, state=S.CONNECTED, since=NOW, display_name=NAME, connected_before=True)
    assert record_after(online, Input.ONLINE, d.Online(PHONE, "")).display_name == NAME, (
        "a name that is not reported is not deleted"
    )
    straight = record_after(UNPAIRED, Input.ONLINE, ONLINE)
    assert (straight.paired, straight.phone_number) == (True, PHONE)


@pytest.mark.parametrize("cause", [Input.LOGGED_OUT, Input.LOGOUT])
def test_a_link_that_ended_keeps_no_account(cause: Input) -> None:
    shared = replace(LINK, also_linked=True, device=DeviceState.REMOVING)
    logged_out = record_after(shared, cause, d.LoggedOutByPhone("401") if cause is Input.LOGGED_OUT else None)
    assert (
        logged_out.state,
        logged_out.paired,
        logged_out.phone_number,
        logged_out.display_name,
        logged_out.also_linked,
    ) == (
        S.LOGGED_OUT,
        False,
        None,
        None,
        False,
    )
    assert logged_out.device is DeviceState.REMOVING
    ended = replace(logged_out, reason_code="requested")
    for outcome, device in ((Input.DEVICE_REMOVED, DeviceState.REMOVED), (Input.DEVICE_KEPT, DeviceState.KEPT)):
        assert record_after(ended, outcome) == replace(ended, device=device)


def test_a_ban_keeps_its_ends() -> None:
    ban = Ban(101, NOW, None, NOW + 7.0)
    banned = record_after(LINK, Input.BANNED, d.TemporaryBan(101, None), ban)
    assert (banned.state, banned.banned_until, banned.retry_at) == (S.BANNED, None, NOW + 7.0)
    assert banned.reason_code == "banned_too_many_people"
    assert (banned.paired, banned.phone_number) == (True, PHONE)


@pytest.mark.parametrize(
    ("change", "published"),
    [
        ({"phone_number": "+1"}, True),
        ({"display_name": "B"}, True),
        ({"reason_code": "banned"}, True),
        ({"also_linked": True}, True),
        ({"device": DeviceState.KEPT}, True),
        ({"since": 1.0}, False),
        ({"connected_before": False}, False),
        ({}, False),
    ],
)
def test_which_changes_are_published(change: dict[str, object], published: bool) -> None:
    assert content_changed(LINK, replace(LINK, **change)) is published
