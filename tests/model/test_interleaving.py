"""What is published while a socket is brought up to date reaches it once, in order, whenever it comes.

Every answer of the real outbox can wait at a gate, so each test chooses the point of the replay at which events come,
and how many: none, one, as many as are held back in memory, and more than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from roundtrip.delivery.inflight import HELD_BACK_LIMIT
from roundtrip.delivery.replay import PAGE
from roundtrip.events import Connected, Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason, Outcome
from tests.support.memory_client import MemoryClient
from tests.support.world import World

KEY: Final = BotKey("user", "bot")
CONNECTED: Final = Connected("+15550100", "Ada", True)
QR: Final = Qr("2@secret", 1, 6, "2026-01-01T00:00:00.000Z")
POINTS: Final = ("before the snapshot", "before the first page", "between two pages", "before the last page")
COUNTS: Final = {
    POINTS[0]: (1, HELD_BACK_LIMIT + 1),
    POINTS[1]: (1, HELD_BACK_LIMIT - 1),
    POINTS[2]: (0, 1, HELD_BACK_LIMIT - 1, HELD_BACK_LIMIT, HELD_BACK_LIMIT + 1),
    POINTS[3]: (1, HELD_BACK_LIMIT + 1),
}
"""How many come at which point: few, as many as are held back in memory, and more."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def publish(world: World, count: int) -> None:
    for _ in range(count):
        world.publish(KEY, CONNECTED)
    world.settle()


