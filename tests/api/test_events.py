from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from roundtrip.api.debug.timeline import TraceViewer, timeline
from roundtrip.events import Qr
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
from tests.support.api import Api, api

KEY = BotKey("ada", "bot")
EVENTS = "/api/bots/bot/events"
VIEWER = TraceViewer("https://traces.example.test/trace/{trace_id}?from=roundtrip")


@pytest.fixture
async def served() -> AsyncIterator[Api]:
    async with api(viewer=VIEWER) as it:
        yield it


async def told(served: Api) -> dict[str, Any]:
    """A missed and then acknowledged event, as its owner reads it."""
    event = await served.event(KEY)
    at = event.created_at
    attempts = (
        Attempt(at + 1, Mode.LIVE, reason=MissReason.KEY_MISMATCH, keys=("other",)),
        Attempt(at + 500, Mode.REPLAY, 2, receipt_at=at + 503, ack_at=at + 510, sids=("s1", "s2"), trace_id="f" * 32),
    )
    served.outbox.resolve(Resolution(KEY, event.seq, Outcome.ACKED, at + 510, attempts))
    status, data, _ = await served.call("GET", f"/api/events/{event.id}")
    assert status == 200
    assert isinstance(data, dict)
    return data


async def test_the_ledger_says_what_became_of_each_event(served: Api) -> None:
    event = await served.event(KEY)
    served.outbox.record(KEY, event.seq, (Attempt(event.created_at, Mode.LIVE, reason=MissReason.NEVER_CONNECTED),))
    status, data, headers = await served.call("GET", EVENTS)
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert data["next"] is None
    (entry,) = data["events"]
    assert (entry["id"], entry["seq"], entry["type"], entry["outcome"]) == (
        event.id,
        1,
        "whatsapp_connecting",
        "pending",
    )
    (attempt,) = entry["attempts"]
    assert (attempt["mode"], attempt["result"], attempt["reason"], attempt["sockets"]) == (
        "live",
        "missed",
        "never_connected",
        0,
    )
    assert entry["createdAt"].endswith("Z")
    assert len(entry["createdAt"]) == len("2026-01-01T00:00:00.000Z")


async def test_pages_follow_each_other_without_gap(served: Api) -> None:
    for _ in range(7):
        await served.event(KEY)
    seen: list[int] = []
    after: int | None = 0
    pages = 0
    while after is not None:
        _, data, _ = await served.call("GET", f"{EVENTS}?after={after}&limit=3")
        seen += [entry["seq"] for entry in data["events"]]
        after = data["next"]
        pages += 1
    assert (seen, pages) == ([1, 2, 3, 4, 5, 6, 7], 3)
    _, data, _ = await served.call("GET", f"{EVENTS}?after=99")
    assert data == {"events": [], "next": None}


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=0", "limit=501", "after=1.5", f"after={1 << 80}", "limit="]
)
async def test_a_wrong_query(served: Api, query: str) -> None:
    status, data, _ = await served.call("GET", f"{EVENTS}?{query}")
    assert (status, data["code"]) == (400, "query_invalid")


async def test_an_events_timeline(served: Api) -> None:
    story = await told(served)
    assert [(step["kind"], step["sinceCreated"], step["sincePrevious"]) for step in story["steps"]] == [
        ("created", 0, 0),
        ("missed", 1, 1),
        ("sent", 500, 499),
        ("receipt", 503, 3),
        ("ack", 510, 7),
        ("resolved", 510, 0),
    ]
    assert story["steps"][1]["text"] == "Looked for the bot 'bot'; the user's sockets say 'other'."
    assert story["attempts"][0]["connected"] == ["other"]
    assert story["attempts"][1]["sids"] == ["s1", "s2"]
    assert (story["outcome"], story["traceId"]) == ("acked", "0123456789abcdef0123456789abcdef")
    assert story["traceUrl"] == ("https://traces.example.test/trace/0123456789abcdef0123456789abcdef?from=roundtrip")


async def test_attempts_that_are_not_kept_are_counted(served: Api) -> None:
    event = await served.event(KEY)
    at = event.created_at
    attempts = [Attempt(at + n, Mode.LIVE, reason=MissReason.JUST_DISCONNECTED) for n in range(1, 1001)]
    shorten(attempts)
    served.outbox.record(KEY, event.seq, attempts)
    _, story, _ = await served.call("GET", f"/api/events/{event.id}")
    _, ledger, _ = await served.call("GET", EVENTS)
    kept = FIRST_ATTEMPTS + LAST_ATTEMPTS
    for view in (story, ledger["events"][0]):
        assert len(view["attempts"]) == kept
        assert view["attemptsOmitted"] == 1000 - kept
        assert [a["omitted"] for a in view["attempts"] if "omitted" in a] == [1000 - kept]
    steps = [(step["kind"], step.get("attempt")) for step in story["steps"]]
    numbers = [1, 2, 3, *range(1000 - LAST_ATTEMPTS + 1, 1001)]
    assert [number for kind, number in steps if kind == "missed"] == numbers
    assert steps[FIRST_ATTEMPTS + 1] == ("omitted", None)
    path, headers = f"/debug/events/{event.id}", {"Accept": "text/html"}
    _, page, _ = await served.call("GET", path, admin=True, headers=headers)
    assert f"{1000 - kept} more attempts" in page
    assert "<td>1000</td>" in page


async def test_all_attempts_of_an_ordinary_event_are_there(served: Api) -> None:
    story = await told(served)
    assert "attemptsOmitted" not in story
    assert not [attempt for attempt in story["attempts"] if "omitted" in attempt]


async def test_a_timeline_never_says_what_the_event_said(served: Api) -> None:
    event = await served.event(KEY, Qr("2@canary", 1, 6, "2026-01-01T00:00:20.000Z"))
    for path in (f"/api/events/{event.id}", EVENTS):
        _, data, _ = await served.call("GET", path)
        assert "canary" not in str(data)


async def test_a_foreign_event_is_as_unknown_as_one_that_never_was(served: Api) -> None:
    event = await served.event(KEY)
    foreign = await served.call("GET", f"/api/events/{event.id}", user="eve")
    never = await served.call("GET", f"/api/events/{event.id[:-1]}{'0' if event.id[-1] != '0' else '1'}", user="eve")
    assert (foreign[0], foreign[1]) == (never[0], never[1])
    assert (foreign[0], foreign[1]["code"]) == (404, "event_not_found")
    _, data, _ = await served.call("GET", EVENTS, user="eve")
    assert data["events"] == []


@pytest.mark.parametrize("event_id", ["x", "%00", "é" * 36, "x" * 5000])
async def test_what_is_no_event_id(served: Api, event_id: str) -> None:
    status, data, _ = await served.call("GET", f"/api/events/{event_id}")
    assert (status, data["code"]) == (404, "event_not_found")


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
