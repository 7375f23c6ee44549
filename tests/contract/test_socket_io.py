"""Chapter "Socket.IO": the handshake, the event, the snapshot, what a refusal says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import socketio

from tests.support.inside import Inside, inside
from tests.support.lives import connect, ended
from tests.support.py_client import py_client

NO_EVENT = 0.2
"""Seconds that a test gives to what must not come."""


async def refusal(url: str, auth: Any) -> dict[str, Any]:
    """What the stock client is told when it is not let in."""
    client = socketio.AsyncClient(reconnection=False)
    told: list[Any] = []
    client.on("connect_error", told.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(url, auth=auth, transports=["websocket"])
    await client.disconnect()
    (first, *_) = told
    assert isinstance(first, dict)
    return first


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({"userId": "user"}, "bot_id_missing"),
        ({"userId": "user", "botId": ""}, "bot_id_missing"),
        ({"userId": "user", "botId": "x" * 1000}, "bot_id_invalid"),
        ({"userId": "user", "botId": "a\nb"}, "bot_id_invalid"),
        ({"userId": "user", "botId": 5}, "bot_id_invalid"),
        ({"userId": "", "botId": "bot"}, "user_id_invalid"),
        ({"userId": "x" * 1000, "botId": "bot"}, "user_id_invalid"),
    ],
)
async def test_a_refusal_is_a_sentence_and_a_code(program: Inside, auth: Any, code: str) -> None:
    told = await refusal(program.url, auth)
    assert told["data"]["code"] == code
    assert told["message"].endswith(".")
    assert " " in told["message"]


async def test_one_socket_more_than_a_key_may_have_is_refused(tmp_path: Path) -> None:
    async with (
        inside(tmp_path, max_sockets_per_key=2) as program,
        py_client(program.url) as first,
        py_client(program.url) as second,
    ):
        told = await refusal(program.url, {"userId": "user", "botId": "bot"})
        assert told["data"]["code"] == "too_many_sockets"
        async with py_client(program.url, bot="other"):
            pass  # another key has its own
        assert first.io.connected
        assert second.io.connected
        await second.io.disconnect()
        async with asyncio.timeout(5):
            while (await program.admin("GET", "/debug/sockets"))[1]["totals"]["sockets"] > 1:
                await asyncio.sleep(0.01)
        async with py_client(program.url):
            pass  # whoever left makes room


async def test_the_older_frontends_query_is_a_handshake_too(program: Inside) -> None:
    client = socketio.AsyncClient(reconnection=False)
    snapshots: list[Any] = []
    client.on("whatsapp_status_update", snapshots.append)
    await client.connect(f"{program.url}?userId=older&botId=bot-1", transports=["websocket"])
    async with asyncio.timeout(5):
        while not snapshots:
            await asyncio.sleep(0.01)
    assert (snapshots[0]["userId"], snapshots[0]["botId"]) == ("older", "bot-1")
    await client.disconnect()


async def test_an_event_has_the_fields_of_the_contract(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        await connect(user)
        events = await page.count(4)
    link = (await user.snapshot())["linkId"]
    assert [event["type"] for event in events] == [
        "whatsapp_connecting",
        "whatsapp_qr",
        "whatsapp_paired",
        "whatsapp_connected",
    ]
    for seq, event in enumerate(events, 1):
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", event["id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", event["traceparent"])
        assert (event["seq"], event["userId"], event["botId"], event["linkId"]) == (seq, "user", "bot", link)
        assert (event["replayed"], event["attempt"]) == (False, 1)
    _, code, paired, connected = events
    assert (code["index"], code["total"]) == (1, 6)
    assert code["expiresAt"] > code["timestamp"]
    assert code["qr"].startswith("2@")
    assert paired["phoneNumber"] == connected["phoneNumber"]
    assert re.fullmatch(r"\+\d{8,15}", connected["phoneNumber"])
    assert connected["displayName"]
    assert connected["first"] is True


async def test_a_second_connection_of_a_link_is_not_the_first(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        await connect(user)
        await user.simulate("disconnect")
        await user.simulate("reconnect")
        await page.until(lambda: [event.get("first") for event in page.events].count(False) or len(page.events) == 4)
    again = [event for event in page.events[4:] if event["type"] == "whatsapp_connected"]
    assert all(event["first"] is False for event in again)


@pytest.mark.parametrize(
    ("action", "type_", "state"),
    [
        ("logout", "whatsapp_logged_out", "logged_out"),
        ("replace", "whatsapp_replaced", "replaced"),
        ("ban", "whatsapp_banned", "banned"),
    ],
)
async def test_an_end_says_why_and_what_to_do(program: Inside, action: str, type_: str, state: str) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        await connect(user)
        await user.simulate(action)
        await page.until(lambda: page.events[-1]["type"] == type_)
        told = page.events[-1]
        assert told["reasonCode"]
        assert isinstance(told["retryable"], bool)
        assert told["userAction"]
        assert (await user.snapshot())["state"] == state


async def test_codes_that_ran_out_are_told(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        await user.link()
        await user.state("qr")
        await user.simulate("expire")
        await page.until(lambda: page.events[-1]["type"] == "whatsapp_qr_expired")
    assert (await user.snapshot())["state"] == "qr_expired"


async def test_a_phone_number_gets_a_pairing_code(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        await user.link(phone_number="+447400123456")
        await page.until(lambda: page.events and page.events[-1]["type"] == "whatsapp_pairing_code")
        assert re.fullmatch(r"[A-Z0-9]{4}-?[A-Z0-9]{4}", page.events[-1]["pairingCode"])
        assert page.events[-1]["expiresAt"]


async def test_the_snapshot_comes_at_connect_and_when_asked_for(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        assert page.snapshots[0]["state"] == "idle"
        assert page.snapshots[0]["seq"] == 0
        await connect(user)
        await page.count(4)
        await page.io.emit("status")
        await page.until(lambda: len(page.snapshots) > 1)
        assert page.snapshots[-1]["state"] == "connected"
        assert page.snapshots[-1]["seq"] == 4
        assert page.snapshots[-1] == {**await user.snapshot(), "seq": 4}
    async with py_client(program.url) as late:
        assert late.snapshots[0]["state"] == "connected"
        assert late.snapshots[0]["phoneNumber"] == page.events[-1]["phoneNumber"]


async def test_a_waiting_code_is_in_the_snapshot(program: Inside) -> None:
    user = program.user()
    await user.link()
    await user.state("qr")
    async with py_client(program.url) as page:
        await page.until(lambda: page.snapshots[-1]["state"] == "qr")
        assert page.snapshots[-1]["qr"].startswith("2@")
        assert page.snapshots[-1]["expiresAt"]


async def test_what_happened_while_nobody_was_there_is_replayed_in_order(program: Inside) -> None:
    user = program.user()
    await connect(user)
    async with py_client(program.url) as page:
        await page.until(lambda: page.events and page.events[-1]["type"] == "whatsapp_connected")
        await asyncio.sleep(NO_EVENT)
    assert all(event["replayed"] and event["attempt"] == 2 for event in page.events)
    assert page.seqs == sorted(set(page.seqs))
    assert "whatsapp_qr" not in [event["type"] for event in page.events], "the code was used"
    await ended(user, len(page.events), "acked")
    async with py_client(program.url) as again:
        await asyncio.sleep(NO_EVENT)
    assert again.events == [], "what was acknowledged does not come again"


async def test_every_socket_of_a_key_gets_every_event(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as one, py_client(program.url, transports=["polling"]) as two:
        await connect(user)
        assert await one.count(4) == await two.count(4)


async def test_nobody_gets_what_is_anothers(program: Inside) -> None:
    async with (
        py_client(program.url, "user", "bot") as own,
        py_client(program.url, "user", "other-bot") as beside,
        py_client(program.url, "stranger", "bot") as stranger,
    ):
        await connect(program.user())
        await own.count(4)
        await asyncio.sleep(NO_EVENT)
    assert beside.events == stranger.events == []


async def test_ids_that_join_to_the_same_text_are_different_keys(program: Inside) -> None:
    async with py_client(program.url, "a_b", "c") as one, py_client(program.url, "a", "b_c") as other:
        await program.user("a_b").link("c")
        await one.count(1)
        await asyncio.sleep(NO_EVENT)
    assert other.events == []


async def test_a_client_that_keeps_its_acks_back_is_tried_again(tmp_path: Path) -> None:
    async with inside(tmp_path, ack_timeout=0.1) as program:
        async with py_client(program.url, acking=False, acks=True) as page:
            await program.user().link()
            await page.until(lambda: [event["attempt"] for event in page.events if event["seq"] == 1][:2] == [1, 2])
        first = next(event for event in await program.user().ledger() if event["seq"] == 1)
        assert [attempt["result"] for attempt in first["attempts"][:2]] == ["missed", "missed"]
        assert first["attempts"][0]["reason"] == "ack_timeout"


async def test_a_client_that_never_acks_confirms_by_its_transport(tmp_path: Path) -> None:
    async with inside(tmp_path, ack_timeout=0.2, ping_interval=1) as program:
        async with py_client(program.url, acking=False) as page:
            await program.user().link()
            await page.count(2)
            events = await ended(program.user(), 2, "received", within=15)
        assert [len(event["attempts"]) for event in events] == [1, 1]


async def test_a_traceparent_of_the_handshake_is_no_reason_to_refuse(program: Inside) -> None:
    trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    for value in (trace, "nonsense", ""):
        async with py_client(program.url, traceparent=value) as page:
            assert page.snapshots
