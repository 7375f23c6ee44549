"""The debug routes as JSON, on the admin listener only."""

from __future__ import annotations

import pytest

from roundtrip.delivery.wire import Miss
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkState
from roundtrip.outbox.records import MissReason
from tests.support.api import Api

KEY = BotKey("ada", "<b>bot</b>")


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


async def test_a_link_with_its_events(served: Api) -> None:
    key = BotKey("ada", "bot")
    event = await served.event(key)
    status, data, _ = await served.call("GET", "/debug/links/link-of-bot", admin=True)
    assert (status, data["code"]) == (404, "link_not_found")
    served.links.states[key] = LinkState.FAILED
    status, data, _ = await served.call("GET", "/debug/links/link-of-bot", admin=True)
    assert (status, data["link"]["state"], [entry["id"] for entry in data["events"]]) == (200, "failed", [event.id])
    _, data, _ = await served.call("GET", "/debug/links", admin=True)
    assert [link["linkId"] for link in data["links"]] == ["link-of-bot"]


async def test_an_event_whoever_it_belongs_to(served: Api) -> None:
    event = await served.event(KEY)
    status, data, _ = await served.call("GET", f"/debug/events/{event.id}", admin=True)
    assert (status, data["id"], data["userId"]) == (200, event.id, "ada")
    status, data, _ = await served.call("GET", "/debug/events/nothing", admin=True)
    assert (status, data["code"]) == (404, "event_not_found")


@pytest.mark.parametrize("path", ["/debug/sockets", "/debug/links", "/metrics", "/readyz", "/debug/faults"])
async def test_none_of_it_is_on_the_public_listener(served: Api, path: str) -> None:
    status, _, _ = await served.call("GET", path)
    assert status == 404
