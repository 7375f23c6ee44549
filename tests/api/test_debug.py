from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from roundtrip.api.debug import pages as html
from roundtrip.delivery.wire import Miss
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkState
from roundtrip.outbox.records import Attempt, MissReason, Mode
from tests.support.api import Api, api

KEY = BotKey("ada", "<b>bot</b>")
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
async def served() -> AsyncIterator[Api]:
    async with api() as it:
        yield it


async def test_the_map_and_the_last_misses(served: Api) -> None:
    event = await served.event(KEY)
    served.registry.missed(KEY, event.type.wire, event.id, Miss(MissReason.KEY_MISMATCH, ("other",)))
    status, data, headers = await served.call("GET", "/debug/sockets", admin=True)
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert set(data) == {"totals", "keys", "misses"}
    (miss,) = data["misses"]
    assert (miss["reason"], miss["lookedFor"], miss["connected"]) == (
        "key_mismatch",
        ["ada", "<b>bot</b>"],
        ["other"],
    )
    assert miss["type"] == "whatsapp_connecting"
    assert miss["at"]


async def test_a_browser_gets_a_page(served: Api) -> None:
    event = await served.event(KEY)
    served.links.states[KEY] = LinkState.CONNECTED
    served.outbox.record(KEY, event.seq, (Attempt(event.created_at, Mode.LIVE, reason=MissReason.NEVER_CONNECTED),))
    served.registry.missed(KEY, event.type.wire, event.id, Miss(MissReason.NEVER_CONNECTED))
    link = "/debug/links/link-of-%3Cb%3Ebot%3C%2Fb%3E"
    for path in ("/debug/sockets", "/debug/links", link, f"/debug/events/{event.id}"):
        status, page, headers = await served.call("GET", path, admin=True, headers=BROWSER)
        assert status == 200, path
        assert headers["Content-Type"].startswith("text/html"), path
        assert "&lt;b&gt;bot&lt;/b&gt;" in page, path  # escaped, whatever an id holds
        assert "<b>" not in page, path
        assert "<script" not in page, path
        assert "style=" not in page, path


async def test_a_links_story(served: Api) -> None:
    key = BotKey("ada", "bot")
    event = await served.event(key)
    status, data, _ = await served.call("GET", "/debug/links/link-of-bot", admin=True)
    assert (status, data["code"]) == (404, "link_not_found")
    served.links.states[key] = LinkState.FAILED
    status, data, _ = await served.call("GET", "/debug/links/link-of-bot", admin=True)
    assert (status, data["link"]["state"], [entry["id"] for entry in data["events"]]) == (200, "failed", [event.id])
    _, data, _ = await served.call("GET", "/debug/links", admin=True)
    assert [link["linkId"] for link in data["links"]] == ["link-of-bot"]


async def test_an_events_story_whoever_it_belongs_to(served: Api) -> None:
    event = await served.event(KEY)
    status, data, _ = await served.call("GET", f"/debug/events/{event.id}", admin=True)
    assert (status, data["id"], data["userId"]) == (200, event.id, "ada")
    status, data, _ = await served.call("GET", "/debug/events/nothing", admin=True)
    assert (status, data["code"]) == (404, "event_not_found")


@pytest.mark.parametrize("path", ["/debug/sockets", "/debug/links", "/metrics", "/readyz", "/debug/faults"])
async def test_none_of_it_is_on_the_public_listener(served: Api, path: str) -> None:
    status, _, _ = await served.call("GET", path)
    assert status == 404


def test_text_and_attributes_are_escaped() -> None:
    hostile = '"><script>&'
    shown = html.page(
        hostile,
        html.table((hostile,), [(hostile, None, 3)], "none"),
        html.facts([(hostile, html.anchor(hostile, hostile))]),
    )
    assert "<script>" not in shown
    assert '<a href="&#34;&gt;&lt;script&gt;&amp;">&#34;&gt;&lt;script&gt;&amp;</a>' in shown
    assert "<td></td><td>3</td>" in shown
