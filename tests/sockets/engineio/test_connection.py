"""Which messages a connection takes for acknowledgements and receipts, and what waits in its queue."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from roundtrip.delivery.wire import Frame
from roundtrip.outbox.records import MissReason
from tests.sockets.fakes import JoinedPeer
from tests.support.stepped_loop import SteppedLoop


def test_only_unsolicited_acknowledgements_count_against_a_client(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop)
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
    assert it.connection.close_reason == "protocol_error"


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
def test_which_messages_a_connection_takes_for_acknowledgements(loop: SteppedLoop, text: str, seq: int | None) -> None:
    """The rest is the parser's."""
    it = JoinedPeer(loop)
    heard: list[int] = []
    it.connection.listener = SimpleNamespace(acked=lambda number: heard.append(number) or True, received=None)  # type: ignore[func-returns-value]  # as much of one as is asked
    assert it.connection.intercept(text) is (seq is not None)
    assert heard == ([] if seq is None else [seq])


def test_pongs_come_back_over_polling_too(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop, polling=True)
    event = it.sends(1)
    loop.settle()
    assert [packet.encode() for packet in loop.run(it.connection.poll())] == ['42 1["event",{}]'.replace(" ", ""), "2"]
    loop.run(it.connection._receive_payload("3"))
    assert it.recorder.receipts == [[event]]


def test_pongs_with_something_behind_them_count_like_others(loop: SteppedLoop) -> None:
    """`3probe` is no answer that a connection takes itself, but python-engineio reads it as a PONG."""
    it = JoinedPeer(loop, polling=True)
    event = it.sends(1)
    loop.settle()
    loop.run(it.connection._receive_payload("3x"))
    assert it.recorder.receipts == [[event]]
    for _ in range(999):
        loop.run(it.connection._receive_payload("3x"))
    assert it.server.refused == []
    loop.run(it.connection._receive_payload("3x"))
    loop.settle()
    assert it.server.refused == ["unasked"]
    assert it.server.ended == ["protocol_error"]


def test_a_queue_that_was_polled_is_empty_again(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop, polling=True)
    for _ in range(3):
        assert it.peer.send(Frame(b"42" + b"x" * 2_000, 1)) is None
    assert it.peer.backlog == 3 * (2_002 + 200), "each packet counts with what it takes beside its text"
    loop.run(it.connection.poll())
    assert it.peer.backlog == 0
    assert it.peer.send(Frame(b"42", 2)) is None
    assert it.peer.backlog == 202
    assert it.peer.transport == "polling"


def test_a_full_queue_takes_no_more(loop: SteppedLoop) -> None:
    it = JoinedPeer(loop, polling=True)
    assert it.peer.send(Frame(b"4" * 9_800, 1)) is None
    assert it.peer.backlog == 10_000
    assert it.peer.send(Frame(b"42", 2)) is None, "the limit itself is allowed"
    assert it.peer.send(Frame(b"42", 3)) is MissReason.QUEUE_FULL
    loop.settle()
    assert it.server.ended == ["queue_full"]
