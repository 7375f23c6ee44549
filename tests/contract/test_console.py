"""The console by its public addresses: state, stream, traces, privacy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.inside import Inside, inside
from tests.support.py_client import py_client

Message = tuple[str, Any]


@asynccontextmanager
async def stream(program: Inside) -> AsyncIterator[AsyncIterator[Message]]:
    async with program.session.get(f"{program.admin_url}/debug/console/stream") as response:
        assert response.content_type == "text/event-stream"

        async def messages() -> AsyncIterator[Message]:
            event = ""
            async for line in response.content:
                if line.startswith(b"event: "):
                    event = line[7:].strip().decode()
                elif line.startswith(b"data: "):
                    yield event, json.loads(line[6:])

        yield messages()


async def state(program: Inside) -> Any:
    status, found, headers = await program.admin("GET", "/debug/console.json")
    assert status == 200
    assert headers["cache-control"] == "no-store"
    return found


async def missed(program: Inside, user: str = "ada") -> str:
    """Somebody links bot-1 while the page says bot-2; the id of the newest event."""
    it = program.user(user)
    async with py_client(program.url, user, "bot-2"):
        await it.link("bot-1")
        await it.state("qr", "bot-1")
        return str((await it.ledger("bot-1"))[-1]["id"])


async def test_the_state_has_the_verdict_and_what_it_is_made_from(program: Inside) -> None:
    quiet = await state(program)
    assert quiet["verdict"]["level"] == "ok"
    event = await missed(program)
    found = await state(program)
    assert found["verdict"]["cause"] == "key_mismatch"
    assert found["verdict"]["target"] == f"/console/events/{event}"
    assert "ada is connected as bot-2, events go to bot-1" in found["verdict"]["text"]
    (group,) = found["misses"]["groups"]
    assert (group["reason"], group["lookedFor"], group["connected"]) == ("key_mismatch", "bot-1", ["bot-2"])
    assert set(found["faults"][0]) >= {"name", "active", "expect"}


async def test_the_stream_begins_with_the_state_and_tells_a_miss_at_once(program: Inside) -> None:
    async with stream(program) as messages, asyncio.timeout(10):
        event, first = await anext(messages)
        assert event == "state"
        assert first["verdict"]["level"] == "ok"
        asking = asyncio.create_task(missed(program))
        seen: list[Message] = []
        async for event, data in messages:
            seen.append((event, data))
            told = "key_mismatch" in str(data.get("verdict")) if event == "tick" else False
            if told:
                break
        newest = await asking
        misses = [data for event, data in seen if event == "miss"]
        assert [miss["reason"] for miss in misses] == ["key_mismatch"] * 2
        assert misses[-1]["eventId"] == newest
        ticks = [data for event, data in seen if event == "tick"]
        assert all(len(json.dumps(tick)) < 16_000 for tick in ticks), "small messages"


async def test_a_replay_ends_the_wait(program: Inside) -> None:
    await missed(program)
    async with py_client(program.url, "ada", "bot-1", acks=True) as page, asyncio.timeout(10):
        await page.count(1)
        while (found := await state(program))["verdict"]["level"] != "ok":
            await asyncio.sleep(0.05)
    assert found["misses"]["waiting"] == 0
    assert found["misses"]["groups"], "what missed stays listed"


async def test_traces_without_a_collector(program: Inside) -> None:
    event = await missed(program)
    async with py_client(program.url, "ada", "bot-1", acks=True), asyncio.timeout(5):
        while True:
            _, found, _ = await program.admin("GET", f"/debug/traces?event={event}")
            if [trace["spans"] for trace in found["traces"]] == [2, 2]:  # create, emit; emit, ack within the replay's
                break
            await asyncio.sleep(0.02)
    own = next(trace for trace in found["traces"] if trace["errors"])
    assert own["errors"] == ["key_mismatch"]
    _, trace, _ = await program.admin("GET", f"/debug/traces/{own['traceId']}")
    names = [span["name"] for span in trace["spans"]]
    assert {"PUT /api/bots/{bot_id}/link", "link start", "create whatsapp_qr"} <= set(names)
    emit = next(span for span in trace["spans"] if span["error"])
    assert emit["attributes"]["roundtrip.miss.reason"] == "key_mismatch"
    assert {other["traceId"] for other in found["traces"]} - {own["traceId"]} == set(trace["linked"])
    assert {"emit_missed", "link_start"} <= {line["event"] for line in trace["lines"]}
    _, whole, _ = await program.admin("GET", f"/debug/console/events/{event}")
    assert {span["name"] for span in whole["traces"]["spans"]} >= {"emit whatsapp_qr", "replay", "socket connect"}
    key = emit["attributes"]["roundtrip.key.hash"]
    _, by_key, _ = await program.admin("GET", f"/debug/traces?key={key}&failed=true")
    assert [trace["traceId"] for trace in by_key["traces"]] == [own["traceId"]]
    assert (await program.admin("GET", f"/debug/traces/{'0' * 32}"))[0] == 404
    assert (await program.admin("GET", "/debug/traces?limit=0"))[0] == 400


async def test_what_a_log_may_not_hold_is_not_shown(tmp_path: Path) -> None:
    phone, secret = "491701234567", "a secret that is long enough"
    async with inside(tmp_path, pii_hash_key=secret, whatsapp_proxy="http://me:hidden@proxy.example:1") as program:
        it = program.user("ada")
        async with py_client(program.url, "ada", "bot", acks=True) as page:
            await it.link("bot", f"+{phone}")
            await it.state("pairing_code", "bot")
            await it.link("bot")
            await it.state("qr", "bot")
            await it.simulate("scan", "bot")
            await it.state("connected", "bot")
            await page.until(lambda: page.events[-1]["type"] == "whatsapp_connected")
        payloads = {event["type"]: event for event in page.events}
        canaries = [phone[-9:], secret, "hidden", payloads["whatsapp_connected"]["displayName"]]
        canaries += [
            payloads[f"whatsapp_{kind}"][name] for kind, name in (("qr", "qr"), ("pairing_code", "pairingCode"))
        ]
        event = page.events[-1]["id"]
        _, traces, _ = await program.admin("GET", "/debug/traces")
        paths = ["/debug/console.json", "/debug/console/sockets", "/debug/console/links", "/debug/traces"]
        paths += [f"/debug/console/events/{event}", "/debug/console/story?user=ada", "/debug/console/search?q=ada"]
        paths += [f"/debug/traces/{trace['traceId']}" for trace in traces["traces"]]
        for path in paths:
            status, shown, _ = await program.admin("GET", path)
            assert status == 200, path
            for canary in canaries:
                assert canary not in json.dumps(shown, ensure_ascii=False), (path, canary)
        settings = (await state(program))["settings"]
        assert settings["ROUNDTRIP_PII_HASH_KEY"] == {"value": "set", "default": False}
        assert settings["ROUNDTRIP_ADMIN_KEY"] == {"value": "not set", "default": True}
        assert settings["ROUNDTRIP_WHATSAPP_PROXY"]["value"] == "set"


async def test_the_story_of_a_key_and_pages_of_lists(program: Inside) -> None:
    for _ in range(2):
        async with py_client(program.url, "ada", "bot"):
            pass
    async with py_client(program.url, "ada", "bot"), asyncio.timeout(5):
        while True:
            _, story, _ = await program.admin("GET", "/debug/console/story?user=ada&bot=bot")
            if len(story["passages"]) == 5:
                break
            await asyncio.sleep(0.02)
        assert [passage["came"] for passage in story["passages"]] == [True, False, True, False, True]
        assert len(story["keys"][0]["sockets"]) == 1
        _, page, _ = await program.admin("GET", "/debug/console/sockets?q=AD&limit=1")
        assert ([key["userId"] for key in page["keys"]], page["more"]) == (["ada"], False)
        assert (await program.admin("GET", "/debug/console/sockets?q=nobody"))[1]["keys"] == []
    await program.user("ada").link("bot")
    _, page, _ = await program.admin("GET", "/debug/console/links?q=ada")
    assert (page["total"], page["links"][0]["link"]["botId"]) == (1, "bot")
    assert (await program.admin("GET", "/debug/console/links?state=banned"))[1]["total"] == 0


async def test_a_stop_ends_open_streams(tmp_path: Path) -> None:
    async with inside(tmp_path) as program:
        response = await program.session.get(f"{program.admin_url}/debug/console/stream")
        await response.content.readline()
        stopping = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping < 3
    response.close()
