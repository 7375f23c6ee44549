"""What a handshake may say, how each refusal reaches the client, and what a slow one leaves behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey, Principal, parse_user_id
from roundtrip.limits.addresses import ADDRESS
from roundtrip.outbox.records import MissReason, Outcome
from roundtrip.sockets.access import Handshake, Refusal, parse_handshake
from tests.sockets.bare_server import make_server
from tests.sockets.raw import POLLING, connect, raw_handshake, raw_socket
from tests.support import sockets as support
from tests.support.node_client import node_client
from tests.support.py_client import eventually, py_client
from tests.support.sockets import Notes, stage
from tests.support.stepped_loop import SteppedLoop

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)
CONNECT = '40{"userId":"user","botId":"bot","acks":true}'
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"


def test_a_handshake_takes_each_field_from_auth_and_else_from_the_query() -> None:
    query = {"QUERY_STRING": "userId=q&botId=a&botId=b&token=t&traceparent=t&acks=true"}
    assert parse_handshake(None, query, "1.2.3.4") == Handshake(None, "q", "b", False, None, "1.2.3.4")
    said = {"userId": None, "botId": "x", "token": 7, "traceparent": "00-1", "acks": True}
    assert parse_handshake(said, query, "") == Handshake(7, None, "x", True, "00-1", "")
    assert parse_handshake({"traceparent": 1, "acks": "yes"}, {"QUERY_STRING": "botId="}, "") == Handshake(
        None, None, "", False, None, ""
    )


def test_a_refusal_reads_as_its_sentence() -> None:
    assert str(Refusal("code", "A sentence.")) == "A sentence."


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        ({"userId": "user"}, "bot_id_missing"),
        ({"userId": "user", "botId": ""}, "bot_id_missing"),
        ({"userId": "user", "botId": "x" * 10_240}, "bot_id_invalid"),
        ({"userId": "user", "botId": 7}, "bot_id_invalid"),
        ({"userId": "user", "botId": {"a": 1}}, "bot_id_invalid"),
        ({"userId": "user", "botId": "a\nb"}, "bot_id_invalid"),
        ({"userId": ["user"], "botId": "bot"}, "user_id_invalid"),
        ({"botId": "bot"}, "user_id_invalid"),
        ("not an object", "user_id_invalid"),
        (None, "user_id_invalid"),
    ],
)
async def test_a_bad_handshake_is_refused_with_its_code(auth: Any, code: str) -> None:
    async with stage() as s:
        session, ws, answer = await raw_handshake(s, auth)
        async with session:
            assert answer.startswith("44"), answer
            refusal = json.loads(answer[2:])
            assert refusal["data"] == {"code": code}
            assert refusal["message"].endswith(".")
            await ws.close()
        assert s.notes.connects == [code]
        assert len(s.registry) == 0


@pytest.mark.parametrize(
    ("query", "code"),
    [("userId=user&botId=%FF", "bot_id_invalid"), ("userId=%C3%28&botId=bot", "user_id_invalid")],
)
async def test_an_id_in_the_query_that_does_not_decode_is_refused(query: str, code: str) -> None:
    async with stage() as s:
        session, ws, answer = await raw_handshake(s, None, query)
        async with session:
            assert json.loads(answer.removeprefix("44"))["data"] == {"code": code}
            await ws.close()


async def test_the_stock_client_sees_a_refusal_as_connect_error() -> None:
    async with stage() as s, node_client(s.url, {"userId": "user"}, reconnection=False) as client:
        [error] = await client.heard("connect_error")
        assert error["data"] == {"code": "bot_id_missing"}
        assert "botId" in error["message"]


async def test_the_older_frontend_names_its_ids_in_the_query() -> None:
    async with stage() as s, node_client(s.url, query={"userId": "user", "botId": "bot"}) as client:
        await client.heard("status")
        assert [peer.key for peer in s.registry.all()] == [KEY]


async def test_a_key_holds_as_many_sockets_as_the_setting_says() -> None:
    async with stage(max_sockets_per_key=2) as s, py_client(s.url), py_client(s.url):
        session, ws, answer = await raw_handshake(s, {"userId": "user", "botId": "bot"})
        async with session:
            assert json.loads(answer[2:])["data"] == {"code": "too_many_sockets"}
            await ws.close()
        await s.courier.publish(KEY, "link", CONNECTED)
        await eventually(lambda: s.notes.settled_)
        assert s.notes.settled_[0].sockets == 2


async def test_a_connection_that_ends_during_a_slow_handshake_is_mapped_nowhere() -> None:
    go_on = asyncio.Event()

    async def slow(handshake: Handshake) -> Principal:
        await go_on.wait()
        return Principal(parse_user_id(handshake.user_id))

    async with stage(admit=slow) as s, raw_socket(s.url, connect()) as client:
        await eventually(lambda: any(it.connect_received for it in s.server.engine.connections.values()))
        [connection] = s.server.engine.connections.values()
        await connection.end("draining")
        go_on.set()
        await client.ended()
        await eventually(lambda: s.notes.connects)
        assert s.notes.connects == ["unavailable"]
        assert len(s.registry) == 0
        assert not s.server._peers


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ((), None, 200),
        ((), "http://{host}", 200),
        ((), "https://{host}", 200),
        ((), "https://evil.example", 400),
        ((), "http://evil.example:80", 400),
        (("https://app.example",), "https://app.example", 200),
        (("https://app.example",), "https://evil.example", 400),
        (("https://app.example",), None, 200),
        (("*",), "https://evil.example", 200),
    ],
)
async def test_a_page_of_another_origin_is_refused(allowed: tuple[str, ...], origin: str | None, status: int) -> None:
    async with stage(cors_origins=allowed) as s, aiohttp.ClientSession() as session:
        named = {} if origin is None else {"Origin": origin.format(host=s.url.removeprefix("http://"))}
        async with session.get(s.url + POLLING, headers=named) as answer:
            assert answer.status == status
            if status == 200 and origin is not None:
                assert answer.headers["Access-Control-Allow-Origin"] == named["Origin"]
            assert "Access-Control-Allow-Credentials" not in answer.headers, "there are no cookies"


async def test_a_client_that_leaves_during_a_slow_handshake_leaves_no_ghost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow connect handler runs in the read loop; the socket could stay mapped for ever, without a disconnect."""
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def slow(handshake: Handshake) -> Principal:
        asked.set()
        await go_on.wait()
        return Principal(parse_user_id(handshake.user_id))

    monkeypatch.setattr(support, "trusted", slow)
    async with stage(ping_interval=1, ping_timeout=1) as s:
        async with aiohttp.ClientSession() as session, session.ws_connect(s.url + WEBSOCKET) as ws:
            await ws.receive_str()
            await ws.send_str(CONNECT)
            await asked.wait()
        go_on.set()
        await eventually(lambda: not s.server.engine.eio.sockets, within=6)
        assert len(s.registry) == 0
        event = await s.courier.publish(KEY, "link", CONNECTED)
        assert [attempt.reason for attempt in s.notes.missed_][-1] in {
            MissReason.NEVER_CONNECTED,
            MissReason.JUST_DISCONNECTED,
        }
        assert (await s.outbox.find(event.id)).outcome is Outcome.PENDING


