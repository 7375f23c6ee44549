"""The heartbeat and the end of one engine socket, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from engineio import exceptions, packet

from backend.sockets.engine_socket import CLOSE_WITHIN, LATE, READ_FIRST
from backend.sockets.lane import JOIN_WITHIN, Lane
from tests.support.stepped_loop import SteppedLoop

INTERVAL, TIMEOUT = 25.0, 20.0


class Wire:
    """A websocket's transport that remembers what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unread = 0
        self.end: str | None = None

    def write(self, data: bytes) -> None:
        assert not self.is_closing(), "uvloop raises for a transport that is closed"
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.end is not None

    def abort(self) -> None:
        self.end = "aborted"

    def close(self) -> None:
        self.end = "closed"


class Server:
    """As much of python-engineio's server as a socket looks at."""

    ping_interval = INTERVAL
    ping_timeout = TIMEOUT
    async_handlers = False
    max_http_buffer_size = 65_536
    reason = SimpleNamespace(PING_TIMEOUT="ping timeout", TRANSPORT_ERROR="transport error", SERVER_DISCONNECT="server")
    logger = SimpleNamespace(info=lambda *_: None)

    def __init__(self) -> None:
        self.sockets: dict[str, Any] = {}
        self.ended: list[str] = []
        self.refused: list[str] = []
        self.on_refused = self.refused.append

    def create_queue(self) -> asyncio.Queue[Any]:
        return asyncio.Queue()

    async def _trigger_event(self, event: str, _sid: str, reason: str, **_: Any) -> None:
        if event == "disconnect":
            self.ended.append(reason)


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


class Client:
    """Whoever joined; nothing was written to it yet."""

    def acked(self, _seq: int) -> bool:
        return False

    def received(self, _marker: object) -> None:
        raise AssertionError("nothing was sent")


async def made(server: Server, wire: Wire | None, *, joined: bool = True) -> Lane:
    lane = server.sockets["sid"] = Lane(server, "sid", 10_000)
    lane.client = Client() if joined else None
    if wire is not None:
        lane.upgraded = True
        lane._transport = wire  # type: ignore[assignment]  # as much of one as is looked at
    lane.schedule_ping()
    return lane


def pings(lane: Lane, wire: Wire | None) -> int:
    if wire is not None:
        return wire.written.count(b"\x81\x012")
    return sum(it is not None and it.packet_type == packet.PING for it in list(lane.queue._queue))


@pytest.mark.parametrize("wire", [Wire, lambda: None], ids=["websocket", "polling"])
def test_whoever_answers_stays_for_hours(loop: SteppedLoop, wire: Any) -> None:
    server, wire = Server(), wire()
    lane = loop.run(made(server, wire))
    for number in range(1, 500):
        loop.advance(INTERVAL)
        assert (wire.written if wire else [it.encode() for it in [lane.queue.get_nowait()]])[-1] in (b"\x81\x012", "2")
        loop.run(lane.receive(packet.Packet(packet.PONG)))
        if wire:
            assert len(wire.written) == number
    assert not lane.gone
    assert server.ended == []
    lane._disarm()


@pytest.mark.parametrize("wire", [Wire, lambda: None], ids=["websocket", "polling"])
def test_whoever_does_not_answer_is_closed_after_the_timeout_and_not_before(loop: SteppedLoop, wire: Any) -> None:
    server, wire = Server(), wire()
    lane = loop.run(made(server, wire))
    loop.advance(INTERVAL)
    assert pings(lane, wire) == 1
    loop.advance(TIMEOUT - 0.01)
    assert not lane.gone
    loop.clock.step(-86_400)  # what the wall clock does is nothing to it
    loop.advance(0.02)
    assert server.ended == ["ping timeout"]
    assert lane.closed
    assert "sid" not in server.sockets
    if wire:
        assert wire.written[-2:] == [b"\x81\x011", b"\x88\x02\x03\xe8"]
        loop.advance(CLOSE_WITHIN)
        assert wire.end == "aborted"


def test_a_late_loop_reads_before_it_calls_a_client_silent(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    lane = loop.run(made(server, wire))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + LATE + 60)  # the process stood still
    assert not lane.gone
    loop.advance(READ_FIRST / 2)
    loop.run(lane.receive(packet.Packet(packet.PONG)))  # it had waited in the kernel
    loop.advance(READ_FIRST)
    assert not lane.gone
    lane._disarm()


def test_a_late_loop_closes_who_is_silent_all_the_same(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    loop.run(made(server, wire))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + LATE + 60)
    loop.advance(READ_FIRST)
    assert server.ended == ["ping timeout"]


