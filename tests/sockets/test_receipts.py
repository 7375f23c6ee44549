"""What confirms an event, as the table in `sockets/peer.py` says: transport x what was seen x state."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from engineio import packet
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.delivery.wire import Frame
from roundtrip.identity import BotKey
from roundtrip.sockets.engineio.connection import EngineConnection
from roundtrip.sockets.peer import IntegerRanges, Peer, PeerState

SEQ = 7
TRANSPORTS = ("websocket", "polling", "upgraded")
"""`upgraded`: written over polling, answered over the websocket."""

SEEN = {
    "PONG for its PING": "received",
    "PONG of the heartbeat before it": None,
    "PONG that nobody asked for": None,
    "ack of it": "acked",
    "ack of it with arguments": "acked",
    "ack of another number": None,
    "ack in another namespace": None,
    "an event with its number": None,
    "the poll was answered": None,
}
"""Each sign of life, and what it proves of a socket that is joined."""

JOINED = {PeerState.REPLAYING, PeerState.LIVE}


class Recorder:
    def __init__(self) -> None:
        self.grades: list[str] = []

    def acked(self, peer: Peer, seq: int) -> None:
        assert seq == SEQ
        self.grades.append("acked")

    def received(self, peer: Peer, sent: Sequence[Any]) -> None:
        self.grades.append("received")


class FakeTransport:
    """As much of a transport as a connection looks at."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


async def nothing(*_: Any, **__: Any) -> None:
    pass


def server() -> Any:
    return SimpleNamespace(
        create_queue=asyncio.Queue,
        ping_interval=25.0,
        ping_timeout=20.0,
        async_handlers=False,
        reason=SimpleNamespace(TRANSPORT_ERROR="transport error"),
        logger=SimpleNamespace(info=lambda *_: None),
        on_refused=lambda _what: None,
        _trigger_event=nothing,
    )


def upgrade(connection: EngineConnection) -> None:
    connection.upgraded = True
    connection._transport = FakeTransport()  # type: ignore[assignment]  # as much of one as is looked at


def begin(peer: Peer, state: PeerState) -> None:
    """Bring a socket as far as it was when the event was written to it."""
    if state is not PeerState.HANDSHAKING:
        assert peer.begin_replay()
        assert not peer.begin_replay(), "a socket is brought up to date once"
    if state in {PeerState.LIVE, PeerState.CLOSING, PeerState.CLOSED}:
        peer.live = True


def finish(peer: Peer, state: PeerState) -> None:
    """And to where it is when the sign of life comes."""
    if state in {PeerState.CLOSING, PeerState.INTERRUPTED}:
        peer.connection.closing = True
        peer.connection.on_closing()
    elif state is PeerState.CLOSED:
        peer.close()
    assert peer.state is state


async def feed(connection: EngineConnection, transport: str, text: str) -> None:
    """What the connection's readers do with a message."""
    if transport == "polling":
        await connection._receive_payload(text)
    elif not connection.intercept(text):
        await connection.receive(packet.Packet(encoded_packet=text))


@pytest.mark.parametrize(
    ("transport", "seen", "state"), list(itertools.product(TRANSPORTS, SEEN, PeerState)), ids=lambda it: str(it)
)
async def test_what_confirms_an_event(transport: str, seen: str, state: PeerState) -> None:
    recorder = Recorder()
    connection = EngineConnection(server(), "eio", 1 << 20)
    connection.connected = True
    if transport == "websocket":
        upgrade(connection)
    peer = Peer(
        "sid", "eio", BotKey("u", "b"), connection, recorder, must_ack=False, connect_parent=None, expires_at=None
    )
    begin(peer, state)
    if seen == "PONG of the heartbeat before it":
        connection.write(packet.Packet(packet.PING))
    assert peer.send(Frame(b'427["event",{}]', SEQ)) is None
    if seen == "PONG for its PING":
        peer.confirm(SimpleNamespace(waiting=True))
        await asyncio.sleep(0)
    if seen == "the poll was answered" and transport != "websocket":
        await connection.poll()
    if transport == "upgraded":
        upgrade(connection)
    finish(peer, state)
    texts = {
        "ack of it": "437[]",
        "ack of it with arguments": '437["thanks",1]',
        "ack of another number": "438[]",
        "ack in another namespace": "43/z,7[]",
        "an event with its number": '427["status"]',
    }
    if seen != "the poll was answered":
        await feed(connection, transport, texts.get(seen, "3"))
    expected = SEEN[seen] if state in JOINED else None
    assert recorder.grades == ([] if expected is None else [expected])
    connection._disarm()


async def test_pongs_are_matched_with_pings_first_in_first_out() -> None:
    recorder = Recorder()
    connection = EngineConnection(server(), "eio", 1 << 20)
    upgrade(connection)
    peer = Peer(
        "sid", "eio", BotKey("u", "b"), connection, recorder, must_ack=False, connect_parent=None, expires_at=None
    )
    peer.begin_replay()
    for kind in ("own", "heartbeat", "own"):
        if kind == "own":
            peer.confirm(SimpleNamespace(waiting=True))
            await asyncio.sleep(0)
        else:
            connection.write(packet.Packet(packet.PING))
    counts = []
    for _ in range(4):
        await feed(connection, "websocket", "3")
        counts.append(len(recorder.grades))
    assert counts == [1, 1, 2, 2]
    connection._disarm()


@given(st.lists(st.integers(0, 60)), st.integers(-5, 70))
def test_ranges_hold_what_was_added_and_nothing_else(numbers: list[int], asked: int) -> None:
    held = IntegerRanges()
    for number in numbers:
        held.add(number)
    assert (asked in held) == (asked in set(numbers))
    assert all(number in held for number in numbers)


def test_a_day_of_events_in_a_row_is_one_range() -> None:
    held = IntegerRanges()
    for number in range(1, 100_000):
        held.add(number)
    assert len(held) == 1
    assert 10**17 not in held
