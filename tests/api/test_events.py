from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.events import Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, MissReason, Mode
from tests.support.api import Api, api

KEY = BotKey("ada", "bot")


EVENTS = "/api/bots/bot/events"


VIEWER = TraceViewer("https://traces.example.test/trace/{trace_id}?from=roundtrip")


@pytest.fixture
async def served() -> AsyncIterator[Api]:
    async with api(viewer=VIEWER) as it:
        yield it


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
