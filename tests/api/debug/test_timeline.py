"""One event's timeline: its steps, their texts and times, and attempts that are not kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from roundtrip.api.debug.timeline import TraceViewer, timeline
from roundtrip.identity import BotKey
from roundtrip.outbox.records import (
    FIRST_ATTEMPTS,
    LAST_ATTEMPTS,
    Attempt,
    MissReason,
    Mode,
    Outcome,
    Resolution,
    shorten,
)
from roundtrip.telemetry.redaction import key_hash
from tests.support.api import Api, api

KEY = BotKey("ada", "bot")


EVENTS = "/api/bots/bot/events"


VIEWER = TraceViewer("https://traces.example.test/trace/{trace_id}?from=roundtrip")


@pytest.fixture
async def served() -> AsyncIterator[Api]:
    async with api(viewer=VIEWER) as it:
        yield it


async def missed_then_acked(served: Api) -> dict[str, Any]:
    """A missed and then acknowledged event, as its owner reads it."""
    event = await served.event(KEY)
    at = event.created_at
    attempts = (
        Attempt(at + 1, Mode.LIVE, reason=MissReason.KEY_MISMATCH, keys=("other",)),  # as older versions stored it
        Attempt(at + 500, Mode.REPLAY, 2, receipt_at=at + 503, ack_at=at + 510, sids=("s1", "s2"), trace_id="f" * 32),
    )
    served.outbox.resolve(Resolution(KEY, event.seq, Outcome.ACKED, at + 510, attempts))
    status, data, _ = await served.call("GET", f"/api/events/{event.id}")
    assert status == 200
    assert isinstance(data, dict)
    return data


async def test_an_events_timeline(served: Api) -> None:
    view = await missed_then_acked(served)
    assert [(step["kind"], step["sinceCreated"], step["sincePrevious"]) for step in view["steps"]] == [
        ("created", 0, 0),
        ("missed", 1, 1),
        ("sent", 500, 499),
        ("receipt", 503, 3),
        ("ack", 510, 7),
        ("resolved", 510, 0),
    ]
    assert view["steps"][1]["text"] == "No socket of the bot 'bot'; the user is connected as 'other'."
    first = view["attempts"][0]
    assert first["connected"] == [key_hash("ada", "other")]
    assert view["attempts"][1]["sids"] == ["s1", "s2"]
    assert (view["outcome"], view["traceId"]) == ("acked", "0123456789abcdef0123456789abcdef")
    assert view["traceUrl"] == ("https://traces.example.test/trace/0123456789abcdef0123456789abcdef?from=roundtrip")


async def test_attempts_that_are_not_kept_are_counted(served: Api) -> None:
    event = await served.event(KEY)
    at = event.created_at
    attempts = [Attempt(at + n, Mode.LIVE, reason=MissReason.JUST_DISCONNECTED) for n in range(1, 1001)]
    shorten(attempts)
    served.outbox.record(KEY, event.seq, attempts)
    _, view, _ = await served.call("GET", f"/api/events/{event.id}")
    _, ledger, _ = await served.call("GET", EVENTS)
    kept = FIRST_ATTEMPTS + LAST_ATTEMPTS
    for shown in (view, ledger["events"][0]):
        assert len(shown["attempts"]) == kept
        assert shown["attemptsOmitted"] == 1000 - kept
        assert [a["omitted"] for a in shown["attempts"] if "omitted" in a] == [1000 - kept]
    steps = [(step["kind"], step.get("attempt")) for step in view["steps"]]
    numbers = [1, 2, 3, *range(1000 - LAST_ATTEMPTS + 1, 1001)]
    assert [number for kind, number in steps if kind == "missed"] == numbers
    assert steps[FIRST_ATTEMPTS + 1] == ("omitted", None)
    _, shown, _ = await served.call("GET", f"/debug/events/{event.id}", admin=True)
    assert f"{1000 - kept} more attempts" in str(shown["steps"])


async def test_all_attempts_of_an_ordinary_event_are_there(served: Api) -> None:
    view = await missed_then_acked(served)
    assert "attemptsOmitted" not in view
    assert not [attempt for attempt in view["attempts"] if "omitted" in attempt]


@pytest.mark.parametrize("reason", list(MissReason))
async def test_every_reason_has_its_sentence(served: Api, reason: MissReason) -> None:
    event = await served.event(KEY)
    served.outbox.record(KEY, event.seq, (Attempt(event.created_at, Mode.LIVE, reason=reason),))
    entry = await served.outbox.find(event.id)
    assert entry is not None
    missed = timeline(entry, VIEWER).steps[1]
    assert missed.kind == "missed"
    assert missed.text.endswith(".")


async def test_every_end_has_its_sentence(served: Api) -> None:
    event = await served.event(KEY)
    entry = await served.outbox.find(event.id)
    assert entry is not None
    for outcome in Outcome:
        ended = msgspec.structs.replace(entry, outcome=outcome, resolved_at=entry.created_at + 5)
        last = timeline(ended, VIEWER).steps[-1]
        assert last.kind == ("created" if outcome is Outcome.PENDING else "resolved")
