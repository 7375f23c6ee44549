"""Replays: at their reader's pace, slowed down for clients that come and go, by the clock as it is set."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.delivery.inflight import HELD_BACK_LIMIT
from roundtrip.delivery.replay import FORGET_AFTER, FREE, ReplayThrottle
from roundtrip.identity import BotKey
from roundtrip.outbox.records import FIRST_KEPT, LAST_KEPT, MissReason, StoredEvent
from tests.delivery.stage import KEY, WATERMARK, Client, Stage
from tests.support.stepped_clock import SteppedClock


def test_a_client_that_comes_and_goes_is_slowed_down_counted_and_told_in_few_lines(stage: Stage) -> None:
    for _ in range(100):
        stage.publish()
    stage.notes.rounds.clear()
    sent = 0
    for number in range(400):  # 20 times a second
        client = stage.join(f"s{number}", replay=False)
        stage.let(0.05)
        sent += len(client.frames)
        client.leave()
    attempts = stage.outbox.rows[KEY][1].attempts
    assert sent <= 100 * 12  # not 40,000
    assert stage.notes.slowed_ > 300
    assert len(stage.notes.rounds) <= 12
    assert len(attempts) <= FIRST_KEPT + LAST_KEPT
    assert stage.join("patient").got[0][0] == 1  # it still gets everything


def test_a_page_that_confirms_is_never_slowed_down(stage: Stage) -> None:
    for number in range(20):
        client = stage.join(f"s{number}")
        stage.publish()
        client.ack(number + 1)
        client.leave()
    assert stage.notes.slowed_ == 0


def test_a_keys_pace_is_forgotten_in_time_and_bounded() -> None:
    clock = SteppedClock()
    pace = ReplayThrottle(clock)
    for _ in range(FREE):
        pace.unconfirmed(KEY)
    assert pace.delay(KEY) == 0
    pace.unconfirmed(KEY)
    assert 0 < pace.delay(KEY) <= 0.1
    for _ in range(30):
        pace.unconfirmed(KEY)
    assert 2.5 <= pace.delay(KEY) <= 5.0
    clock.advance(FORGET_AFTER)
    assert pace.delay(KEY) == 0
    for number in range(10_050):
        pace.unconfirmed(BotKey("u", f"{number}"))
    assert len(pace) == 10_000


def test_a_page_of_a_replay_that_was_read_before_a_step_is_judged_by_the_new_clock(stage: Stage) -> None:
    for _ in range(3):
        stage.publish()
    client = Client(stage, "slow", must_ack=True)
    stage.clients["slow"] = client
    client.backlog = 1 << 20  # it reads nothing, and the replay waits with its page in hand
    replay = stage.loop.create_task(stage.replayer.run(client, stage.courier.joined(client), None))
    stage.let(1)
    assert client.got == []
    stage.clock.step(86_400)
    client.backlog = 0
    stage.let(1)
    assert replay.done()
    assert client.got == [(1, 2), (2, 2), (3, 2)]


def test_what_is_published_between_the_snapshot_and_the_first_page_is_replayed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read from the outbox before its turn among the live ones comes, and sent once."""
    pending, gate = stage.outbox.pending, asyncio.Event()

    async def gated(key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        await gate.wait()
        return await pending(key, after, limit)

    monkeypatch.setattr(stage.outbox, "pending", gated)
    client = stage.join(replay=False)
    stage.let(0.1)
    stage.publish()
    assert client.got == []
    stage.do(gate.set)
    stage.let(0.1)
    assert [(frame["seq"], frame["replayed"]) for frame in client.frames] == [(1, True)]


UNREAD = 50_000
"""Bytes that each event leaves unread by a slow client."""


def catch_up(stage: Stage, client: Client) -> int:
    """The client reads all that there is, again and again, until it is live; how often that was."""
    for turn in range(1000):
        if client.live:
            return turn
        assert client.backlog <= WATERMARK + UNREAD, "the replay runs ahead of its reader"
        client.backlog = 0
        stage.loop.advance(0.02)
    raise AssertionError("it never became live")


@pytest.mark.parametrize("count", [0, 1, 40, HELD_BACK_LIMIT, HELD_BACK_LIMIT + 1])
def test_what_was_held_back_waits_for_its_reader_as_what_was_missed_does(stage: Stage, count: int) -> None:
    client = stage.join_slowly(unread=UNREAD)
    for _ in range(count):
        stage.publish()
    assert client.got == []
    assert catch_up(stage, client) > count * UNREAD // (WATERMARK + UNREAD)
    assert client.got == [(1, 2), *((seq, 1) for seq in range(2, count + 2))]
    stage.publish()
    assert client.got[-1] == (count + 2, 1)


def test_what_comes_while_the_reader_is_waited_for_is_held_back_too(stage: Stage) -> None:
    client = stage.join_slowly(unread=UNREAD)
    for _ in range(100):  # more comes than it reads
        stage.publish()
        stage.publish()
        assert not client.live
        assert client.backlog <= WATERMARK + UNREAD
        client.backlog = max(0, client.backlog - UNREAD)
        stage.loop.advance(0.02)
    catch_up(stage, client)
    assert client.got == [(1, 2), *((seq, 1) for seq in range(2, 202))]
    assert [frame["replayed"] for frame in client.frames] == [True] + [False] * 200


def test_what_expires_while_the_reader_is_waited_for_is_not_sent(stage: Stage) -> None:
    client = stage.join_slowly(unread=UNREAD)
    for _ in range(20):
        stage.publish()
    stage.publish(expires_at=stage.watch.wall_ns() // 1_000_000 + 1000)
    stage.outbox.fault_down = True  # so that the outbox does not end it
    client.backlog = 0
    stage.let(1.5)
    catch_up(stage, client)
    assert [seq for seq, _ in client.got] == list(range(1, 22))


def test_a_slow_reader_that_leaves_gets_all_of_it_when_it_comes_back(stage: Stage) -> None:
    client = stage.join_slowly(unread=UNREAD)
    rows = [stage.publish() for _ in range(40)]
    client.backlog = 0
    stage.let(1)
    sent = len(client.frames)
    assert 1 < sent < 40
    client.leave()
    stage.let(1)
    assert [[(a.reason, a.sockets) for a in row.attempts] for row in rows] == [
        [(MissReason.JUST_DISCONNECTED, int(row.event.seq <= sent))] for row in rows
    ]
    assert not stage.courier._inflight.keys
    assert stage.join("again").got == [(1, 3), *((seq, 2) for seq in range(2, 42))]
