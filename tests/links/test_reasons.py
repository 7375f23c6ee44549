"""The public reason codes and what they promise. None may change unnoticed."""

from __future__ import annotations

import re

import pytest

from roundtrip.events import TYPE_OF, Failure
from roundtrip.links import reasons
from roundtrip.links.record import DeviceState

NOT_RETRYABLE = {
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


RETRYABLE = {
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
    "session_crashes",
    "pairing_incomplete",
    "store_missing",
    "store_corrupt",
    "internal_error",
    "also_linked_elsewhere",
}


def test_reason_codes_and_whether_trying_again_helps() -> None:
    assert {code for code, advice in reasons.ADVICE.items() if advice.retryable is False} == NOT_RETRYABLE
    assert {code for code, advice in reasons.ADVICE.items() if advice.retryable is True} == RETRYABLE


@pytest.mark.parametrize("retrying", [True, False])
@pytest.mark.parametrize("code", sorted(NOT_RETRYABLE | RETRYABLE))
def test_the_advice_fits_whether_the_backend_retries(code: str, retrying: bool) -> None:
    advice = reasons.advice(code, retrying=retrying, device=None)
    assert advice.retryable is (code not in NOT_RETRYABLE)
    assert re.match(r"[A-Z]", advice.user_action), "a sentence"
    if not retrying:
        assert advice == reasons.ADVICE[code]
    elif code in ("unreachable", "connect_failure", "worker_crashed", "pairing_incomplete"):
        assert advice.user_action.startswith("Nothing to do")


def test_the_state_of_the_device_matters_only_for_a_requested_logout() -> None:
    advices = {device: reasons.advice("requested", retrying=False, device=device) for device in DeviceState}
    assert all(advice.retryable for advice in advices.values())
    assert "was removed" in advices[DeviceState.REMOVED].user_action
    assert "Linked devices" not in advices[DeviceState.REMOVED].user_action
    for device in (DeviceState.REMOVING, DeviceState.KEPT):
        assert "Linked devices" in advices[device].user_action
    assert len({advice.user_action for advice in advices.values()}) == len(DeviceState)
    for device in DeviceState:
        assert reasons.advice("device_removed", retrying=False, device=device) == reasons.ADVICE["device_removed"]
    assert [device.value for device in DeviceState] == ["removing", "removed", "kept"], "they are in links.db"


def test_whatsapps_numbers_have_their_codes() -> None:
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


def test_every_reason_code_says_what_to_do() -> None:
    for code, advice in reasons.ADVICE.items():
        assert code == code.lower()
        assert advice.user_action.endswith(".")
    assert {reasons.logout_reason(n) for n in ("401", "403", "406", "x")} <= set(reasons.ADVICE)
    assert {reasons.ban_reason(n) for n in (101, 102, 103, 104, 106, 999)} <= set(reasons.ADVICE)
    assert sum(issubclass(payload, Failure) for payload in TYPE_OF) == 7
