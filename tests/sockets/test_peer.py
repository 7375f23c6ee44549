"""What a peer asks of its client, and what a connection takes of what comes back: on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from roundtrip.delivery.wire import Confirmable, Frame
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from roundtrip.sockets import peer as module
from roundtrip.sockets.engineio.connection import EngineConnection
from roundtrip.sockets.peer import Peer, PeerState
from tests.sockets.test_engine_socket import Server, Wire
from tests.support.stepped_loop import SteppedLoop

PING = b"\x81\x012"


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)


class Told:
    def __init__(self) -> None:
        self.acks: list[int] = []
        self.receipts: list[list[Any]] = []

    def acked(self, _peer: Peer, seq: int) -> None:
        self.acks.append(seq)

    def received(self, _peer: Peer, sent: Sequence[Any]) -> None:
        self.receipts.append(list(sent))


class Joined:
    """A peer that is live, on a websocket."""

    def __init__(self, loop: SteppedLoop, *, polling: bool = False) -> None:
        self.server, self.wire, self.told = Server(), Wire(), Told()
        self.loop = loop

        async def make() -> None:
            self.connection = self.server.sockets["eio"] = EngineConnection(self.server, "eio", 10_000)
            if not polling:
                self.connection.upgraded = True
                self.connection._transport = self.wire  # type: ignore[assignment]  # as much of one as is looked at
            self.peer = Peer(
                "sid",
                "eio",
                BotKey("u", "b"),
                self.connection,
                self.told,
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


def test_one_receipt_is_asked_for_all_that_goes_out_in_a_turn(loop: SteppedLoop) -> None:
    it = Joined(loop)
    sent = [it.sends(seq) for seq in (1, 2, 3)]
    assert it.pings == 0, "the PING goes out behind all of them"
    loop.settle()
    assert it.pings == 1
    later = it.sends(4)
    loop.settle()
    assert it.pings == 2
    assert it.connection.intercept("3")
    assert it.connection.intercept("3")
    assert it.told.receipts == [sent, [later]]


def test_a_client_that_acknowledges_is_given_a_second_to_do_so(loop: SteppedLoop) -> None:
    it = Joined(loop)
    first = it.sends(1)
    loop.settle()
    assert it.connection.intercept("3")
    assert it.connection.intercept("431[]")
    assert it.told.acks == [1]
    it.sends(2, waiting=False)
    left = it.sends(3)
    loop.advance(0.99)
    assert it.pings == 1
    loop.advance(0.02)
    assert it.pings == 2
    assert it.connection.intercept("3")
    assert it.told.receipts == [[first], [left]], "what was acknowledged meanwhile needs no receipt"
    it.sends(4)
    loop.settle()
    assert it.pings == 3, "who was not prompt once is asked at once"


def test_a_client_that_keeps_acknowledging_is_asked_for_no_receipt(loop: SteppedLoop) -> None:
    it = Joined(loop)
    it.sends(1)
    loop.settle()
    assert it.connection.intercept("431[]")
    for seq in range(2, 6):
        it.sends(seq, waiting=False)
        loop.advance(1.01)
    assert it.pings == 1


@pytest.mark.parametrize("prompt", [False, True])
def test_a_peer_that_went_asks_for_nothing(loop: SteppedLoop, prompt: bool) -> None:
    it = Joined(loop)
    it.sends(1)
    loop.settle()
    if prompt:
        assert it.connection.intercept("431[]")
    it.sends(2)
    it.peer.close()
    loop.advance(5.0)
    assert it.pings == 1
    assert it.connection.intercept("3")
    assert it.told.receipts == [], "and hears of nothing"


def test_acknowledgements_are_counted_only_where_nobody_asked(loop: SteppedLoop) -> None:
    it = Joined(loop)
    it.sends(7)
    for _ in range(1_500):
        assert it.connection.intercept("437[]"), "a repeated one is a client's retry"
    for number in range(999):
        assert it.connection.intercept("438[]" if number % 2 else "43999[]")
    assert it.server.refused == []
    assert it.wire.end is None
    assert it.connection.intercept("438[]")
    assert it.server.refused == ["unasked"]
    assert it.wire.end == "aborted"
    assert it.connection.close_reason == "transport error"


@pytest.mark.parametrize(
    ("text", "seq"),
    [
        ("431[]", 1),
        ("430[]", 0),
        ('4312["thanks",1]', 12),
        ("43" + "9" * 17 + "[]", int("9" * 17)),
        ("43" + "9" * 18 + "[]", None),
        ("43[]", None),
        ("43-1[]", None),
        ("43²[]", None),
        ("43/z,1[]", None),
        ("431", None),
        ("431[", None),
        ("431[]]", None),
        ("42[]", None),
        ("33", None),
        ("4", None),
        ("", None),
    ],
)
def test_what_a_lane_takes_for_an_acknowledgement(loop: SteppedLoop, text: str, seq: int | None) -> None:
    """The rest is the parser's."""
    it = Joined(loop)
    heard: list[int] = []
    it.connection.listener = SimpleNamespace(acked=lambda number: heard.append(number) or True, received=None)  # type: ignore[func-returns-value]  # as much of one as is asked
    assert it.connection.intercept(text) is (seq is not None)
    assert heard == ([] if seq is None else [seq])


