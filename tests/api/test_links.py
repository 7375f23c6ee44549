from __future__ import annotations

import pytest
from yarl import URL

from roundtrip.identity import BotKey
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from roundtrip.outbox.base import OutboxError
from tests.support.api import Api

KEY = BotKey("ada", "bot")
LINK = "/api/bots/bot/link"


async def test_put_starts_a_link_and_says_its_id_and_state(served: Api) -> None:
    status, data, headers = await served.call("PUT", LINK)
    assert (status, data) == (202, {"linkId": "link-of-bot", "state": "connecting"})
    assert headers["Cache-Control"] == "no-store"
    assert served.links.commands == [("start", KEY, None)]


@pytest.mark.parametrize("body", [b"", b"{}", b" ", b'{"unknown": 1}', b'{"phoneNumber": null}'])
async def test_the_body_is_optional(served: Api, body: bytes) -> None:
    status, _, _ = await served.call("PUT", LINK, data=body)
    assert status == 202


async def test_a_phone_number_asks_for_a_pairing_code(served: Api) -> None:
    status, _, _ = await served.call("PUT", LINK, json={"phoneNumber": "+4915112345678"})
    assert status == 202
    assert served.links.commands == [("start", KEY, "+4915112345678")]


async def test_a_request_is_a_span_whose_context_goes_on_to_the_link(served: Api) -> None:
    parent = "00-11111111111111111111111111111111-2222222222222222-01"
    await served.call("PUT", LINK, headers={"traceparent": parent})
    ((name, given, step),) = served.tracer.spans
    assert (name, given) == ("PUT /api/bots/{bot_id}/link", parent)
    assert served.links.traceparents == [step.traceparent]
    assert step.attributes["http.response.status_code"] == 202
    assert step.error is None


async def test_only_the_servers_own_errors_fail_the_span(served: Api) -> None:
    served.links.error = LinkError("too_many_links", "No more.", 60)
    await served.call("PUT", LINK)
    served.links.error = OutboxError("outbox_unavailable", "The disk is full.")
    await served.call("PUT", LINK)
    assert [step.error for _, _, step in served.tracer.spans] == [None, "503"]


async def test_get_is_the_snapshot_with_the_newest_seq(served: Api) -> None:
    status, data, _ = await served.call("GET", LINK)
    assert (status, data["state"], data["seq"], data["linkId"]) == (200, "idle", 0, None)
    served.links.states[KEY] = LinkState.CONNECTED
    await served.event(KEY)
    _, data, _ = await served.call("GET", LINK)
    assert (data["state"], data["seq"], data["userId"], data["botId"]) == ("connected", 1, "ada", "bot")
    assert not served.tracer.spans  # reading causes nothing


async def test_delete_logs_out(served: Api) -> None:
    status, data, _ = await served.call("DELETE", LINK)
    assert (status, data["code"]) == (404, "link_not_found")
    await served.call("PUT", LINK)
    status, data, _ = await served.call("DELETE", LINK)
    assert (status, data["state"]) == (200, "logged_out")


async def test_simulate_passes_the_action_on(served: Api) -> None:
    status, _, _ = await served.call("POST", f"{LINK}/simulate", json={"action": "scan"})
    assert status == 200
    assert served.links.commands == [("simulate", KEY, "scan")]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"action":"dance"}', b'{"action":1}', b"[]", b'"scan"'])
async def test_simulate_refuses_what_the_phone_cannot_do(served: Api, body: bytes) -> None:
    status, data, _ = await served.call("POST", f"{LINK}/simulate", data=body)
    assert (status, data["code"]) == (400, "body_invalid")
    assert not served.links.commands


async def test_a_links_error_is_its_problem(served: Api) -> None:
    served.links.error = LinkError("banned", "WhatsApp says no.", 12.4)
    status, data, headers = await served.call("PUT", LINK)
    assert (status, data["code"], data["detail"]) == (409, "banned", "WhatsApp says no.")
    assert headers["Retry-After"] == "13"
    assert headers["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/bots//link", "bot_id_missing"),
        ("/api/bots/%20/link", "bot_id_invalid"),
        (f"/api/bots/{'b' * 129}/link", "bot_id_invalid"),
        ("/api/bots/%00/link", "bot_id_invalid"),
        ("/api/bots/a%0Ab/link", "bot_id_invalid"),
    ],
)
async def test_a_wrong_bot_id_is_refused_with_its_code(served: Api, path: str, code: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        status, data, _ = await served.call(method, path)
        assert (status, data["code"]) == (400, code), method
    assert not served.links.commands


async def test_a_slash_may_be_part_of_a_bot_id(served: Api) -> None:
    status, data, _ = await served.call("GET", "/api/bots/a%2Fb/link")
    assert (status, data["botId"]) == (200, "a/b")


@pytest.mark.parametrize("bot", ["%FF", "a%FFb", "%C3%28", "%zz", "%", "a%2", "%ED%A0%80"])
@pytest.mark.parametrize("path", ["/api/bots/{}/link", "/api/bots/{}/events"])
async def test_a_bot_id_that_does_not_decode_is_nobodys(served: Api, bot: str, path: str) -> None:
    url = URL(served.url + path.format(bot), encoded=True)
    async with served.session.get(url, headers={"X-User-Id": "ada"}) as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["code"]) == (400, "bot_id_invalid")


async def test_what_decodes_is_taken_as_it_is(served: Api) -> None:
    for bot in ("%25FF", "%C3%A4", "a%2Fb", "100%25"):
        url = URL(f"{served.url}/api/bots/{bot}/link", encoded=True)
        async with served.session.put(url, headers={"X-User-Id": "ada"}) as response:
            assert response.status == 202
    assert [key.bot_id for _, key, _ in served.links.commands] == ["%FF", "ä", "a/b", "100%"]


async def test_a_caller_sees_the_bots_that_are_linked_and_nobody_elses(served: Api) -> None:
    assert (await served.call("GET", "/api/bots"))[1] == {"bots": []}
    served.links.states = {KEY: LinkState.CONNECTED, BotKey("bob", "other"): LinkState.CONNECTED}
    status, data, _ = await served.call("GET", "/api/bots")
    assert status == 200
    (bot,) = data["bots"]
    assert (bot["userId"], bot["botId"], bot["state"]) == ("ada", "bot", "connected")
