"""The heartbeat of one connection, and connections without a socket: on a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from engineio import packet

from roundtrip.sockets.engineio.connection import JOIN_TIMEOUT
from roundtrip.sockets.engineio.socket import CLOSE_TIMEOUT, LATE_TIMER, LATE_TIMER_GRACE
from tests.sockets.fakes import INTERVAL, TIMEOUT, FakeEngine, FakeTransport, make_connection, pings
from tests.support.stepped_loop import SteppedLoop


@pytest.mark.parametrize("wire", [FakeTransport, lambda: None], ids=["websocket", "polling"])
def test_a_client_that_answers_stays_for_hours(loop: SteppedLoop, wire: Any) -> None:
    server, wire = FakeEngine(), wire()
    connection = loop.run(make_connection(server, wire))
    for number in range(1, 500):
        loop.advance(INTERVAL)
        written = wire.written if wire else [connection.queue.get_nowait().encode()]
        assert written[-1] in (b"\x81\x012", "2")
        loop.run(connection.receive(packet.Packet(packet.PONG)))
        if wire:
            assert len(wire.written) == number
    assert not connection.gone
    assert server.ended == []
    connection._disarm()


@pytest.mark.parametrize("wire", [FakeTransport, lambda: None], ids=["websocket", "polling"])
def test_a_client_that_does_not_answer_is_closed_after_the_timeout_and_not_before(loop: SteppedLoop, wire: Any) -> None:
    server, wire = FakeEngine(), wire()
    connection = loop.run(make_connection(server, wire))
    loop.advance(INTERVAL)
    assert pings(connection, wire) == 1
    loop.advance(TIMEOUT - 0.01)
    assert not connection.gone
    loop.clock.step(-86_400)  # what the wall clock does is nothing to it
    loop.advance(0.02)
    assert server.ended == ["ping timeout"]
    assert connection.closed
    assert "sid" not in server.sockets
    if wire:
        assert wire.written[-2:] == [b"\x81\x011", b"\x88\x02\x03\xe8"]
        loop.advance(CLOSE_TIMEOUT)
        assert wire.end == "aborted"


def test_a_late_loop_reads_before_it_calls_a_client_silent(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + LATE_TIMER + 60)  # the process stood still
    assert not connection.gone
    loop.advance(LATE_TIMER_GRACE / 2)
    loop.run(connection.receive(packet.Packet(packet.PONG)))  # it had waited in the kernel
    loop.advance(LATE_TIMER_GRACE)
    assert not connection.gone
    connection._disarm()


def test_a_late_loop_closes_a_silent_client_all_the_same(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    loop.run(make_connection(server, wire))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + LATE_TIMER + 60)
    loop.advance(LATE_TIMER_GRACE)
    assert server.ended == ["ping timeout"]


def test_an_unsolicited_pong_does_not_postpone_the_ping(loop: SteppedLoop) -> None:
    server, wire = FakeEngine(), FakeTransport()
    connection = loop.run(make_connection(server, wire))
    for _ in range(9):
        loop.advance(INTERVAL / 10)
        assert connection.intercept("3")
    loop.advance(INTERVAL / 10)
    assert pings(connection, wire) == 1
    connection.intercept("431[]")
    loop.advance(TIMEOUT)
    assert server.ended == ["ping timeout"], "only the PONG counts as one"


def test_a_timer_that_is_a_little_late_is_no_sleep(loop: SteppedLoop) -> None:
    server = FakeEngine()
    loop.run(make_connection(server, FakeTransport()))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + 0.09)
    assert server.ended == ["ping timeout"]
    woken = FakeEngine()
    connection = loop.run(make_connection(woken, FakeTransport()))
    loop.advance(INTERVAL)
    loop.advance(TIMEOUT + 0.11)
    assert woken.ended == []
    loop.advance(0.9)
    assert woken.ended == []
    loop.advance(0.11)
    assert woken.ended == ["ping timeout"]
    assert connection.close_reason == "ping timeout"


@pytest.mark.parametrize("wire", [FakeTransport, lambda: None], ids=["websocket", "polling"])
def test_a_connection_without_a_socket_is_closed_though_it_answers(loop: SteppedLoop, wire: Any) -> None:
    server, wire = FakeEngine(), wire()
    server.ping_interval = 1.0
    connection = loop.run(make_connection(server, wire, joined=False))
    for _ in range(int(JOIN_TIMEOUT) - 1):
        loop.advance(1.0)
        loop.run(connection.receive(packet.Packet(packet.PONG)))
    assert not connection.gone
    loop.advance(1.0)
    assert server.ended == ["protocol_error"]
    assert server.refused == ["not_joined"]


def test_a_connection_without_a_socket_may_stay_for_twenty_seconds(loop: SteppedLoop) -> None:
    server = FakeEngine()
    server.ping_interval = 19.9
    connection = loop.run(make_connection(server, FakeTransport(), joined=False))
    loop.advance(19.9)
    assert not connection.gone
    loop.run(connection.receive(packet.Packet(packet.PONG)))
    server.ping_interval = 0.1
    loop.run(connection.receive(packet.Packet(packet.PONG)))  # unasked: puts nothing off
    loop.advance(19.9)
    assert server.refused == ["not_joined"]