async def test_a_handshake_that_is_never_decided_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_handshake: Handshake) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(support, "trusted", never)
    monkeypatch.setattr("roundtrip.sockets.server.CONNECT_TIMEOUT", 0.1)
    async with stage() as s, aiohttp.ClientSession() as session, session.ws_connect(s.url + WEBSOCKET) as ws:
        await ws.receive_str()
        await ws.send_str(CONNECT)
        answer = await ws.receive_str(timeout=5)
        assert answer.startswith("44")
        assert '"code":"unavailable"' in answer


@pytest.mark.parametrize(
    ("through_proxies", "direct", "seen"),
    [("192.0.2.7", "127.0.0.1", "192.0.2.7"), (None, "127.0.0.1", "127.0.0.1"), (None, None, "")],
)
async def test_the_address_is_the_one_behind_trusted_proxies(
    through_proxies: str | None, direct: str | None, seen: str
) -> None:
    """Without it all clients would share one limit."""
    handshakes: list[Handshake] = []

    async def admit(handshake: Handshake) -> Principal:
        handshakes.append(handshake)
        raise Refusal("unauthorized", "No.")

    notes = Notes()
    request: Any = _Request({} if through_proxies is None else {ADDRESS: through_proxies})
    request.remote = direct
    joins = make_server(notes=notes, admit=admit).engine.handlers["/"]["connect"]
    auth = {"botId": "b", "userId": "u", "acks": 1, "traceparent": 7, "token": "t"}
    with pytest.raises(Exception, match=r"No\.") as refused:
        await joins("sid", {"aiohttp.request": request, "QUERY_STRING": "userId=q&botId=q&token=q"}, auth)
    assert refused.value.error_args == {"message": "No.", "data": {"code": "unauthorized"}}  # type: ignore[attr-defined]  # python-socketio's
    assert handshakes == [Handshake("t", "u", "b", False, None, seen)]
    assert notes.connects == ["unauthorized"]


class _Request(dict[Any, Any]):
    remote: str | None


def test_a_token_is_checked_within_five_seconds_or_refused(loop: SteppedLoop) -> None:
    async def never(_handshake: Handshake) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError

    notes = Notes()
    request: Any = _Request()
    request.remote = "127.0.0.1"
    joins = make_server(notes=notes, admit=never).engine.handlers["/"]["connect"]
    connecting = loop.create_task(joins("sid", {"aiohttp.request": request, "QUERY_STRING": ""}))
    loop.settle()
    loop.advance(4.9)
    assert not connecting.done()
    loop.advance(0.2)
    assert connecting.exception() is not None
    assert notes.connects == ["unavailable"]


async def test_the_address_that_limits_count_is_the_clients_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = support.trusted

    async def admit(handshake: Any) -> Any:
        seen.append(handshake.remote)
        return await real(handshake)

    async with stage(admit=admit) as s, raw_socket(s.url, connect()) as it:
        await it.until("42")
        assert seen == ["127.0.0.1"]
