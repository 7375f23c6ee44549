"""What one engine socket writes, what it refuses, and how it closes: on a clock that the test moves."""

from __future__ import annotations

import pytest
from engineio import exceptions, packet

from roundtrip.sockets.engineio.connection import EngineConnection
from tests.sockets.fakes import INTERVAL, FakeEngine, FakeTransport, make_connection
from tests.support.stepped_loop import SteppedLoop


def test_nothing_is_written_to_a_connection_that_is_gone(loop: SteppedLoop) -> None:
    """Its end is seen by whoever reads, perhaps a turn of the loop later."""
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    wire.end = "reset by the client"
    connection.write_control(b"\x8a\x00")
    connection.ping(object())
    connection.write(packet.Packet(packet.MESSAGE, data="2[]"))
    loop.advance(INTERVAL)
    assert wire.written == []
    connection._disarm()


def test_a_client_with_too_much_unread_is_dropped_by_any_write(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    wire.unread = 10_001
    connection.write(packet.Packet(packet.MESSAGE, "0"))
    assert wire.end == "aborted"
    assert wire.written == []
    assert connection.close_reason == "queue_full"
    connection._disarm()


def test_a_queue_that_nobody_polls_is_bounded_by_what_it_takes_not_by_its_text(loop: SteppedLoop) -> None:
    server = FakeEngine()
    connection = loop.run(make_connection(server, None))
    for _ in range(10_000):
        connection.write(packet.Packet(packet.NOOP))
    loop.settle()
    assert connection.queue.qsize() < 60
    assert server.ended == ["queue_full"]


def test_control_frames_are_left_out_when_too_much_is_unread(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    wire.unread = 10_000
    connection.write_control(b"pong")
    assert wire.written == [b"pong"], "the limit itself is allowed"
    wire.unread = 10_001
    connection.write_control(b"pong")
    assert wire.written == [b"pong"]
    assert wire.end is None
    polling = loop.run(make_connection(server, None))
    polling.write_control(b"pong")
    assert polling.queue.empty()
    connection._disarm()
    polling._disarm()


@pytest.mark.parametrize("kind", [packet.OPEN, packet.PING, packet.UPGRADE, packet.NOOP])
def test_what_a_client_may_not_send_is_refused_and_counted_once(loop: SteppedLoop, kind: int) -> None:
    server = FakeEngine()
    connection = loop.run(make_connection(server, FakeTransport()))
    for _ in range(2):
        with pytest.raises(exceptions.UnknownPacketError):
            loop.run(connection.receive(packet.Packet(kind)))
    assert server.refused == ["packet_type"]
    connection._disarm()


def test_a_close_does_not_wait_for_a_client_that_does_not_read(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    wire.unread = 5_000
    loop.run(connection.end("draining"))
    assert wire.end == "aborted"
    assert connection._timer is None


@pytest.mark.parametrize(
    ("reason", "code"), [("draining", 1001), ("token_expired", 1000), ("ping timeout", 1000)], ids=lambda it: str(it)
)
def test_a_close_frame_says_why(loop: SteppedLoop, reason: str, code: int) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    loop.run(connection.end(reason))
    assert wire.written[-1] == b"\x88\x02" + code.to_bytes(2, "big")
    assert wire.end is None, "the client has a moment to answer"
    loop.run(connection.end("again"))
    assert server.ended == [reason]
    connection._disarm()


def test_an_unanswered_close_frame_is_followed_by_an_abort_after_two_seconds(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    loop.run(connection.end("server"))
    loop.advance(1.9)
    assert wire.end is None
    loop.advance(0.2)
    assert wire.end == "aborted"


def test_a_client_that_broke_the_protocol_is_closed_with_1002_and_read_no_more(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    connection.refuse("malformed")
    loop.run(connection.end("whatever"))
    assert wire.written[-1] == b"\x88\x02\x03\xea"
    assert (wire.end, connection.dropped) == ("closed", True)
    assert server.ended == ["protocol_error"], "the first reason holds"


def test_an_abort_writes_a_close_frame_only(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    connection.close_code = 1009
    loop.run(connection.close(abort=True))
    assert wire.written == [b"\x88\x02\x03\xf1"]
    assert server.ended == ["server"]
    connection._disarm()
    polled = loop.run(make_connection(server, None))
    loop.run(polled.close(abort=True))
    assert [it.packet_type for it in loop.run(polled.poll())] == [packet.NOOP]


def test_a_dropped_client_is_closed_on_either_transport(loop: SteppedLoop) -> None:
    for wire in (FakeTransport(), None):
        server = FakeEngine()
        connection = loop.run(make_connection(server, wire))

        async def twice(connection: EngineConnection = connection) -> None:
            connection.drop("queue_full")
            connection.drop("another")

        loop.run(twice())
        loop.settle()
        assert connection.dropped
        assert connection.close_reason == "queue_full"
        if wire is not None:
            assert wire.end == "aborted", "the reader sees it, and closes"
        else:
            assert server.ended == ["queue_full"]
        connection._disarm()
