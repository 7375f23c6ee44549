"""The verdict: one sentence from what waits and what happened just now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from roundtrip.api.debug.misses import MissNote
from roundtrip.api.debug.verdict import RECENT, Facts, Verdict, judge
from roundtrip.telemetry.collectors import LedgerReading
from tests.api.debug.test_alerts import Process

HEBREW = "\u05e9\u05dc\u05d5\u05dd"


def note(reason: str, number: int = 1, **fields: Any) -> MissNote:
    made = MissNote(f"event-{number}", number, "whatsapp_connected", "link", "ada", "bot-1", None, "hash", 1, number)
    made.reason = reason
    made.looked_for = "bot-1"
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def verdict(process: Process, waiting: Sequence[MissNote] = (), **facts: Any) -> Verdict:
    given = {"not_ready": (), "flapping": ()} | facts
    return judge(Facts(process.situation, waiting, **given))


def ledger(process: Process, acked: int = 0, received: int = 0, superseded: int = 0, pending: int = 0) -> None:
    process.metrics.ledger.read = lambda: LedgerReading(
        {0: acked + received + superseded + pending},
        {(0, 1): acked, (0, 2): received, (0, 3): superseded},
        {0: pending},
        int((process.at - 120) * 1000) if pending else None,
        0,
    )


@pytest.fixture
def process() -> Process:
    return Process()


def test_all_is_well(process: Process) -> None:
    assert (verdict(process).level, verdict(process).cause) == ("ok", "quiet")
    ledger(process, acked=200, received=14)
    process.read()
    assert verdict(process).text == "All 214 events of the last 15 minutes reached a page."
    ledger(process, acked=200, received=14, superseded=3)
    process.read()
    assert verdict(process).level == "ok"
    assert "3 were replaced by newer ones" in verdict(process).text


def test_a_key_mismatch_names_both_keys_and_leads_to_the_event(process: Process) -> None:
    waiting = [note("key_mismatch", number, connected=("bot-2",)) for number in (1, 2, 3)]
    said = verdict(process, waiting)
    assert said.level == "critical"
    assert said.text == "3 events found nobody: key mismatch. ada is connected as bot-2, events go to bot-1."
    assert said.target == "/console/events/event-3"
    assert said.alert == "RoundtripKeyMismatch"


@pytest.mark.parametrize(
    ("given", "level", "cause", "part"),
    [
        (note("never_connected"), "info", "never_connected", "whose page is not connected"),
        (note("disconnected"), "info", "disconnected", "is sent when it comes"),
        (note("other_bot_connected"), "info", "other_bot_connected", "1 event waits"),
        (note("never_connected", type="whatsapp_qr"), "warning", "never_connected", "Somebody links ada · bot-1"),
        (note("just_disconnected"), "warning", "just_disconnected", "had left"),
        (note("send_failed"), "warning", "send_failed", "is gone"),
        (note("queue_full"), "warning", "queue_full", "too slowly"),
        (note("ack_timeout"), "warning", "receipts_missing", "neither a receipt"),
        (note("ack_timeout", promised=True), "warning", "acks_missing", "promised to acknowledge"),
        (note("ack_timeout", receipt=True), "warning", "acks_missing", "promised to acknowledge"),
    ],
    ids=lambda given: getattr(given, "reason", None),
)
def test_each_reason_has_its_sentence(process: Process, given: MissNote, level: str, cause: str, part: str) -> None:
    said = verdict(process, [given])
    assert (said.level, said.cause) == (level, cause)
    assert part in said.text


def test_the_worst_comes_first_and_the_others_behind(process: Process) -> None:
    process.faults = ("drop_acks",)
    said = verdict(process, [note("never_connected"), note("ack_timeout", 2), note("key_mismatch", 3)])
    assert [said.level, *(other.level for other in said.others)] == ["critical", "warning", "info", "info"]
    assert said.cause == "key_mismatch"


def test_a_store_that_fails_is_said_at_once_and_over_soon(process: Process) -> None:
    process.metrics.outbox_failures.inc()
    process.read()
    said = verdict(process, failed_request="ab" * 16)
    assert (said.level, said.cause, said.target) == ("critical", "outbox_failing", f"/console/traces/{'ab' * 16}")
    process.read(RECENT)
    assert verdict(process).level == "ok"
    assert verdict(process, not_ready=(("outbox", "The disk is full."),)).cause == "outbox_failing"
    assert verdict(process, not_ready=(("restore", "It has not begun."),)).text == "Not ready: It has not begun."


def test_events_from_before_a_restart_wait_quietly(process: Process) -> None:
    ledger(process, pending=2)
    process.read()
    said = verdict(process)
    assert (said.level, said.cause) == ("info", "pending")
    assert said.text == "2 events wait for pages that are not connected, the oldest for 2 minutes."


def test_an_id_from_right_to_left_turns_nothing_around(process: Process) -> None:
    said = verdict(process, [note("key_mismatch", user_id=HEBREW, connected=("bot-2",))])
    assert f"\u2068{HEBREW}\u2069 is connected as bot-2" in said.text
