"""What the engine and the socket server let pass, and what they refuse: a few of each."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from roundtrip.app import vocabulary
from roundtrip.delivery.wire import Miss
from roundtrip.events import Connected
from roundtrip.identity import BotKey, Principal, parse_user_id
from roundtrip.outbox.records import MissReason
from roundtrip.sockets.access import SocketAccess
from roundtrip.sockets.engineio.server import Json
from roundtrip.sockets.handshake import Handshake
from roundtrip.sockets.metrics import SocketCounters
from roundtrip.sockets.peer import IllegalTransitionError, PeerState
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry.metrics import Metrics
from tests.sockets.raw import POLLING, RawSocket, connect, raw_socket
from tests.sockets.test_peer import Joined
from tests.sockets.test_registry import Clock, socket
from tests.support.py_client import eventually
from tests.support.sockets import stage
from tests.support.stepped_loop import SteppedLoop

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)
PLACEHOLDER = '{"_placeholder":true,"num":0}'


async def still_serves(client: RawSocket) -> None:
    await client.send('429["status"]')
    await client.until("439[]")


# attachments


@pytest.mark.parametrize("sizes", [[1] * 8, [65_535], [65_000, 536], [0]], ids=str)
async def test_eight_attachments_as_large_as_a_packet_in_all_are_taken(sizes: list[int]) -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        names = ",".join(PLACEHOLDER.replace("0}", f"{number}}}") for number in range(len(sizes)))
        await client.send(f'45{len(sizes)}-7["status",{names}]')
        for size in sizes:
            await client.ws.send_bytes(b"x" * size)
        await client.until("437[]")
        assert s.notes.refused == []


async def test_an_attachment_over_the_limit_of_requests_takes_its_event_with_it() -> None:
    """What came of the event is forgotten, so that the next message is not taken for its attachment."""
    allowed = iter([True, True, False])

    class Door(SocketAccess):
        async def allowed(self, eio_sid: str) -> bool:
            return next(allowed, True)

    async with stage(door=Door()) as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(f'451-7["status",{PLACEHOLDER}]')
        await client.ws.send_bytes(b"x")
        await still_serves(client)
        assert s.notes.refused == []


async def test_what_came_of_an_event_goes_with_its_socket() -> None:
    async with stage() as s:
        async with raw_socket(s.url, connect(), f'452-7["status",{PLACEHOLDER}]') as client:
            await eventually(lambda: s.server.engine._binary_packet)
            await client.ws.close()
        await eventually(lambda: s.notes.disconnects)
        assert not s.server.engine._binary_packet
        assert not s.server.engine.environ


async def test_a_binary_acknowledgement_without_a_number_is_nobodys() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(f"461-[{PLACEHOLDER}]")
        await client.ws.send_bytes(b"x")
        await still_serves(client)
        assert s.notes.refused == []


async def test_a_binary_acknowledgement_that_is_no_array_closes_its_socket() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(f"461-1{PLACEHOLDER}")
        await client.ws.send_bytes(b"x")
        await client.ended()
        assert s.notes.refused in (["ack"], ["malformed"])
        assert s.notes.disconnects == ["transport error"]


# handshakes


async def test_a_connection_that_ends_during_a_slow_handshake_is_mapped_nowhere() -> None:
    go_on = asyncio.Event()

    async def slow(shake: Handshake) -> Principal:
        await go_on.wait()
        return Principal(parse_user_id(shake.user_id))

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


async def test_answers_are_not_compressed() -> None:
    """What a client sends and a secret of the server in one compressed answer would give the secret away."""
    async with stage() as s, aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(s.url + POLLING) as opened:
            sid = json.loads((await opened.text())[1:])["sid"]
        [connection] = s.server.engine.connections.values()
        for _ in range(100):
            await s.server.engine.eio.send(sid, "x" * 100)
        async with session.get(f"{s.url}{POLLING}&sid={sid}", headers={"Accept-Encoding": "gzip, deflate"}) as answer:
            assert "Content-Encoding" not in answer.headers
            assert len(await answer.read()) > 10_000
        assert connection.backlog == 0


# a peer's life, and its receipts


@pytest.fixture
def loop() -> Any:
    loop = SteppedLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


def test_a_peer_is_live_only_after_its_replay(loop: SteppedLoop) -> None:
    it = Joined(loop)
    assert it.peer.live
    with pytest.raises(IllegalTransitionError, match="live -> replaying"):
        it.peer.live = False
    assert it.peer.live, "there is no way back"
    it.peer._state = PeerState.REPLAYING
    it.peer.live = False
    assert not it.peer.live
    it.peer._state = PeerState.HANDSHAKING
    with pytest.raises(IllegalTransitionError, match="handshaking -> live"):
        it.peer.live = True
    assert not it.peer.live


def test_pongs_with_something_behind_them_count_like_others(loop: SteppedLoop) -> None:
    """`3probe` is no answer that a connection takes itself, but python-engineio reads it as a PONG."""
    it = Joined(loop, polling=True)
    event = it.sends(1)
    loop.settle()
    loop.run(it.connection._receive_payload("3x"))
    assert it.told.receipts == [[event]]
    for _ in range(999):
        loop.run(it.connection._receive_payload("3x"))
    assert it.server.refused == []
    loop.run(it.connection._receive_payload("3x"))
    loop.settle()
    assert it.server.refused == ["unasked"]
    assert it.server.ended == ["transport error"]


# what is remembered


def test_why_nobody_is_there_in_seconds() -> None:
    clock = Clock()
    registry = Registry(clock)
    peer = socket("sid")
    registry.add(peer)
    registry.remove(peer)
    reasons = []
    for age in (30.0, 31.0, 86_400.0, 86_401.0):
        clock.now = 1000.0 + age
        reasons.append(registry.why_missing(KEY).reason)
    assert reasons == [
        MissReason.JUST_DISCONNECTED,
        MissReason.DISCONNECTED,
        MissReason.DISCONNECTED,
        MissReason.NEVER_CONNECTED,
    ]


def test_twenty_thousand_keys_and_a_hundred_misses_are_remembered() -> None:
    registry = Registry(Clock())
    for number in range(20_005):
        peer = socket("sid", BotKey("user", str(number)))
        registry.add(peer)
        registry.remove(peer)
    assert registry.view().totals.remembered_keys == 20_000
    for number in range(101):
        registry.missed(KEY, "whatsapp_qr", str(number), Miss(MissReason.DISCONNECTED, ("other",)))
    misses = registry.view().misses
    assert [miss.event_id for miss in misses] == [str(number) for number in range(100, 0, -1)]
    assert (misses[0].looked_for, misses[0].connected, misses[0].type) == (("user", "bot"), ("other",), "whatsapp_qr")


def test_what_left_long_ago_is_forgotten_by_the_next_that_leaves() -> None:
    clock = Clock()
    registry = Registry(clock)
    for number, at in enumerate((0.0, 10.0, 86_405.0)):
        clock.now = 1000.0 + at
        peer = socket("sid", BotKey("user", str(number)))
        registry.add(peer)
        registry.remove(peer)
    assert registry.view().totals.remembered_keys == 2


def test_a_miss_has_its_moment_in_milliseconds_and_an_age_its_thousandths(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    registry = Registry(clock)
    monkeypatch.setattr("time.time_ns", lambda: 1_800_000_000_123_999_999)
    registry.missed(KEY, "whatsapp_qr", "1", Miss(MissReason.DISCONNECTED))
    assert registry.view().misses[0].at == 1_800_000_000_123
    registry.add(socket("sid"))
    clock.now = 1000.123_456
    assert registry.view().keys[0].sockets[0].age == 10.123


# what is counted, and how JSON is read


def test_each_refusal_and_each_end_has_its_count() -> None:
    made = Metrics(vocabulary(), "0")
    meter = SocketCounters(made)
    for code in (
        "accepted",
        "bot_id_missing",
        "bot_id_invalid",
        "user_id_invalid",
        "too_many_sockets",
        "unauthorized",
        "forbidden",
        "rate_limited",
        "unavailable",
    ):
        meter.connected(code)
        assert value(made.registry, "roundtrip_socket_connects_total", result=code) == 1.0
    for reason in ("transport close", "transport error", "ping timeout", "token_expired", "draining", "queue_full"):
        meter.disconnected(reason, 2.5)
        assert value(made.registry, "roundtrip_socket_disconnects_total", reason=reason) == 1.0
    assert value(made.registry, "roundtrip_socket_lifetime_seconds_count") == 6.0
    assert value(made.registry, "roundtrip_socket_lifetime_seconds_sum") == 15.0
    for what in ("attachments", "malformed", "namespace", "ack", "second_connect", "not_joined", "unasked", "jsonp"):
        meter.packet_refused(what)
        assert value(made.registry, "roundtrip_packets_refused_total", what=what) == 1.0
    before = failures(made.registry)
    meter.step_failed()
    assert failures(made.registry) == before + 1


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name and sample.labels.items() >= labels.items()
    ]
    return found[0] if found else math.nan


def failures(registry: CollectorRegistry) -> float:
    return value(registry, "roundtrip_task_failures_total")


def test_json_that_is_none_is_a_value_error() -> None:
    assert Json.loads(Json.dumps({"a": [1, "é", None]})) == {"a": [1, "é", None]}
    for text in ("", "{", "nul", "[" * 100_000, b"\xff"):
        with pytest.raises(ValueError, match="JSON"):
            Json.loads(text)
