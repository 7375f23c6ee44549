"""The courier's promises one by one, on a clock that the test moves: what is sent again and what is not, and when."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from roundtrip.backoff import Backoff
from roundtrip.clock import WatchedClock
from roundtrip.delivery.courier import SETTLE, Courier
from roundtrip.delivery.inflight import FORGET_AFTER, FREE, ReplayThrottle
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.wire import Confirmable, Frame, Miss
from roundtrip.events import Connected, Payload, Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.memory import MemoryOutbox
from roundtrip.outbox.records import (
    FIRST_ATTEMPTS,
    LAST_ATTEMPTS,
    Attempt,
    LedgerEntry,
    MissReason,
    Outcome,
    StoredEvent,
)
from tests.support.sockets import Faults, Notes, idle
from tests.support.stepped_clock import SteppedClock
from tests.support.stepped_loop import SteppedLoop

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", False)
ACK_TIMEOUT = 5.0
TTL = 600.0


class Client:
    """A socket without a network, that takes everything and confirms what the test wants."""

    def __init__(self, stage: Stage, sid: str, *, must_ack: bool) -> None:
        self.stage = stage
        self.sid = sid
        self.key = KEY
        self.must_ack = must_ack
        self.live = self.closed = False
        self.backlog = 0
        self.frames: list[dict[str, Any]] = []
        self.asked: list[Confirmable] = []

    def send(self, frame: Frame) -> MissReason | None:
        name, payload = json.loads(frame.payload[frame.payload.index(b"[") :])
        if name == "whatsapp_connection_event":
            self.frames.append(payload)
        return None

    def confirm(self, sent: Confirmable) -> None:
        self.asked.append(sent)

    @property
    def got(self) -> list[tuple[int, int]]:
        """`seq` and attempt of each frame."""
        return [(frame["seq"], frame["attempt"]) for frame in self.frames]

    def ack(self, seq: int) -> None:
        self.stage.do(lambda: self.stage.courier.acked(self, seq))

    def receipt(self) -> None:
        asked, self.asked = self.asked, []
        self.stage.do(lambda: self.stage.courier.received(self, asked))

    def leave(self) -> None:
        self.closed = True
        del self.stage.clients[self.sid]
        self.stage.do(lambda: self.stage.courier.left(self))


class Published:
    """An event, and what the outbox has of it whenever one asks."""

    def __init__(self, stage: Stage, event: StoredEvent) -> None:
        self._stage = stage
        self.event = event

    @property
    def entry(self) -> LedgerEntry:
        entry = self._stage.loop.run(self._stage.outbox.find(self.event.id))
        assert entry is not None
        return entry

    @property
    def outcome(self) -> Outcome:
        return self.entry.outcome

    @property
    def resolved_at(self) -> int | None:
        return self.entry.resolved_at

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return self.entry.attempts


class Stage:
    """Courier and replay over an outbox in memory, with one clock for all of them."""

    def __init__(self) -> None:
        self.loop = SteppedLoop()
        self.clock: SteppedClock = self.loop.clock
        self.watch = WatchedClock(self.clock)
        self.notes = Notes()
        self.clients: dict[str, Client] = {}
        self.loop.run(self._start())

    async def _start(self) -> None:
        self.outbox = MemoryOutbox(clock=self.clock)
        self.courier = Courier(
            self.outbox,
            self,
            self.notes,
            self.notes,
            Faults(),
            event_ttl=TTL,
            ack_timeout=ACK_TIMEOUT,
            backoff=Backoff(2.0, 60.0),
            clock=self.watch,
        )
        self.replayer = Replayer(self.outbox, self.courier, self.notes, idle, watermark=1 << 19, clock=self.watch)
        self.watch.on_step += [self.outbox.moved, self.courier.moved]

    def of(self, key: BotKey) -> Any:
        return self.clients.values() if key == KEY else ()

    def why_missing(self, _key: BotKey) -> Miss:
        return Miss(MissReason.NEVER_CONNECTED)

    def missed(self, *_: object) -> None:
        pass

    def join(self, sid: str = "one", *, must_ack: bool = True, replay: bool = True) -> Client:
        client = self.clients[sid] = Client(self, sid, must_ack=must_ack)
        channel = self.courier.joined(client)
        replaying = self.loop.create_task(self.replayer.run(client, channel, None))
        while replay and not replaying.done():
            self.loop.advance(0.01)
        return client

    def publish(self, payload: Payload = CONNECTED, expires_at: int | None = None) -> Published:
        event = self.loop.run(self.courier.publish(KEY, "link", payload, expires_at=expires_at))
        return Published(self, event)

    def do(self, act: Callable[[], object]) -> None:
        """Something happens on the loop."""

        async def acting() -> None:
            act()

        self.loop.run(acting())

    def let(self, seconds: float) -> None:
        """Time passes as it does: timers run on time."""
        while seconds > 0:
            self.loop.advance(min(seconds, 0.1))
            seconds -= 0.1


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.courier.close()
    made.loop.run(made.outbox.close())
    made.loop.close()


# what is sent again


def test_what_a_client_does_not_acknowledge_is_sent_again_until_it_does(stage: Stage) -> None:
    client = stage.join()
    row = stage.publish()
    stage.let(ACK_TIMEOUT + 2.2)
    assert client.got == [(1, 1), (1, 2)]
    assert [(a.reason, a.sids) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, ("one",))]
    client.ack(1)
    stage.let(200)
    assert client.got == [(1, 1), (1, 2)]
    assert (row.outcome, len(row.attempts), row.attempts[1].reason) == (Outcome.ACKED, 2, None)


def test_what_is_under_way_is_not_sent_again(stage: Stage) -> None:
    client = stage.join()
    stage.publish()
    stage.let(ACK_TIMEOUT - 0.5)
    stage.publish()  # still has its time when the first is sent again
    stage.let(1.5)
    stage.let(2)
    assert client.got == [(1, 1), (2, 1), (1, 2)]


def test_clients_that_owe_no_acknowledgement_are_not_sent_anything_again(stage: Stage) -> None:
    quiet = stage.join("quiet", must_ack=False)
    owing = stage.join("owing", must_ack=True)
    stage.publish()
    stage.let(ACK_TIMEOUT + 2.2)
    assert (quiet.got, owing.got) == ([(1, 1)], [(1, 1), (1, 2)])


def test_what_a_client_confirmed_by_a_receipt_is_not_sent_again(stage: Stage) -> None:
    stage.courier._backoff = Backoff(0.2, 0.2)  # before the receipt's moment is over
    quiet = stage.join("quiet", must_ack=False)
    owing = stage.join("owing", must_ack=True)
    row = stage.publish()
    stage.let(ACK_TIMEOUT + 0.05)  # given up
    quiet.receipt()
    stage.let(SETTLE - 0.1)
    assert row.entry.outcome is Outcome.PENDING
    stage.let(3)
    assert row.outcome is Outcome.RECEIVED
    assert owing.got == [(1, 1)]


def test_what_has_expired_is_not_sent_again(stage: Stage) -> None:
    client = stage.join()
    stage.publish(expires_at=stage.watch.wall_ns() // 1_000_000 + 5500)
    stage.let(1)
    stage.outbox.fault_down = True  # so that nobody says that it has expired
    stage.let(30)
    assert client.got == [(1, 1)]


def test_no_retry_outlives_the_socket_that_it_was_for(stage: Stage) -> None:
    client = stage.join()
    stage.publish()
    stage.let(ACK_TIMEOUT + 0.1)  # a retry waits for its time
    client.leave()
    again = stage.join("again")
    assert again.got == [(1, 2)]
    stage.let(ACK_TIMEOUT - 0.5)
    assert again.got == [(1, 2)]


def test_an_attempt_that_runs_out_while_a_retry_passes_it_by_is_sent_again(stage: Stage) -> None:
    client = stage.join()
    for _ in range(200):
        stage.publish()
    stage.let(ACK_TIMEOUT + 0.1)
    while len(client.got) <= 200:
        stage.loop.advance(0.002)
    assert len(client.got) < 400  # the first slice is out, the others wait
    channel = stage.courier._channels[KEY]
    stage.do(lambda: stage.courier._overdue(channel.inflight[1]))
    stage.let(2.3)
    assert [attempt for seq, attempt in client.got if seq == 1] == [1, 2, 3]
    assert [attempt for seq, attempt in client.got if seq == 2] == [1, 2]


# how long an event lives


def test_a_code_ends_with_its_own_life_and_nothing_lives_longer_than_the_rest(stage: Stage) -> None:
    now = stage.watch.wall_ns() // 1_000_000
    long = stage.publish(expires_at=now + 10**9)
    code = stage.publish(Qr("2@secret", 1, 6, "2027-01-15T08:00:20.000Z"), expires_at=now + 20_000)
    assert (code.event.expires_at, long.event.expires_at) == (now + 20_000, now + int(TTL * 1000))
    stage.let(20.2)
    assert (code.outcome, long.outcome) == (Outcome.EXPIRED, Outcome.PENDING)
    assert stage.join().got == [(1, 2)]


# confirmations


def test_the_time_of_a_receipt_is_that_of_the_first(stage: Stage) -> None:
    one, two = stage.join("one", must_ack=False), stage.join("two", must_ack=False)
    row = stage.publish()
    stage.clock.advance(0.2)
    at = stage.clock.wall_ns() // 1_000_000
    one.receipt()
    stage.clock.advance(0.1)
    two.receipt()
    stage.let(SETTLE + 0.1)
    assert (row.outcome, row.resolved_at, row.attempts[-1].receipt_at) == (Outcome.RECEIVED, at, at)
    assert row.attempts[-1].ack_at is None


def test_a_receipt_of_who_owes_an_acknowledgement_is_kept_with_the_attempt(stage: Stage) -> None:
    client = stage.join()
    row = stage.publish()
    stage.clock.advance(0.2)
    at = stage.clock.wall_ns() // 1_000_000
    client.receipt()
    stage.let(ACK_TIMEOUT)
    assert [(a.reason, a.receipt_at) for a in row.attempts] == [(MissReason.ACK_TIMEOUT, at)]


def test_an_acknowledgement_takes_its_deadlines_along(stage: Stage) -> None:
    client = stage.join(must_ack=False)
    for seq in range(1, 101):
        stage.publish()
        client.receipt()
        client.ack(seq)
    assert (len(stage.courier._due), len(stage.courier._settling)) == (0, 0)


# sockets that leave


def test_what_was_held_back_for_a_socket_that_leaves_has_missed(stage: Stage) -> None:
    client = stage.join(replay=False)  # its replay waits for the outbox
    row = stage.publish()
    assert client.got == []
    client.leave()
    stage.let(0.1)
    assert [(a.reason, a.sockets) for a in row.attempts] == [(MissReason.JUST_DISCONNECTED, 0)]
    assert stage.join("again").got == [(1, 2)]


def test_what_a_leaving_socket_confirmed_is_received(stage: Stage) -> None:
    client = stage.join(must_ack=False)
    row = stage.publish()
    client.receipt()
    client.leave()
    stage.let(0.1)
    assert (row.outcome, row.attempts[-1].reason) == (Outcome.RECEIVED, None)
    assert stage.join("again").got == []


def test_many_that_miss_together_are_one_line(stage: Stage) -> None:
    client = stage.join()
    for _ in range(50):
        stage.publish()
    client.leave()
    stage.let(0.1)
    (misses,) = stage.notes.rounds
    assert (misses.count, misses.event.seq, misses.last_seq) == (50, 1, 50)
    client = stage.join("again")
    stage.let(ACK_TIMEOUT + 0.2)
    assert [told.count for told in stage.notes.rounds] == [50, 50]


# clients that come and go


def test_a_client_that_comes_and_goes_is_slowed_down_counted_and_told_in_few_lines(stage: Stage) -> None:
    rows = [stage.publish() for _ in range(100)]
    stage.notes.rounds.clear()
    sent = 0
    for number in range(400):  # 20 times a second
        client = stage.join(f"s{number}", replay=False)
        stage.let(0.05)
        sent += len(client.frames)
        client.leave()
    attempts = rows[0].attempts
    assert sent <= 100 * 12  # not 40,000
    assert stage.notes.slowed_ > 300
    assert len(stage.notes.rounds) <= 12
    assert len(attempts) <= FIRST_ATTEMPTS + LAST_ATTEMPTS
    assert stage.join("patient").got[0][0] == 1  # it still gets everything


def test_an_event_keeps_its_first_and_last_attempts_and_a_count(stage: Stage) -> None:
    row = stage.publish()
    for number in range(40):
        stage.join(f"s{number}").leave()
        stage.let(0.1)
    assert (len(row.attempts), sum(a.omitted for a in row.attempts)) == (FIRST_ATTEMPTS + LAST_ATTEMPTS, 41 - 10)
    assert [a.sids for a in row.attempts] == [(), ("s0",), ("s1",), *((f"s{n}",) for n in range(33, 40))]
    assert stage.join("last").got == [(1, 42)]


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


# the clock is set


@pytest.mark.parametrize("seconds", [86_400, -86_400])
def test_a_step_of_the_clock_expires_nothing_and_spoils_no_interval(stage: Stage, seconds: int) -> None:
    client = stage.join()
    now = stage.watch.wall_ns() // 1_000_000
    row = stage.publish()
    code = stage.publish(Qr("2@secret", 1, 6, "x"), expires_at=now + 20_000)
    stage.let(ACK_TIMEOUT + 0.1)
    stage.clock.step(seconds)
    stage.let(2.2)
    assert client.got == [(1, 1), (2, 1), (1, 2), (2, 2)]
    client.ack(1)
    (delivery,) = stage.notes.settled_
    assert 0 < delivery.ack_ns - delivery.started_ns < 3e9
    assert 7 < delivery.ack_ns / 1e9 - delivery.event.created_at / 1e3 < 8
    assert code.outcome is Outcome.PENDING
    again = stage.join("again")
    assert again.got == [(2, 2)]
    stage.let(20)
    assert (code.outcome, row.outcome) == (Outcome.EXPIRED, Outcome.ACKED)
    assert stage.join("late").got == []


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


# mistakes


def test_a_mistake_about_one_event_is_counted_and_costs_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client = stage.join()
    rows = [stage.publish() for _ in range(4)]
    record = stage.outbox.record

    def fail(key: BotKey, seq: int, attempts: Any) -> None:
        if seq == 2:
            raise ZeroDivisionError
        record(key, seq, attempts)

    monkeypatch.setattr(stage.outbox, "record", fail)
    stage.let(ACK_TIMEOUT + 0.2)
    assert [len(row.attempts) for row in rows] == [1, 0, 1, 1]
    assert stage.notes.failed_ == 1
    stage.let(2)
    client.leave()
    stage.let(0.1)
    assert [len(row.attempts) for row in rows] == [2, 0, 2, 2]
    assert stage.notes.failed_ == 2