def test_pongs_come_back_over_polling_too(loop: SteppedLoop) -> None:
    it = Joined(loop, polling=True)
    event = it.sends(1)
    loop.settle()
    assert [packet.encode() for packet in loop.run(it.connection.poll())] == ['42 1["event",{}]'.replace(" ", ""), "2"]
    loop.run(it.connection._receive_payload("3"))
    assert it.told.receipts == [[event]]


def test_a_client_that_reads_nothing_is_told_apart_from_one_that_is_gone(loop: SteppedLoop) -> None:
    it = Joined(loop)
    it.wire.unread = 10_000
    assert it.peer.send(Frame(b"42[]", 1)) is None, "the limit itself is allowed"
    it.wire.unread = 10_001
    assert it.peer.send(Frame(b"42[]", 2)) is MissReason.QUEUE_FULL
    assert (it.wire.end, it.connection.close_reason) == ("aborted", "queue_full")
    gone = Joined(loop)
    gone.wire.end = "reset by the client"
    assert gone.peer.send(Frame(b"42[]", 1)) is MissReason.SEND_FAILED
    assert gone.connection.close_reason is None, "whoever reads finds out why"
    assert not gone.connection.dropped
    for flag in ("closing", "closed"):
        ended = Joined(loop)
        setattr(ended.connection, flag, True)
        assert ended.peer.send(Frame(b"42[]", 1)) is MissReason.SEND_FAILED
        ended.connection.ping(object())
        ended.connection.intercept("431[]")
        assert ended.wire.written == []
        assert ended.told.acks == []


def test_a_queue_that_was_polled_is_empty_again(loop: SteppedLoop) -> None:
    it = Joined(loop, polling=True)
    for _ in range(3):
        assert it.peer.send(Frame(b"42" + b"x" * 2_000, 1)) is None
    assert it.peer.backlog == 3 * (2_002 + 200), "each packet counts with what it takes beside its text"
    loop.run(it.connection.poll())
    assert it.peer.backlog == 0
    assert it.peer.send(Frame(b"42", 2)) is None
    assert it.peer.backlog == 202
    assert it.peer.transport == "polling"


def test_a_full_queue_takes_no_more(loop: SteppedLoop) -> None:
    it = Joined(loop, polling=True)
    assert it.peer.send(Frame(b"4" * 9_800, 1)) is None
    assert it.peer.backlog == 10_000
    assert it.peer.send(Frame(b"42", 2)) is None, "the limit itself is allowed"
    assert it.peer.send(Frame(b"42", 3)) is MissReason.QUEUE_FULL
    loop.settle()
    assert it.server.ended == ["queue_full"]


def test_an_illegal_transition_is_refused_logged_and_counted_in_production(
    loop: SteppedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRICT", False)
    it = Joined(loop)
    refusals: list[int] = []
    it.peer._on_illegal = lambda: refusals.append(1)
    it.peer.close()
    it.peer.close()
    assert refusals == [], "a second close is no mistake"
    with capture_logs() as logs:
        it.peer.live = True
    assert it.peer.state is PeerState.CLOSED
    assert not it.peer.live
    assert refusals == [1]
    assert [(line["event"], line["state"], line["to"]) for line in logs] == [("socket_state_refused", "closed", "live")]


@pytest.mark.parametrize("state", PeerState)
def test_a_state_has_only_the_successors_of_the_table(loop: SteppedLoop, state: PeerState) -> None:
    """No state follows itself, nothing follows `closed`, and `closed` follows everything else."""
    order = list(PeerState)
    for to in PeerState:
        it = Joined(loop)
        it.peer._state = state
        if to in module._NEXT[state]:
            it.peer._move(to)
            assert it.peer.state is to
            assert order.index(to) > order.index(state), "never backwards"
        else:
            with pytest.raises(module.IllegalTransitionError):
                it.peer._move(to)
            assert it.peer.state is state
    assert (PeerState.CLOSED in module._NEXT[state]) is (state is not PeerState.CLOSED)


def test_a_close_moves_the_peer_before_anybody_is_told(loop: SteppedLoop) -> None:
    for replayed, closing in ((True, PeerState.CLOSING), (False, PeerState.INTERRUPTED)):
        it = Joined(loop)
        if not replayed:
            it.peer._state = PeerState.REPLAYING
        seen: list[PeerState] = []

        async def closed(*_: Any, it: Joined = it, seen: list[PeerState] = seen, **__: Any) -> None:
            seen.append(it.peer.state)

        it.server._trigger_event = closed  # type: ignore[method-assign]  # it looks at the state
        loop.run(it.connection.end("draining"))
        assert seen == [closing]
        assert (it.peer.closed, it.peer.live) == (True, replayed), "a replay that was cut off is not over"
        it.connection._disarm()
