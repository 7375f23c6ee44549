"""The words that others rely on: states, actions, reason codes and what they promise. None may change unnoticed."""

from __future__ import annotations

import base64
import re

import pytest

from roundtrip.drivers.simulated.script import SimulateAction, pairing_code, person_of, qr_text
from roundtrip.errors import StorageError
from roundtrip.links import reasons
from roundtrip.links.payloads import Snapshot, without_codes
from roundtrip.links.phone import canonical
from roundtrip.links.record import DeviceState, LinkState, store_name

GIVEN_UP_ON = {
    "account_banned",
    "banned",
    "banned_too_many_people",
    "banned_blocked_by_users",
    "banned_too_many_groups",
    "banned_same_messages",
    "banned_broadcast_lists",
    "client_outdated",
}
"""Trying again does not help; with every other code it may."""

OTHERS = {
    "keepalive_lost",
    "flapping",
    "connection_lost",
    "unreachable",
    "rate_limited",
    "requested",
    "cancelled",
    "device_removed",
    "primary_device_gone",
    "logged_out_by_whatsapp",
    "replaced",
    "connect_failure",
    "pairing_code_refused",
    "worker_crashed",
    "pairing_incomplete",
    "store_missing",
    "store_corrupt",
    "internal_error",
    "also_linked_elsewhere",
}


def test_the_states_are_the_contracts() -> None:
    states = "idle connecting qr pairing_code paired connected degraded disconnected qr_expired logged_out replaced"
    assert [state.value for state in LinkState] == [*states.split(), "banned", "client_outdated", "failed"]


def test_the_actions_of_the_simulated_phone_are_the_contracts() -> None:
    actions = (
        "scan disconnect reconnect logout replace ban expire degrade restore outdated crash hang unreachable "
        "connect_failure stream_error flap die_silently"
    )
    assert [action.value for action in SimulateAction] == actions.split()


def test_reason_codes_and_whether_trying_again_helps() -> None:
    assert {code for code, advice in reasons.ADVICE.items() if advice.retryable is False} == GIVEN_UP_ON
    assert {code for code, advice in reasons.ADVICE.items() if advice.retryable is True} == OTHERS


@pytest.mark.parametrize("retrying", [True, False])
@pytest.mark.parametrize("code", sorted(GIVEN_UP_ON | OTHERS))
def test_what_is_told_fits_what_happens_next(code: str, retrying: bool) -> None:
    advice = reasons.advice(code, retrying=retrying, device=None)
    assert advice.retryable is (code not in GIVEN_UP_ON)
    assert re.match(r"[A-Z]", advice.user_action), "a sentence"
    if not retrying:
        assert advice == reasons.ADVICE[code]
    elif code in ("unreachable", "connect_failure", "worker_crashed", "pairing_incomplete"):
        assert advice.user_action.startswith("Nothing to do")


def test_what_became_of_the_device_is_said_only_of_a_logout_that_was_asked_for() -> None:
    said = {device: reasons.advice("requested", retrying=False, device=device) for device in DeviceState}
    assert all(advice.retryable for advice in said.values())
    assert "was removed" in said[DeviceState.REMOVED].user_action
    assert "Linked devices" not in said[DeviceState.REMOVED].user_action
    for device in (DeviceState.REMOVING, DeviceState.KEPT):
        assert "Linked devices" in said[device].user_action
    assert len({advice.user_action for advice in said.values()}) == len(DeviceState)
    for device in DeviceState:
        assert reasons.advice("device_removed", retrying=False, device=device) == reasons.ADVICE["device_removed"]
    assert [device.value for device in DeviceState] == ["removing", "removed", "kept"], "they are in links.db"


def test_whatsapps_numbers() -> None:
    numbers = range(95, 115)
    assert {n: reasons.ban_reason(n) for n in numbers if reasons.ban_reason(n) != "banned"} == {
        101: "banned_too_many_people",
        102: "banned_blocked_by_users",
        103: "banned_too_many_groups",
        104: "banned_same_messages",
        106: "banned_broadcast_lists",
    }
    logouts = {str(n): reasons.logout_reason(str(n)) for n in range(395, 420)}
    assert {n: code for n, code in logouts.items() if code != "logged_out_by_whatsapp"} == {
        "401": "device_removed",
        "403": "primary_device_gone",
        "406": "account_banned",
    }


def test_a_refused_event_says_why_to_whoever_reads_the_log() -> None:
    error = StorageError("outbox_full", "There is no room.")
    assert (error.code, error.message, str(error)) == ("outbox_full", "There is no room.", "There is no room.")


def test_a_snapshot_without_codes_is_the_same_in_all_else() -> None:
    full = Snapshot("u", "b", "l", LinkState.QR, 3, "s", qr="q", pairing_code="p", index=1, total=6, expires_at="e")
    assert without_codes(full) == Snapshot("u", "b", "l", LinkState.QR, 3, "s", index=1, total=6, expires_at="e")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+551187654321", "+5511987654321"),
        ("+5215512345678", "+525512345678"),
        ("+541112345678", "+5491112345678"),
        ("+22961234567", "+2290161234567"),
    ],
)
def test_an_old_and_a_new_plan_are_one_account_and_its_neighbours_are_not(old: str, new: str) -> None:
    assert canonical(old) == canonical(new)
    neighbour = old[:-1] + str((int(old[-1]) + 1) % 10)
    assert canonical(neighbour) != canonical(new)
    assert canonical("+14155550142") == "+14155550142"


def test_people_are_plausible_and_their_codes_have_the_real_ones_shape() -> None:
    people = [person_of(f"seed-{n}") for n in range(2000)]
    for someone in people:
        assert re.fullmatch(r"\+1[2-8]\d{2}55501\d\d", someone.phone_number)
        assert re.fullmatch(r"[A-Z][a-zöá]+ [A-Z][a-zöá]+", someone.display_name)
    assert len({someone.display_name for someone in people}) == 120
    assert len({someone.phone_number for someone in people}) > 800
    assert person_of("\ud800") == person_of("\ud800"), "a key with half a character has a phone too"
    reference, *keys = qr_text().removeprefix("2@").split(",")
    assert [len(base64.b64decode(key, validate=True)) for key in keys] == [32, 32, 32]
    assert len(base64.b64decode(reference + "==", validate=True)) == 78
    assert len({pairing_code() for _ in range(50)}) == 50


def test_a_store_file_is_named_after_its_link() -> None:
    assert store_name("a" * 32) == "a" * 32 + ".db"