def test_a_pong_that_nobody_asked_for_puts_nothing_off(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    lane = loop.run(made(server, wire))
    for _ in range(9):
        loop.advance(INTERVAL / 10)
        assert lane.take("3")
    loop.advance(INTERVAL / 10)
    assert pings(lane, wire) == 1
    lane.take("431[]")
    loop.advance(TIMEOUT)
    assert server.ended == ["ping timeout"], "only the PONG counts as one"


def test_the_end_of_a_client_that_does_not_read_is_not_waited_for(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    lane = loop.run(made(server, wire))
    wire.unread = 5_000
    loop.run(lane.end("draining"))
    assert wire.end == "aborted"
    assert lane._timer is None


@pytest.mark.parametrize(
    ("reason", "code"), [("draining", 1001), ("token_expired", 1000), ("ping timeout", 1000)], ids=lambda it: str(it)
)
def test_a_close_frame_says_why(loop: SteppedLoop, reason: str, code: int) -> None:
    server, wire = Server(), Wire()
    lane = loop.run(made(server, wire))
    loop.run(lane.end(reason))
    assert wire.written[-1] == b"\x88\x02" + code.to_bytes(2, "big")
    assert wire.end is None, "the client has a moment to answer"
    loop.run(lane.end("again"))
    assert server.ended == [reason]
    lane._disarm()


def test_a_client_with_too_much_unread_is_dropped_whoever_writes(loop: SteppedLoop) -> None:
    server, wire = Server(), Wire()
    lane = loop.run(made(server, wire))
    wire.unread = 10_001
    lane.write(packet.Packet(packet.MESSAGE, "0"))
    assert wire.end == "aborted"
    assert wire.written == []
    assert lane.close_reason == "queue_full"
    lane._disarm()


def test_a_queue_that_nobody_polls_is_bounded_by_what_it_takes_not_by_its_text(loop: SteppedLoop) -> None:
    server = Server()
    lane = loop.run(made(server, None))
    for _ in range(10_000):
        lane.write(packet.Packet(packet.NOOP))
    loop.settle()
    assert lane.queue.qsize() < 60
    assert server.ended == ["queue_full"]


def test_polls_and_the_end(loop: SteppedLoop) -> None:
    async def run() -> None:
        server = Server()
        lane = await made(server, None)
        waiting = asyncio.ensure_future(lane.poll())
        await asyncio.sleep(0)
        with pytest.raises(exceptions.QueueEmpty):
            await lane.poll()
        await lane.end("server disconnect")
        assert [it.packet_type for it in await waiting] == [packet.CLOSE]
        assert [it.packet_type for it in await lane.poll()] == [packet.NOOP], "and nobody waits at a closed one"

    loop.run(run())


@pytest.mark.parametrize("kind", [packet.OPEN, packet.PING, packet.UPGRADE, packet.NOOP])
def test_what_a_client_may_not_send_is_refused_and_counted_once(loop: SteppedLoop, kind: int) -> None:
    server = Server()
    lane = loop.run(made(server, Wire()))
    for _ in range(2):
        with pytest.raises(exceptions.UnknownPacketError):
            loop.run(lane.receive(packet.Packet(kind)))
    assert server.refused == ["packet_type"]
    lane._disarm()


@pytest.mark.parametrize("wire", [Wire, lambda: None], ids=["websocket", "polling"])
def test_a_connection_without_a_socket_is_closed_though_it_answers(loop: SteppedLoop, wire: Any) -> None:
    server, wire = Server(), wire()
    server.ping_interval = 1.0
    lane = loop.run(made(server, wire, joined=False))
    for _ in range(int(JOIN_WITHIN) - 1):
        loop.advance(1.0)
        loop.run(lane.receive(packet.Packet(packet.PONG)))
    assert not lane.gone
    loop.advance(1.0)
    assert server.ended == ["transport error"]
    assert server.refused == ["not_joined"]


def test_nothing_is_written_to_a_connection_that_is_gone(loop: SteppedLoop) -> None:
    """Its end is seen by whoever reads, perhaps a turn of the loop later."""
    server, wire = Server(), Wire()
    lane = loop.run(made(server, wire))
    wire.end = "reset by the client"
    lane.answer(b"\x8a\x00")
    lane.ping(object())
    lane.write(packet.Packet(packet.MESSAGE, data="2[]"))
    loop.advance(INTERVAL)
    assert wire.written == []
    lane._disarm()
