"""What a peer requests of its client, and its states: on a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from roundtrip.delivery.wire import Frame
from roundtrip.errors import IllegalTransitionError
from roundtrip.outbox.records import MissReason
from roundtrip.sockets import peer as module
from roundtrip.sockets.peer import PeerState
from tests.sockets.fakes import JoinedPeer
from tests.support.stepped_loop import SteppedLoop

PING = b"\x81\x012"


def test_one_receipt_is_requested_for_all_events_of_a_loop_turn(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop)
    sent = [it.sends(seq) for seq in (1, 2, 3)]
    assert it.pings == 0, "the PING goes out behind all of them"
    loop.settle()
    assert it.pings == 1
    later = it.sends(4)
    loop.settle()
    assert it.pings == 2
    assert it.connection.intercept("3")
    assert it.connection.intercept("3")
    assert it.recorder.receipts == [sent, [later]]


def test_a_client_that_acknowledges_has_a_second_to_do_so(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop)
    first = it.sends(1)
    loop.settle()
    assert it.connection.intercept("3")
    assert it.connection.intercept("431[]")
    assert it.recorder.acks == [1]
    it.sends(2, waiting=False)
    left = it.sends(3)
    loop.advance(0.99)
    assert it.pings == 1
    loop.advance(0.02)
    assert it.pings == 2
    assert it.connection.intercept("3")
    assert it.recorder.receipts == [[first], [left]], "what was acknowledged meanwhile needs no receipt"
    it.sends(4)
    loop.settle()
    assert it.pings == 3, "who was not prompt once is asked at once"


def test_no_receipt_is_requested_of_a_client_that_keeps_acknowledging(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop)
    it.sends(1)
    loop.settle()
    assert it.connection.intercept("431[]")
    for seq in range(2, 6):
        it.sends(seq, waiting=False)
        loop.advance(1.01)
    assert it.pings == 1


@pytest.mark.parametrize("prompt", [False, True])
def test_a_closed_peer_requests_no_receipt(loop: SteppedLoop, prompt: bool) -> None:
    it = JoinedPeer(loop)
    it.sends(1)
    loop.settle()
    if prompt:
        assert it.connection.intercept("431[]")
    it.sends(2)
    it.peer.close()
    loop.advance(5.0)
    assert it.pings == 1
    assert it.connection.intercept("3")
    assert it.recorder.receipts == [], "and hears of nothing"


def test_a_client_that_reads_nothing_and_one_that_is_gone_have_different_reasons(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop)
    it.wire.unread = 10_000
    assert it.peer.send(Frame(b"42[]", 1)) is None, "the limit itself is allowed"
    it.wire.unread = 10_001
    assert it.peer.send(Frame(b"42[]", 2)) is MissReason.QUEUE_FULL
    assert (it.wire.end, it.connection.close_reason) == ("aborted", "queue_full")
    gone = JoinedPeer(loop)
    gone.wire.end = "reset by the client"
    assert gone.peer.send(Frame(b"42[]", 1)) is MissReason.SEND_FAILED
    assert gone.connection.close_reason is None, "whoever reads finds out why"
    assert not gone.connection.dropped
    for flag in ("closing", "closed"):
        ended = JoinedPeer(loop)
        setattr(ended.connection, flag, True)
        assert ended.peer.send(Frame(b"42[]", 1)) is MissReason.SEND_FAILED
        ended.connection.ping(object())
        ended.connection.intercept("431[]")
        assert ended.wire.written == []
        assert ended.recorder.acks == []


def test_a_peer_is_live_only_after_its_replay(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop)
    assert it.peer.live
    with pytest.raises(IllegalTransitionError, match="live -> replaying"):
        it.peer.live = False
    assert it.peer.live, "there is no way back"
    it.peer._state = PeerState.REPLAYING
    it.peer.live = False
    assert not it.peer.live
    it.peer._state = PeerState.HANDSHAKING
    with pytest.raises(IllegalTransitionError, match="handshaking -> live"):
        it.peer.live = True
    assert not it.peer.live


def test_an_illegal_transition_is_refused_logged_and_counted_in_production(
    loop: SteppedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRICT", False)
    it = JoinedPeer(loop)
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
        it = JoinedPeer(loop)
        it.peer._state = state
        if to in module._NEXT[state]:
            it.peer._move(to)
            assert it.peer.state is to
            assert order.index(to) > order.index(state), "never backwards"
        else:
            with pytest.raises(IllegalTransitionError):
                it.peer._move(to)
            assert it.peer.state is state
    assert (PeerState.CLOSED in module._NEXT[state]) is (state is not PeerState.CLOSED)


def test_a_close_moves_the_peer_before_the_disconnect_event(loop: SteppedLoop) -> None:
    for replayed, closing in ((True, PeerState.CLOSING), (False, PeerState.INTERRUPTED)):
        it = JoinedPeer(loop)
        if not replayed:
            it.peer._state = PeerState.REPLAYING
        seen: list[PeerState] = []

        async def closed(*_: Any, it: JoinedPeer = it, seen: list[PeerState] = seen, **__: Any) -> None:
            seen.append(it.peer.state)

        it.server._trigger_event = closed  # type: ignore[method-assign]  # it looks at the state
        loop.run(it.connection.end("draining"))
        assert seen == [closing]
        assert (it.peer.closed, it.peer.live) == (True, replayed), "a replay that was cut off is not over"
        it.connection._disarm()
