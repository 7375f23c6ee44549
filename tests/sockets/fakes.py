"""Stand-ins around one engine connection: a transport, python-engineio's server, a listener, a peer that is live."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from engineio import packet

from roundtrip.delivery.wire import Confirmable, Frame
from roundtrip.identity import BotKey
from roundtrip.sockets.engineio.connection import EngineConnection
from roundtrip.sockets.peer import Peer
from tests.support.stepped_loop import SteppedLoop

INTERVAL, TIMEOUT = 25.0, 20.0
PING = b"\x81\x012"


class FakeTransport:
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


class FakeEngine:
    """As much of python-engineio's server as a socket uses."""

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
        self.on_too_large = lambda: self.refused.append("too large")

    def create_queue(self) -> asyncio.Queue[Any]:
        return asyncio.Queue()

    async def _trigger_event(self, event: str, _sid: str, reason: str, **_: Any) -> None:
        if event == "disconnect":
            self.ended.append(reason)


class FakeListener:
    """A client that has a socket, and was sent nothing."""

    def acked(self, _seq: int) -> bool:
        return False

    def received(self, _marker: object) -> None:
        raise AssertionError("nothing was sent")

    def closing(self) -> None:
        pass


async def make_connection(server: FakeEngine, wire: FakeTransport | None, *, joined: bool = True) -> EngineConnection:
    connection = server.sockets["sid"] = EngineConnection(server, "sid", 10_000)
    connection.listener = FakeListener() if joined else None
    if wire is not None:
        connection.upgraded = True
        connection._transport = wire  # type: ignore[assignment]  # as much of one as is used
    connection.schedule_ping()
    return connection


def pings(connection: EngineConnection, wire: FakeTransport | None) -> int:
    if wire is not None:
        return wire.written.count(b"\x81\x012")
    return sum(it is not None and it.packet_type == packet.PING for it in list(connection.queue._queue))


class FakeUpgrade:
    """The websocket of an upgrade: the test puts the client's messages into `incoming`; None closes it."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.incoming: asyncio.Queue[str | None] = asyncio.Queue()

    async def receive(self) -> str:
        message = await self.incoming.get()
        if message is None:
            raise OSError("closed")
        return message


class FakeWebSocket(FakeUpgrade):
    """A websocket whose handshake is over."""

    wait = FakeUpgrade.receive


class Recorder:
    """Confirmations of a peer."""

    def __init__(self) -> None:
        self.acks: list[int] = []
        self.receipts: list[list[Any]] = []

    def acked(self, _peer: Peer, seq: int) -> None:
        self.acks.append(seq)

    def received(self, _peer: Peer, sent: Sequence[Any]) -> None:
        self.receipts.append(list(sent))


class JoinedPeer:
    """A peer that is live, on a websocket."""

    def __init__(self, loop: SteppedLoop, *, polling: bool = False) -> None:
        self.server, self.wire, self.recorder = FakeEngine(), FakeTransport(), Recorder()
        self.loop = loop

        async def make() -> None:
            self.connection = self.server.sockets["eio"] = EngineConnection(self.server, "eio", 10_000)
            if not polling:
                self.connection.upgraded = True
                self.connection._transport = self.wire  # type: ignore[assignment]  # as much of one as is used
            self.peer = Peer(
                "sid",
                "eio",
                BotKey("u", "b"),
                self.connection,
                self.recorder,
                must_ack=False,
                connect_parent=None,
                expires_at=None,
            )
            self.peer.begin_replay()
            self.peer.live = True

        loop.run(make())

    def sends(self, seq: int, *, waiting: bool = True) -> Confirmable:
        event = cast("Confirmable", SimpleNamespace(seq=seq, waiting=waiting))
        assert self.peer.send(Frame(b'42%d["event",{}]' % seq, seq)) is None
        self.peer.confirm(event)
        return event

    @property
    def pings(self) -> int:
        return self.wire.written.count(PING)