def connect_up_to(world: World, point: str, missed: int) -> MemoryClient:
    """A client that missed so many events, its replay stopped at this point."""
    publish(world, missed)
    world.outbox.hold("last_seq", "pending")
    client = world.client(acks=True)
    world.settle()
    steps = {POINTS[0]: 0, POINTS[1]: 1, POINTS[2]: 2, POINTS[3]: 1 + missed // PAGE}[point]
    for _ in range(steps):
        assert world.call(world.outbox.let) == 1
    assert len(world.outbox.waiting) == 1, "the replay stands at the gate"
    return client


@pytest.mark.parametrize(("point", "count"), [(point, count) for point in POINTS for count in COUNTS[point]])
def test_what_comes_during_a_replay_is_sent_once_and_in_order(world: World, point: str, count: int) -> None:
    missed = PAGE + 20
    client = connect_up_to(world, point, missed)
    before = len(client.events)
    publish(world, count)
    assert len(client.events) == before, "what is live waits until what was missed has been sent"
    world.call(world.outbox.open)
    world.settle()
    assert client.seqs == list(range(1, missed + count + 1))
    assert [entry.outcome for entry in world.ledger(KEY)] == [Outcome.ACKED] * (missed + count)
    assert all(peer.live for peer in world.registry.of(KEY))
    publish(world, 1)
    assert client.seqs[-1] == missed + count + 1


@pytest.mark.parametrize("count", [1, HELD_BACK_LIMIT + 1])
def test_what_comes_while_an_overflow_is_read_again_is_not_lost(world: World, count: int) -> None:
    """Past the bound the outbox is read again: what comes during that is held back anew, and may overflow anew."""
    client = connect_up_to(world, POINTS[1], 0)
    publish(world, HELD_BACK_LIMIT + 1)
    world.call(world.outbox.let)  # the page that ends the first reading; it was empty
    assert [kind for kind, _ in world.outbox.waiting] == ["pending"], "it reads on"
    publish(world, count)
    assert client.seqs == []
    reads = 0
    while world.outbox.waiting:
        world.call(world.outbox.let)
        reads += 1
    readings = 1 if count <= HELD_BACK_LIMIT else 2
    assert reads == readings * (HELD_BACK_LIMIT // PAGE + 1), "what was held back is not read"
    assert client.seqs == list(range(1, HELD_BACK_LIMIT + 1 + count + 1))
    assert all(entry.outcome is Outcome.ACKED for entry in world.ledger(KEY))


def test_the_bound_of_what_is_held_back_is_the_one_that_is_said(world: World) -> None:
    """At the bound nothing is read again; one more, and the outbox is asked for it."""
    for count, reads in ((HELD_BACK_LIMIT, 0), (HELD_BACK_LIMIT + 1, 1)):
        client = connect_up_to(world, POINTS[1], 0)
        publish(world, count)
        world.call(world.outbox.let)
        assert len(world.outbox.waiting) == reads
        world.call(world.outbox.open)
        world.settle()
        assert len(client.events) == count
        client.reset()
        world.settle()
    # what was acknowledged is not replayed to the next
    assert client.events[0]["seq"] == HELD_BACK_LIMIT + 1


def test_a_socket_that_is_up_to_date_is_not_held_up_by_one_that_is_not(world: World) -> None:
    first = world.client(acks=True)
    world.settle()
    world.outbox.hold("pending")
    second = world.client(acks=True)
    world.settle()
    publish(world, 3)
    assert first.seqs == [1, 2, 3]
    assert second.seqs == []
    assert [entry.outcome for entry in world.ledger(KEY)] == [Outcome.ACKED] * 3
    world.call(world.outbox.open)
    world.settle()
    assert second.seqs == [], "what somebody acknowledged is not sent to whoever comes later"


def test_two_replays_at_once_get_all_of_it_each(world: World) -> None:
    publish(world, 2)
    world.outbox.hold("pending")
    clients = [world.client(acks=False), world.client(acks=False)]
    world.settle()
    publish(world, 2)
    world.call(world.outbox.let)
    world.settle()
    publish(world, 1)
    world.call(world.outbox.open)
    world.settle()
    assert [client.seqs for client in clients] == [[1, 2, 3, 4, 5]] * 2
    world.advance(2.0)
    assert {entry.outcome for entry in world.ledger(KEY)} == {Outcome.RECEIVED}


def test_what_ends_between_its_reading_and_its_sending_is_not_sent(world: World) -> None:
    """An expired code, and an event that another socket acknowledges, while the page that has both is on its way."""
    now = world.clock.wall_ns() // 1_000_000
    other = world.client(acks=True)
    world.settle()
    other.acks = False
    world.publish(KEY, CONNECTED)
    world.settle()
    world.publish(KEY, QR, now + 5_000)
    world.settle()
    world.outbox.hold("pending", "ended")  # nobody says that it has expired: its time tells
    client = world.client(acks=True)
    world.settle()
    assert other.seqs == [1, 2]
    world.call(lambda: other.ack(1))
    world.advance(6.0)
    world.call(world.outbox.open)
    world.settle()
    assert client.seqs == []
    assert [entry.outcome for entry in world.ledger(KEY)] == [Outcome.ACKED, Outcome.EXPIRED]


@pytest.mark.parametrize("point", POINTS)
def test_whoever_goes_during_a_replay_leaves_all_of_it_pending(world: World, point: str) -> None:
    """What was held back for it has missed, as `just_disconnected`; the next one gets it."""
    missed = PAGE + 20
    client = connect_up_to(world, point, missed)
    client.acks = client.pongs = False
    publish(world, 3)
    client.reset()
    world.settle()
    world.call(world.outbox.open)
    world.settle()
    entries = world.ledger(KEY)
    assert {entry.outcome for entry in entries[len(client.events) :]} == {Outcome.PENDING}
    assert [[attempt.reason for attempt in entry.attempts] for entry in entries[-3:]] == [
        [MissReason.JUST_DISCONNECTED]
    ] * 3
    following = world.client(acks=True)
    world.settle()
    acked = {entry.seq for entry in entries if entry.outcome is Outcome.ACKED}
    assert following.seqs == [seq for seq in range(1, missed + 4) if seq not in acked]


def test_an_answer_that_is_late_to_be_told_reaches_whoever_came_meanwhile_once(world: World) -> None:
    """Committed, and the courier does not know it yet: the replay reads it from the outbox, then the answer comes."""
    world.outbox.hold("append")
    publish(world, 3)
    client = world.client(acks=True)
    world.settle()
    world.call(world.outbox.open)
    world.settle()
    assert client.first_seqs == [1, 2, 3]
    assert all(entry.outcome is Outcome.ACKED for entry in world.ledger(KEY))


class TestASlowReader:
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        with World(tmp_path, send_queue_limit=32_768) as world:
            yield world

    @pytest.mark.parametrize("count", [0, 1, 30])
    def test_a_replay_waits_for_its_reader(self, world: World, count: int) -> None:
        """It never leaves more unread than its share, so that a slow line is no reason to lose the connection."""
        missed = 400
        client = connect_up_to(world, POINTS[1], missed)
        client.slow = True
        world.call(world.outbox.open)
        world.settle()
        (peer,) = world.registry.of(KEY)
        seen: list[int] = []
        for turn in range(1_000):
            assert peer.live or peer.backlog <= 32_768 // 2 + 1_000, "the replay runs ahead of its reader"
            assert not peer.live or len(seen) >= missed - 100
            if turn == 3:
                publish(world, count)
            client.slow = False  # it reads what there is, and stops again
            client.slow = True
            world.advance(0.02)
            seen = client.seqs
            if len(seen) == missed + count:
                break
        client.slow = False
        world.settle()
        assert client.seqs == list(range(1, missed + count + 1))
        assert "queue_full" not in world.notes.disconnects
        assert all(entry.outcome is Outcome.ACKED for entry in world.ledger(KEY))

    def test_a_replay_ends_with_its_reader(self, world: World) -> None:
        client = connect_up_to(world, POINTS[1], 400)
        client.slow = True
        world.call(world.outbox.open)
        world.settle()
        client.reset()
        world.advance(1.0)
        assert not world.registry.of(KEY)
        following = world.client(acks=True)
        world.advance(1.0)
        assert following.seqs == list(range(1, 401))
