"""The upgrade from polling to a websocket, and the reading of a websocket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engineio import packet

from roundtrip.sockets.engineio.connection import EngineConnection
from tests.sockets.fakes import FakeEngine, FakeUpgrade, FakeWebSocket, make_connection
from tests.support.stepped_loop import SteppedLoop


def upgrading(loop: SteppedLoop) -> tuple[EngineConnection, FakeUpgrade, asyncio.Task[bool]]:
    async def make() -> tuple[EngineConnection, FakeUpgrade, asyncio.Task[bool]]:
        connection = await make_connection(FakeEngine(), None)
        connection._disarm()
        websocket = FakeUpgrade()
        return connection, websocket, asyncio.ensure_future(connection._upgrade_confirmed(websocket))

    return loop.run(make())


def test_an_upgrade_is_proven_by_a_probe_and_then_wanted(loop: SteppedLoop) -> None:
    connection, websocket, proving = upgrading(loop)
    websocket.incoming.put_nowait("2probe")
    loop.settle()
    assert websocket.transport.written == [b"\x81\x063probe"]
    assert [it.packet_type for it in loop.run(connection.poll())] == [packet.NOOP], "the poll that waits is let go"
    loop.advance(9.9)
    assert not proving.done()
    websocket.incoming.put_nowait("5")
    loop.settle()
    assert proving.result() is True


@pytest.mark.parametrize("said", [["5"], ["2"], ["2probe", "2probe"], ["2probe", None], [None]], ids=str)
def test_an_upgrade_that_proves_nothing_is_given_up(loop: SteppedLoop, said: list[str | None]) -> None:
    _, websocket, proving = upgrading(loop)
    for it in said:
        websocket.incoming.put_nowait(it)
    loop.settle()
    assert proving.result() is False
    assert bool(websocket.transport.written) is (said[0] == "2probe")


@pytest.mark.parametrize("said", [[], ["2probe"]], ids=str)
def test_an_upgrade_has_ten_seconds(loop: SteppedLoop, said: list[str]) -> None:
    _, websocket, proving = upgrading(loop)
    for it in said:
        websocket.incoming.put_nowait(it)
    loop.settle()
    loop.advance(9.9)
    assert not proving.done()
    loop.advance(0.2)
    assert proving.result() is False


def test_an_upgrade_whose_connection_went_is_not_written_to(loop: SteppedLoop) -> None:
    _, websocket, proving = upgrading(loop)
    websocket.transport.end = "reset by the client"
    websocket.incoming.put_nowait("2probe")
    loop.settle()
    assert proving.result() is False


@pytest.mark.parametrize("polled", [False, True], ids=["opened", "upgraded"])
def test_queued_packets_are_written_first_and_the_end_has_its_reason(loop: SteppedLoop, polled: bool) -> None:
    async def run() -> tuple[EngineConnection, FakeWebSocket]:
        connection, websocket = await make_connection(FakeEngine(), None), FakeWebSocket()
        connection.server.reason.TRANSPORT_CLOSE = "transport close"
        connection.connected = polled
        connection.write(packet.Packet(packet.MESSAGE, "one"))
        connection.write(packet.Packet(packet.MESSAGE, b"two"))
        for said in ("2probe", "5") if polled else ():
            websocket.incoming.put_nowait(said)
        reading = asyncio.ensure_future(connection._websocket_handler(websocket))
        for _ in range(5):
            await asyncio.sleep(0)
        assert (connection.transport, connection.connected) == ("websocket", True)
        connection.write(packet.Packet(packet.MESSAGE, "three"))
        websocket.incoming.put_nowait("7")  # a packet that is none
        for _ in range(5):
            await asyncio.sleep(0)
        websocket.incoming.put_nowait("6")  # read and dropped after the goodbye
        websocket.incoming.put_nowait(None)
        await reading
        return connection, websocket

    connection, websocket = loop.run(run())
    written = websocket.transport.written[1:] if polled else websocket.transport.written
    noop = [b"\x81\x016"] if polled else []
    expected = [b"\x81\x044one", b"\x82\x03two", *noop, b"\x81\x064three"]
    assert written[: len(expected)] == expected
    assert connection.server.ended == ["protocol_error"]
    assert connection._timer is None


def test_a_session_that_ended_while_its_upgrade_was_proven_takes_no_websocket(loop: SteppedLoop) -> None:
    async def run() -> tuple[EngineConnection, FakeWebSocket]:
        connection, websocket = await make_connection(FakeEngine(), None), FakeWebSocket()
        connection.connected = True
        proving = asyncio.ensure_future(connection._websocket_handler(websocket))
        websocket.incoming.put_nowait("2probe")
        await asyncio.sleep(0)
        await connection.end("draining")
        websocket.incoming.put_nowait("5")
        await proving
        return connection, websocket

    connection, websocket = loop.run(run())
    assert connection.transport == "polling"
    assert len(websocket.transport.written) == 1, "the probe's answer"
    assert connection.server.ended == ["draining"]


def test_a_handler_that_fails_is_logged_and_the_reading_goes_on(loop: SteppedLoop) -> None:
    async def run() -> EngineConnection:
        connection, websocket = await make_connection(FakeEngine(), None), FakeWebSocket()
        connection.server.reason.TRANSPORT_CLOSE = "transport close"
        heard: list[Any] = []

        async def receive(pkt: Any) -> None:
            heard.append(pkt.data)
            if len(heard) == 1:
                raise RuntimeError("cannot")

        connection.receive = receive  # type: ignore[method-assign]  # as a handler of ours that is broken
        for said in ("4a", "4b", None):
            websocket.incoming.put_nowait(said)
        await connection._websocket_handler(websocket)
        assert heard == ["a", "b"]
        return connection

    assert loop.run(run()).server.ended == ["transport close"]
