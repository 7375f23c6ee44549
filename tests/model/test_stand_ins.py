"""What stands for something in tests behaves as it does: connections as asyncio's own over TCP, sockets as a `Peer`.

One suite for each, run against all. What the parts under test use is in it, and nothing else.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from roundtrip.delivery.wire import Frame
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from tests.support.fake_sockets import FakeSocket
from tests.support.memory_wire import HIGH_WATER, MemoryTransport
from tests.support.py_client import eventually
from tests.support.traces import FakePeer
from tests.support.world import World

PIECE = b"x" * 65_536
KEY = BotKey("user", "bot")
FRAME = Frame(b'421["whatsapp_connection_event",{"id":"1","seq":1,"replayed":false,"attempt":1}]')


class Server(asyncio.Protocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.heard = b""
        self.lost: list[Exception | None] = []
        self.paused = 0
        self.resumed = 0
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def eof_received(self) -> bool | None:
        self.ended = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.resumed += 1


class Line(Protocol):
    """A connection with its client's end in the test's hand."""

    server: Server
    got: bytearray

    def said(self, data: bytes) -> None: ...
    def reads(self, yes: bool) -> None: ...
    def hang_up(self) -> None: ...
    def reset(self) -> None: ...
    def ended(self) -> bool:
        """Whether the client has been told that nothing more will come."""

    async def close(self) -> None: ...


class MemoryLine:
    def __init__(self) -> None:
        self.server = Server()
        self.got = bytearray()
        self._gone = False
        self._wire = MemoryTransport(self.server, self.got.extend, self._end)
        self.said, self.reads = self._wire.said, self._wire.reads
        self.hang_up, self.reset = self._wire.hang_up, self._wire.reset

    def _end(self) -> None:
        self._gone = True

    def ended(self) -> bool:
        return self._gone

    async def close(self) -> None:
        self._wire.abort()
        await asyncio.sleep(0)


class TcpLine:
    """Over loopback, with buffers so small that a reader who stops is noticed at once."""

    def __init__(self) -> None:
        self.server = Server()
        self.got = bytearray()
        self._reads = True
        self._gone = False

    async def open(self) -> TcpLine:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._socket = socket.socket()
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self._socket.connect(listener.getsockname())
            accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self._socket.setblocking(False)
        accepted.setblocking(False)
        await loop.connect_accepted_socket(lambda: self.server, accepted)
        self._task = loop.create_task(self._read())
        return self

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError):
            while True:
                while not self._reads:
                    await asyncio.sleep(0.002)
                data = await loop.sock_recv(self._socket, 65_536)
                if not data:
                    break
                self.got += data
        self._gone = True

    def said(self, data: bytes) -> None:
        self._socket.send(data)

    def reads(self, yes: bool) -> None:
        self._reads = yes

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self._task.cancel()
        linger = b"\1\0\0\0\0\0\0\0"
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    def ended(self) -> bool:
        return self._gone

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
        if not self.server.lost:
            self.server.transport.abort()
        await eventually(lambda: self.server.lost)


@pytest.fixture(params=["memory", "tcp"])
async def line(request: pytest.FixtureRequest) -> AsyncIterator[Line]:
    line: Line = MemoryLine() if request.param == "memory" else await TcpLine().open()
    yield line
    await line.close()


async def unread(line: Line) -> int:
    """Write to a client that stopped reading until it counts; the bytes written."""
    line.reads(False)
    await asyncio.sleep(0.01)
    written = 0
    while line.server.transport.get_write_buffer_size() <= 2 * HIGH_WATER:
        line.server.transport.write(PIECE)
        written += len(PIECE)
        assert written < 1 << 25
        await asyncio.sleep(0)
    return written


async def test_what_is_said_is_heard_in_order(line: Line) -> None:
    for word in (b"one ", b"two ", b"three"):
        line.said(word)
    await eventually(lambda: line.server.heard == b"one two three")
    line.server.transport.write(b"yes")
    await eventually(lambda: line.got == b"yes")
    assert line.server.transport.get_write_buffer_size() == 0
    assert line.server.transport.get_extra_info("peername")[0] == "127.0.0.1"
    line.server.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def test_what_a_client_does_not_read_waits_and_is_not_lost(line: Line) -> None:
    written = await unread(line)
    assert (line.server.paused, line.server.resumed) == (1, 0)
    line.reads(True)
    await eventually(lambda: len(line.got) == written)
    assert (line.server.paused, line.server.resumed) == (1, 1)
    assert line.server.transport.get_write_buffer_size() == 0


async def test_a_close_sends_what_waits_first(line: Line) -> None:
    written = await unread(line)
    line.server.transport.close()
    assert line.server.transport.is_closing()
    await asyncio.sleep(0.02)
    assert line.server.lost == [], "the client may yet read"
    line.reads(True)
    await eventually(lambda: line.server.lost and line.ended())
    assert line.server.lost == [None]
    assert len(line.got) == written


async def test_a_close_with_nothing_left_ends_it_and_later_writes_go_nowhere(line: Line) -> None:
    line.server.transport.close()
    line.server.transport.write(b"late")
    line.server.transport.close()
    await eventually(lambda: line.server.lost and line.ended())
    assert line.server.lost == [None]
    assert line.got == b""


async def test_an_abort_does_not_wait_for_a_client_that_does_not_read(line: Line) -> None:
    await unread(line)
    line.server.transport.abort()
    assert line.server.transport.is_closing()
    assert line.server.lost == [], "it is told in a later turn"
    await eventually(lambda: line.server.lost)
    assert line.server.lost == [None]


async def test_after_a_close_nothing_is_heard(line: Line) -> None:
    await unread(line)
    line.server.transport.close()
    line.said(b"late")
    await asyncio.sleep(0.02)
    assert line.server.heard == b""


async def test_a_client_that_hangs_up_ends_it(line: Line) -> None:
    line.said(b"bye")
    line.hang_up()
    await eventually(lambda: line.server.lost)
    assert line.server.heard == b"bye"
    assert line.server.ended
    assert line.server.lost == [None]


async def test_a_reset_is_an_error(line: Line) -> None:
    line.reset()
    await eventually(lambda: line.server.lost)
    assert isinstance(line.server.lost[0], ConnectionResetError)
    assert not line.server.ended


async def test_a_server_that_does_not_read_hears_it_later(line: Line) -> None:
    line.server.transport.pause_reading()
    assert not line.server.transport.is_reading()
    line.said(b"wait")
    await asyncio.sleep(0.02)
    assert line.server.heard == b""
    line.server.transport.resume_reading()
    assert line.server.transport.is_reading()
    await eventually(lambda: line.server.heard == b"wait")


# sockets, as the courier sees them


class Told:
    """What a receipt is asked for."""

    waiting = True


class RealSocket:
    """A `Peer` over the whole socket server."""

    def __init__(self, folder: Path) -> None:
        self._world = World(folder, send_queue_limit=4_096)
        self._world.__enter__()
        self._client = self._world.client(acks=True)
        self._world.settle()
        (self.socket,) = self._world.registry.of(KEY)
        self._client.slow = True

    def overfill(self) -> MissReason | None:
        for _ in range(100):
            reason = self.socket.send(FRAME)
            if reason is not None:
                return reason
        raise AssertionError("it takes everything")

    def go(self) -> None:
        self._client.reset()
        self._world.settle()

    def settle(self) -> None:
        self._world.settle()

    def close(self) -> None:
        self._world.__exit__()


class SocketOfTheCourierMachine:
    def __init__(self, _folder: Path) -> None:
        self.socket = FakeSocket("sid", KEY, must_ack=True)

    def overfill(self) -> MissReason | None:
        self.socket.slow = True
        return self.socket.send(FRAME)

    def go(self) -> None:
        self.socket.closed = True

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class SocketOfTheTraces:
    def __init__(self, _folder: Path) -> None:
        self.socket = FakePeer(KEY, "sid", must_ack=True)

    def overfill(self) -> MissReason | None:
        return None  # it takes everything, and says so

    def go(self) -> None:
        self.socket.closed = True

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(params=[RealSocket, SocketOfTheCourierMachine, SocketOfTheTraces])
def stand_in(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = request.param(tmp_path)
    yield made
    made.close()


def test_an_open_socket_takes_a_frame(stand_in: Any) -> None:
    socket = stand_in.socket
    assert (socket.key, socket.must_ack, socket.closed) == (KEY, True, False)
    assert isinstance(socket.sid, str)
    assert socket.backlog == 0
    assert socket.send(FRAME) is None
    socket.confirm(Told())
    assert not socket.closed


def test_a_socket_that_is_full_says_so_and_is_closed_by_it(stand_in: Any) -> None:
    reason = stand_in.overfill()
    if reason is not None:
        assert reason is MissReason.QUEUE_FULL
        assert stand_in.socket.send(FRAME) is not None, "what comes after a gap in the same turn is no more taken"
        stand_in.settle()
        assert stand_in.socket.closed
        assert stand_in.socket.send(FRAME) is MissReason.SEND_FAILED


def test_a_socket_that_went_takes_nothing(stand_in: Any) -> None:
    stand_in.go()
    assert stand_in.socket.closed
    assert stand_in.socket.send(FRAME) is MissReason.SEND_FAILED
    stand_in.socket.confirm(Told())
