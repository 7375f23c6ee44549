"""What the socket server does again and again, or to whoever asks too much: on a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from roundtrip.identity import BotKey, IdentityError, Principal
from roundtrip.limits.addresses import ADDRESS
from roundtrip.limits.rates import Limits, Rate, Rules
from roundtrip.sockets.access import SocketAccess
from roundtrip.sockets.engineio.connection import WriteResult
from roundtrip.sockets.handshake import Handshake, Refusal
from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import SocketServer
from tests.sockets.raw import connect, raw_socket
from tests.support.py_client import eventually, py_client
from tests.support.sockets import Faults, Notes, stage
from tests.support.stepped_clock import SteppedClock
from tests.support.stepped_loop import SteppedLoop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


class Member:
    """As much of a peer as a doorkeeper looks at."""

    must_ack = True

    def __init__(self, sid: str, expires_at: float | None, user: str = "user") -> None:
        self.sid = sid
        self.expires_at = expires_at
        self.key = BotKey(user, "bot")
        self.told: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.broken = False
        self.connection = SimpleNamespace(end=self._end)

    def send(self, frame: Any) -> None:
        if self.broken:
            raise RuntimeError("cannot")
        event, data = json.loads(frame.payload[2:])
        assert event == "auth_expired"
        self.told.append(data)

    async def _end(self, reason: str) -> None:
        if self.broken:
            raise RuntimeError("cannot")
        self.ended.append(reason)


def served(door: Any = None, notes: Notes | None = None, admit: Any = None) -> SocketServer:
    courier: Any = SimpleNamespace()
    return SocketServer(
        Registry(),
        courier,
        courier,
        admit,
        notes or Notes(),
        Faults(),
        cors_origins=(),
        max_sockets_per_key=1,
        send_queue_limit=1,
        ping_interval=1,
        ping_timeout=1,
        max_packet=1,
        door=door,
    )


# tokens


async def test_a_token_that_ran_out_is_followed_by_thirty_seconds_of_grace() -> None:
    clock = SteppedClock()
    door = SocketAccess(now=clock.wall)
    lasting, never, going = Member("a", clock.wall() + 100.0), Member("b", None), Member("c", clock.wall() + 10.0)
    members: Any = [lasting, never, going]

    async def after(seconds: float) -> None:
        clock.advance(seconds)
        await door.check_expiry(members)

    await after(9.5)
    assert going.told == []
    await after(0.5)
    assert going.told == [{"graceSeconds": 30.0}], "to the second, the moment itself included"
    await after(12.25)
    assert len(going.told) == 1
    await after(17.5)
    assert going.ended == []
    await after(0.25)
    assert going.ended == ["token_expired"]
    assert (never.told, lasting.told, never.ended, lasting.ended) == ([], [], [], [])


async def test_whoever_is_told_late_is_told_what_is_left() -> None:
    clock = SteppedClock()
    door = SocketAccess(now=clock.wall, grace=20.0)
    it: Any = Member("a", clock.wall() - 7.75)
    await door.check_expiry([it])
    assert it.told == [{"graceSeconds": 12.2}]
    late: Any = Member("b", clock.wall() - 20.0)
    await door.check_expiry([late])
    assert (late.told, late.ended) == ([], ["token_expired"])


async def test_what_fails_for_one_is_counted_and_done_again_and_is_nobody_elses() -> None:
    clock = SteppedClock()
    door = SocketAccess(now=clock.wall)
    failures: list[int] = []
    door.on_failure = lambda: failures.append(1)
    broken, other = Member("a", clock.wall()), Member("b", clock.wall())
    broken.broken = True
    members: Any = [broken, other]
    await door.check_expiry(members)
    assert (len(failures), len(other.told)) == (1, 1)
    broken.broken = False
    await door.check_expiry(members)
    assert (len(failures), len(broken.told), len(other.told)) == (1, 1, 1)
    broken.broken = True
    clock.advance(31.0)
    await door.check_expiry(members)
    assert (len(failures), other.ended) == (2, ["token_expired"])
    broken.broken = False
    await door.check_expiry([members[0]])
    assert broken.ended == ["token_expired"]


async def test_a_renewal_counts_from_the_fresh_token() -> None:
    clock = SteppedClock()
    shakes: list[Handshake] = []

    async def identify(shake: Handshake) -> Principal:
        shakes.append(shake)
        return Principal("user", clock.wall() + 60.0)

    door = SocketAccess(identify, now=clock.wall)
    it: Any = Member("a", clock.wall())
    await door.check_expiry([it])
    answer = await door.renew(it, {"token": "fresh"})
    assert (answer.ok, answer.expires_at, answer.code) == (True, clock.wall() + 60.0, None)
    assert it.expires_at == clock.wall() + 60.0
    assert shakes == [Handshake("fresh", "user", "bot", True, None, "")]
    await door.check_expiry([it])
    assert len(it.told) == 1
    clock.advance(60.0)
    await door.check_expiry([it])
    assert len(it.told) == 2, "the fresh one runs out as well"


async def test_whoever_comes_back_with_the_same_sid_is_told_again() -> None:
    clock = SteppedClock()
    door = SocketAccess(now=clock.wall)
    it: Any = Member("a", clock.wall())
    await door.check_expiry([it])
    door.release(it)
    await door.check_expiry([it])
    assert len(it.told) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("unauthorized", "No."), "unauthorized"),
        (IdentityError("user_id_invalid", "No."), "user_id_invalid"),
        (TimeoutError(), "unavailable"),
        (None, "forbidden"),
    ],
    ids=str,
)
async def test_a_renewal_that_fails_leaves_the_old_token(error: Exception | None, code: str) -> None:
    async def identify(_shake: Handshake) -> Principal:
        if error is not None:
            raise error
        return Principal("somebody else", 9e9)

    it: Any = Member("a", 100.0)
    answer = await SocketAccess(identify).renew(it, {"token": "x"})
    assert (answer.ok, answer.code, answer.expires_at) == (False, code, None)
    assert answer.message is not None
    assert answer.message.endswith(".")
    assert it.expires_at == 100.0


async def test_without_tokens_there_is_nothing_to_renew() -> None:
    it: Any = Member("a", None)
    answer = await SocketAccess().renew(it, {"token": "x"})
    assert (answer.ok, answer.code) == (False, "unavailable")


def test_a_check_of_a_fresh_token_may_take_five_seconds(loop: SteppedLoop) -> None:
    async def never(_shake: Handshake) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError

    it: Any = Member("a", 100.0)
    renewing = loop.create_task(SocketAccess(never).renew(it, {"token": "x"}))
    loop.settle()
    loop.advance(4.9)
    assert not renewing.done()
    loop.advance(0.2)
    assert renewing.result().code == "unavailable"


async def test_places_and_messages_are_given_back() -> None:
    limits = Limits(Rules(Rate(1, 1), Rate(1, 1), 1.0, 1, Rate(0.001, 2)), lambda _limit: None)
    door = SocketAccess(limits=limits)
    door.acquire("user")
    with pytest.raises(Refusal) as refused:
        door.acquire("user")
    assert refused.value.code == "too_many_sockets"
    it: Any = Member("a", None)
    door.release(it)
    door.acquire("user")
    assert [await door.allowed("eio") for _ in range(3)] == [True, True, False]
    door.connection_closed("eio")
    assert await door.allowed("eio"), "another connection begins anew"
    free = SocketAccess()
    for _ in range(3):
        free.acquire("user")
    free.release(it)
    free.connection_closed("eio")
    assert await free.allowed("eio")


# the sweep


def test_a_sweep_looks_every_second_but_not_in_the_turn_in_which_the_process_woke(loop: SteppedLoop) -> None:
    looks: list[float] = []

    class Door(SocketAccess):
        async def check_expiry(self, peers: Any) -> None:
            looks.append(loop.time())

    sweep = loop.create_task(served(Door()).sweep())
    loop.settle()
    start = loop.time()
    loop.advance(0.9)
    assert looks == []
    loop.advance(0.1)
    loop.advance(1.0)
    assert [at - start for at in looks] == [1.0, 2.0]
    loop.advance(2.0)  # late by as much as a round: nothing to wonder at
    assert len(looks) == 3
    loop.advance(60.0)
    assert len(looks) == 3, "fresh tokens may wait to be read"
    loop.advance(1.0)
    assert len(looks) == 4
    sweep.cancel()
    loop.settle()


# the handshake


@pytest.mark.parametrize(
    ("through_proxies", "direct", "seen"),
    [("192.0.2.7", "127.0.0.1", "192.0.2.7"), (None, "127.0.0.1", "127.0.0.1"), (None, None, "")],
)
async def test_the_address_is_the_one_behind_trusted_proxies(
    through_proxies: str | None, direct: str | None, seen: str
) -> None:
    """Without it all clients would share one limit."""
    shakes: list[Handshake] = []

    async def admit(shake: Handshake) -> Principal:
        shakes.append(shake)
        raise Refusal("unauthorized", "No.")

    notes = Notes()
    request: Any = _Request({} if through_proxies is None else {ADDRESS: through_proxies})
    request.remote = direct
    joins = served(notes=notes, admit=admit).engine.handlers["/"]["connect"]
    auth = {"botId": "b", "userId": "u", "acks": 1, "traceparent": 7, "token": "t"}
    with pytest.raises(Exception, match=r"No\.") as refused:
        await joins("sid", {"aiohttp.request": request, "QUERY_STRING": "userId=q&botId=q&token=q"}, auth)
    assert refused.value.error_args == {"message": "No.", "data": {"code": "unauthorized"}}  # type: ignore[attr-defined]  # python-socketio's
    assert shakes == [Handshake("t", "u", "b", False, None, seen)]
    assert notes.connects == ["unauthorized"]


class _Request(dict[Any, Any]):
    remote: str | None


def test_a_token_is_checked_within_five_seconds_or_refused(loop: SteppedLoop) -> None:
    async def never(_shake: Handshake) -> Principal:
        await asyncio.Event().wait()
        raise AssertionError

    notes = Notes()
    request: Any = _Request()
    request.remote = "127.0.0.1"
    joins = served(notes=notes, admit=never).engine.handlers["/"]["connect"]
    connecting = loop.create_task(joins("sid", {"aiohttp.request": request, "QUERY_STRING": ""}))
    loop.settle()
    loop.advance(4.9)
    assert not connecting.done()
    loop.advance(0.2)
    assert connecting.exception() is not None
    assert notes.connects == ["unavailable"]


# too much


class Client:
    """As much of a connection as an answer needs."""

    def __init__(self, sent: WriteResult = WriteResult.OK, *, joined: bool = True) -> None:
        self.listener = object() if joined else None
        self.refusal_sent_at = float("-inf")
        self.sent: list[bytes] = []
        self.ended: list[str] = []
        self._sent = sent

    def send_frame(self, frame: Any) -> WriteResult:
        self.sent.append(frame.payload)
        return self._sent

    def drop(self, reason: str) -> None:
        self.ended.append(reason)


def test_a_request_too_many_is_answered_as_it_asked_or_told_of_once_a_second(loop: SteppedLoop) -> None:
    async def run(data: str | bytes, it: Client) -> None:
        server.engine.on_message_refused(it, data)  # type: ignore[arg-type]  # as much of one as is looked at

    server = served()
    it = Client()
    for _ in range(3):
        loop.run(run('2["status"]', it))
    assert len(it.sent) == 1
    assert it.sent[0].startswith(b'42["request_refused",{"ok":false,"code":"rate_limited",')
    loop.advance(0.9)
    loop.run(run(b"binary", it))
    assert len(it.sent) == 1
    loop.advance(0.1)
    loop.run(run("junk", it))
    assert len(it.sent) == 2
    for number in ("0", "17", "9" * 15):
        loop.run(run(f'2{number}["status"]', it))
        assert it.sent[-1].startswith(b'43%b[{"ok":false,"code":"rate_limited",' % number.encode()), "each time"
    assert len(it.sent) == 5
    loop.run(run(f'2{"9" * 16}["status"]', it))
    loop.run(run('51-17["status"]', it))
    assert len(it.sent) == 5
    assert it.ended == []
    stranger = Client(joined=False)
    loop.run(run('21["status"]', stranger))
    assert stranger.sent == []
    deaf = Client(WriteResult.FULL)
    loop.run(run('21["status"]', deaf))
    assert deaf.ended == ["queue_full"]
    gone = Client(WriteResult.FAILED)
    loop.run(run('21["status"]', gone))
    assert gone.ended == []


# the end


async def test_a_drain_of_nobody_ends() -> None:
    async with stage() as s:
        await asyncio.wait_for(s.server.drain(0.0), 5)


async def test_a_stop_ends_replays_that_hang_and_says_nothing_of_it() -> None:
    ended: list[str] = []

    async def run(*_: Any) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        raise AssertionError

    async with stage() as s:
        s.server._replayer = SimpleNamespace(run=run)  # type: ignore[assignment]  # as much of one as is asked
        async with raw_socket(s.url, connect()):
            await eventually(lambda: s.server._tasks)
            with capture_logs() as logs:
                await s.server.close()
        assert ended == ["cancelled"]
        assert not s.server._tasks
        assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_replay_that_dies_is_said_so() -> None:
    async def run(*_: Any) -> int:
        raise RuntimeError("cannot")

    with capture_logs() as logs:
        async with stage() as s:
            s.server._replayer = SimpleNamespace(run=run)  # type: ignore[assignment]  # as much of one as is asked
            async with raw_socket(s.url, connect()):
                await eventually(lambda: [line for line in logs if line["event"] == "socket_task_died"])
                await eventually(lambda: not s.server._tasks)
    [line] = [line for line in logs if line["event"] == "socket_task_died"]
    assert line["error"] == "RuntimeError"


async def test_how_long_a_socket_lived_is_told_with_its_reason() -> None:
    clock = SteppedClock()
    async with stage(clock=clock) as s:
        async with py_client(s.url):
            await eventually(lambda: any(peer.live for peer in s.registry.all()))
            clock.advance(12.5)
            clock.step(-86_400.0)
        await eventually(lambda: s.notes.disconnects)
        assert s.notes.lifetimes == [12.5]
