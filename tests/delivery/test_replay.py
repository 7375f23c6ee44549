"""Replays: at their reader's pace, slowed down for clients that come and go, by the clock as it is set."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.delivery.inflight import HELD_BACK_LIMIT
from roundtrip.delivery.replay import FORGET_AFTER, FREE, ReplayThrottle
from roundtrip.identity import BotKey
from roundtrip.outbox.records import FIRST_ATTEMPTS, LAST_ATTEMPTS, MissReason, StoredEvent
from tests.delivery.stage import KEY, WATERMARK, Client, Stage
from tests.support.stepped_clock import SteppedClock


def test_a_client_that_reconnects_all_the_time_is_throttled_counted_and_logged_in_few_lines(stage: Stage) -> None:
    rows = [stage.publish() for _ in range(100)]
    stage.notes.rounds.clear()
    sent = 0
    for number in range(400):  # 20 times a second
        client = stage.join(f"s{number}", replay=False)
        stage.pass_time(0.05)
        sent += len(client.frames)
        client.leave()
    attempts = rows[0].attempts
    assert sent <= 100 * 12  # not 40,000
    assert stage.notes.slowed_ > 300
    assert len(stage.notes.rounds) <= 12
    assert len(attempts) <= FIRST_ATTEMPTS + LAST_ATTEMPTS
    assert stage.join("patient").received_events[0][0] == 1  # it still gets everything


def test_a_client_that_confirms_is_never_throttled(stage: Stage) -> None:
    for number in range(20):
        client = stage.join(f"s{number}")
        stage.publish()
        client.ack(number + 1)
        client.leave()
    assert stage.notes.slowed_ == 0


def test_the_throttle_of_a_key_expires_and_the_number_of_keys_is_bounded() -> None:
    clock = SteppedClock()
    throttle = ReplayThrottle(clock)
    for _ in range(FREE):
        throttle.unconfirmed(KEY)
    assert throttle.delay(KEY) == 0
    throttle.unconfirmed(KEY)
    assert 0 < throttle.delay(KEY) <= 0.1
    for _ in range(30):
        throttle.unconfirmed(KEY)
    assert 2.5 <= throttle.delay(KEY) <= 5.0
    clock.advance(FORGET_AFTER)
    assert throttle.delay(KEY) == 0
    for number in range(10_050):
        throttle.unconfirmed(BotKey("u", f"{number}"))
    assert len(throttle) == 10_000
    for _ in range(FREE + 1):
        throttle.unconfirmed(KEY)
    assert throttle.delay(KEY) > 0, "it is the oldest key that is forgotten for a new one"


def test_a_page_of_a_replay_that_was_read_before_a_clock_step_is_checked_by_the_new_time(stage: Stage) -> None:
    for _ in range(3):
        stage.publish()
    client = Client(stage, "slow", must_ack=True)
    stage.clients["slow"] = client
    client.backlog = 1 << 20  # it reads nothing, and the replay waits with its page in hand
    replay = stage.loop.create_task(stage.replayer.run(client, stage.courier.joined(client), None))
    stage.pass_time(1)
    assert client.received_events == []
    stage.clock.step(86_400)
    client.backlog = 0
    stage.pass_time(1)
    assert replay.done()
    assert client.received_events == [(1, 2), (2, 2), (3, 2)]


def test_an_event_published_between_the_snapshot_and_the_first_page_is_replayed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read from the outbox before its turn among the live ones comes, and sent once."""
    pending, gate = stage.outbox.pending, asyncio.Event()

    async def gated(key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        await gate.wait()
        return await pending(key, after, limit)

    monkeypatch.setattr(stage.outbox, "pending", gated)
    client = stage.join(replay=False)
    stage.pass_time(0.1)
    stage.publish()
    assert client.received_events == []
    stage.call(gate.set)
    stage.pass_time(0.1)
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
def test_held_back_events_wait_for_the_reader_as_missed_ones_do(stage: Stage, count: int) -> None:
    client = stage.join_slowly(unread=UNREAD)
    for _ in range(count):
        stage.publish()
    assert client.received_events == []
    assert catch_up(stage, client) > count * UNREAD // (WATERMARK + UNREAD)
    assert client.received_events == [(1, 2), *((seq, 1) for seq in range(2, count + 2))]
    stage.publish()
    assert client.received_events[-1] == (count + 2, 1)


def test_events_that_come_while_a_replay_waits_for_its_reader_are_held_back_too(stage: Stage) -> None:
    client = stage.join_slowly(unread=UNREAD)
    for _ in range(100):  # more comes than it reads
        stage.publish()
        stage.publish()
        assert not client.live
        assert client.backlog <= WATERMARK + UNREAD
        client.backlog = max(0, client.backlog - UNREAD)
        stage.loop.advance(0.02)
    catch_up(stage, client)
    assert client.received_events == [(1, 2), *((seq, 1) for seq in range(2, 202))]
    assert [frame["replayed"] for frame in client.frames] == [True] + [False] * 200


def test_events_that_expire_while_a_replay_waits_for_its_reader_are_not_sent(stage: Stage) -> None:
    client = stage.join_slowly(unread=UNREAD)
    for _ in range(20):
        stage.publish()
    stage.publish(expires_at=stage.watch.wall_ns() // 1_000_000 + 1000)
    stage.outbox.fault_down = True  # so that the outbox does not end it
    client.backlog = 0
    stage.pass_time(1.5)
    catch_up(stage, client)
    assert [seq for seq, _ in client.received_events] == list(range(1, 22))


def test_a_slow_reader_that_leaves_gets_all_events_when_it_reconnects(stage: Stage) -> None:
    client = stage.join_slowly(unread=UNREAD)
    rows = [stage.publish() for _ in range(40)]
    client.backlog = 0
    stage.pass_time(1)
    sent = len(client.frames)
    assert 1 < sent < 40
    client.leave()
    stage.pass_time(1)
    assert [[(a.reason, a.sockets) for a in row.attempts] for row in rows] == [
        [(MissReason.JUST_DISCONNECTED, int(row.event.seq <= sent))] for row in rows
    ]
    assert not stage.courier._inflight.keys
    assert stage.join("again").received_events == [(1, 3), *((seq, 2) for seq in range(2, 42))]
