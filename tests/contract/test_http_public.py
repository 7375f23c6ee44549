"""Chapter "HTTP, public": links, ledger, timeline, identity, problem documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import tokens
from tests.support.inside import Inside, inside
from tests.support.lives import FIVE, connect, ended
from tests.support.py_client import py_client

LINK = "/api/bots/bot/link"
ME = {"X-User-Id": "user"}


async def test_a_link_is_started_once_while_it_lives(program: Inside) -> None:
    status, first, _ = await program.request("PUT", LINK, headers=ME)
    assert status == 202
    assert first["linkId"]
    assert first["state"] in {"connecting", "qr"}
    status, again, _ = await program.request("PUT", LINK, headers=ME)
    assert (status, again["linkId"]) == (202, first["linkId"])


async def test_an_ended_link_starts_anew(program: Inside) -> None:
    user = program.user()
    await connect(user)
    old = (await user.snapshot())["linkId"]
    status, answer, _ = await program.request("DELETE", LINK, headers=ME)
    assert status in {200, 202}, answer
    await user.state("logged_out")
    assert (await user.link())["linkId"] != old


async def test_ending_what_is_not_there_changes_nothing(program: Inside) -> None:
    status, snapshot, _ = await program.request("DELETE", LINK, headers=ME)
    assert (status, snapshot["state"]) == (200, "idle")


async def test_a_key_without_a_link_is_idle(program: Inside) -> None:
    status, snapshot, _ = await program.request("GET", LINK, headers=ME)
    assert status == 200
    assert (snapshot["state"], snapshot["seq"], snapshot["userId"], snapshot["botId"]) == ("idle", 0, "user", "bot")
    assert snapshot["linkId"] is None


@pytest.mark.parametrize(
    ("action", "state"),
    [("disconnect", "disconnected"), ("logout", "logged_out"), ("replace", "replaced"), ("ban", "banned")],
)
async def test_the_simulated_phone_does_as_it_is_told(tmp_path: Path, action: str, state: str) -> None:
    async with inside(tmp_path, disconnect_grace=0.05) as program:
        user = program.user()
        await connect(user)
        await user.simulate(action)
        await user.state(state)


async def test_a_lost_connection_comes_back(tmp_path: Path) -> None:
    async with inside(tmp_path, disconnect_grace=0.05) as program:
        user = program.user()
        await connect(user)
        await user.simulate("disconnect")
        await user.state("disconnected")
        await user.simulate("reconnect")
        await user.state("connected")


async def test_a_short_loss_is_told_to_nobody(program: Inside) -> None:
    user = program.user()
    await connect(user)
    await user.simulate("disconnect")
    await user.simulate("reconnect")
    await user.state("connected")
    assert [event["type"] for event in await user.ledger()][4:] == []


async def test_the_ledger_has_every_event_with_its_attempts(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        await connect(user)
        await page.count(4)
        await ended(user, 4, "acked")
    for event, heard in zip(await user.ledger(), page.events, strict=True):
        assert {"id", "seq", "type", "createdAt", "outcome", "attempts"} <= event.keys()
        assert (event["id"], event["seq"], event["type"]) == (heard["id"], heard["seq"], heard["type"])
        assert event["createdAt"] == heard["timestamp"]
        (attempt,) = event["attempts"]
        assert (attempt["mode"], attempt["result"], attempt["sockets"]) == ("live", "sent", 1)
        assert attempt["at"] >= event["createdAt"]
        assert "qr" not in event, "a code is a secret"


async def test_the_ledger_is_read_in_pages(program: Inside) -> None:
    user = program.user()
    await connect(user)
    read: list[int] = []
    after = 0
    for _ in range(10):
        _, page, _ = await program.request("GET", f"/api/bots/bot/events?after={after}&limit=1", headers=ME)
        read += [event["seq"] for event in page["events"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert read == [1, 2, 3, 4]
    _, rest, _ = await program.request("GET", "/api/bots/bot/events?after=2&limit=500", headers=ME)
    assert [event["seq"] for event in rest["events"]] == [3, 4]
    assert rest["next"] is None


@pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=0", "limit=x", "limit=100000"])
async def test_a_page_that_cannot_be_is_a_problem(program: Inside, query: str) -> None:
    status, problem, headers = await program.request("GET", f"/api/bots/bot/events?{query}", headers=ME)
    assert status == 400
    assert problem["code"]
    assert headers["content-type"].startswith("application/problem+json")


async def test_an_events_timeline_goes_from_created_to_resolved(program: Inside) -> None:
    user = program.user()
    await user.link()
    await user.state("qr")
    async with py_client(program.url) as page:
        await page.until(lambda: page.events)
        done = await ended(user, 1, "acked")
    status, event, _ = await program.request("GET", f"/api/events/{done[0]['id']}", headers=ME)
    assert status == 200
    kinds = [step["kind"] for step in event["steps"]]
    assert kinds[0] == "created"
    assert kinds[-1] == "resolved"
    assert "missed" in kinds
    assert "sent" in kinds
    assert "ack" in kinds
    assert kinds.index("missed") < kinds.index("sent") < kinds.index("ack")
    assert [step["at"] for step in event["steps"]] == sorted(step["at"] for step in event["steps"])
    assert re.fullmatch(r"[0-9a-f]{32}", event["traceId"])
    assert event["outcome"] in FIVE


async def test_an_event_of_somebody_else_is_not_there(program: Inside) -> None:
    await program.user().link()
    (first, *_) = await program.user().ledger()
    status, problem, _ = await program.request("GET", f"/api/events/{first['id']}", headers={"X-User-Id": "thief"})
    assert (status, problem["code"]) == (404, "event_not_found")
    assert await program.user("thief").ledger() == []


async def test_without_identity_nothing_is_answered(program: Inside) -> None:
    for method, path in (("PUT", LINK), ("GET", LINK), ("DELETE", LINK), ("GET", "/api/bots/bot/events")):
        status, problem, headers = await program.request(method, path)
        assert status in {400, 401}, path
        assert problem["code"] in {"user_id_invalid", "unauthorized"}
        assert headers["content-type"].startswith("application/problem+json")


async def test_a_token_says_who_calls(tmp_path: Path) -> None:
    key = tokens.private_key("ES256")
    async with inside(tmp_path, auth="jwt", jwt_public_key=tokens.public_pem(key)) as program:
        token = tokens.token(key, algorithm="ES256", kid=None)
        status, snapshot, _ = await program.request("GET", LINK, headers={"Authorization": f"Bearer {token}"})
        assert status == 200
        assert snapshot["userId"]
        both = {"Authorization": f"Bearer {token}", "X-User-Id": "somebody-else"}
        status, problem, _ = await program.request("GET", LINK, headers=both)
        assert (status, problem["code"]) == (403, "forbidden"), "the token counts, not the header"
        for headers in ({}, {"Authorization": "Bearer nonsense"}, ME):
            status, problem, _ = await program.request("GET", LINK, headers=headers)
            assert (status, problem["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/nothing", 404, "not_found"),
        ("PATCH", LINK, 405, "method_not_allowed"),
        ("GET", f"/api/bots/{'x' * 1000}/link", 400, "bot_id_invalid"),
        ("GET", "/api/events/no-such-event", 404, "event_not_found"),
    ],
)
async def test_a_problem_document_says_what_is_wrong(
    program: Inside, method: str, path: str, status: int, code: str
) -> None:
    got, problem, headers = await program.request(method, path, headers=ME)
    assert (got, problem["status"], problem["code"]) == (status, status, code)
    assert {"type", "title", "detail"} <= problem.keys()
    assert headers["content-type"].startswith("application/problem+json")


async def test_the_program_says_that_it_is_alive(program: Inside) -> None:
    status, answer, _ = await program.request("GET", "/healthz")
    assert (status, answer) == (200, {"status": "ok"})


async def test_with_the_real_driver_there_is_no_phone_to_play(tmp_path: Path) -> None:
    async with inside(tmp_path, whatsapp_driver="neonize") as program:
        status, problem, _ = await program.request("POST", f"{LINK}/simulate", headers=ME, json={"action": "scan"})
        assert status == 409
        assert problem["code"]


async def test_metrics_and_debug_are_not_public(program: Inside) -> None:
    for path in ("/metrics", "/debug/sockets", "/debug/links", "/readyz", "/debug/faults"):
        status, _, _ = await program.request("GET", path, headers=ME)
        assert status == 404, path
