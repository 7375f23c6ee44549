"""Requests over the rate are answered as they asked to be, and disturb nobody else."""

from __future__ import annotations

from typing import Any

from roundtrip.limits.rates import Rate
from roundtrip.sockets.engineio.connection import WriteResult
from tests.sockets.bare_server import make_server
from tests.sockets.limited_stage import limited_stage, make_token, token_client
from tests.support.py_client import eventually
from tests.support.stepped_loop import SteppedLoop


class FakeConnection:
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


def test_a_request_over_the_rate_is_acknowledged_or_reported_once_a_second(loop: SteppedLoop) -> None:
    async def run(data: str | bytes, it: FakeConnection) -> None:
        server.engine.on_message_refused(it, data)  # type: ignore[arg-type]  # as much of one as is looked at

    server = make_server()
    it = FakeConnection()
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
    stranger = FakeConnection(joined=False)
    loop.run(run('21["status"]', stranger))
    assert stranger.sent == []
    deaf = FakeConnection(WriteResult.FULL)
    loop.run(run('21["status"]', deaf))
    assert deaf.ended == ["queue_full"]
    gone = FakeConnection(WriteResult.FAILED)
    loop.run(run('21["status"]', gone))
    assert gone.ended == []


async def test_requests_of_a_socket_are_limited_but_others_are_served() -> None:
    async with (
        limited_stage(events_per_socket=Rate(0.001, 5)) as (s, _),
        token_client(s.url, make_token()) as (flood, _),
        token_client(s.url, make_token(), "other") as (calm, _),
    ):
        for _ in range(50):
            await flood.io.emit("status")
        await calm.io.emit("status")
        await calm.until(lambda: len(calm.snapshots) == 2)
        assert len(flood.snapshots) <= 1 + 5
        assert flood.io.connected


async def test_a_client_sees_its_refused_requests_in_acknowledgements_or_one_event_a_second() -> None:
    async with (
        limited_stage(events_per_socket=Rate(0.001, 3)) as (s, _),
        token_client(s.url, make_token()) as (it, _expired),
    ):
        refused: list[Any] = []
        it.io.on("request_refused", refused.append)
        await it.io.emit("status")
        await it.io.call("auth", {"token": make_token()}, timeout=5)
        answer = await it.io.call("auth", {"token": make_token()}, timeout=5)
        assert (answer["ok"], answer["code"]) == (False, "rate_limited")
        assert answer["message"].endswith(".")
        for _ in range(50):
            await it.io.emit("status")
        await eventually(lambda: refused)
        await it.io.call("status", timeout=5)
        assert refused == [answer], "at most one a second"
        assert it.io.connected
