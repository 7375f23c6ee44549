"""The invariants of delivery hold whatever happens to its sockets, its disk and its clock.

A stateful property test: random publishing, connects, disconnects, half-open and slow sockets, acknowledgements that
are late, repeated or invented, receipts, a failing outbox, restarts and clock steps. After every step the ledger
balances, and at the end every client that reconnected and confirmed has every event. Nothing expires before its time to
live has passed, however often the clock is set meanwhile.

It counts how often it reached each interesting branch: a generator that reaches one of them never is a red test.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from roundtrip.backoff import Backoff
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.replay import Replayer
from roundtrip.events import SECRET_TYPES, Connected, Degraded, Payload, Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.records import LedgerEntry, Outcome
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.watched_clock import WatchedClock
from tests.support.fake_sockets import KEYS, FakeSocket, FakeSockets, reached
from tests.support.sockets import Faults, Notes, idle
from tests.support.stepped_loop import SteppedLoop

TTL = 600.0
WATERMARK = 1 << 19
QR_LIFETIME = 20.0
SECRET = "2@secret"  # noqa: S105  # a canary


class CourierMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="roundtrip-courier-"))
        self.loop = SteppedLoop()
        self.clock = self.loop.clock
        self.lifetimes: dict[str, tuple[float, float]] = {}
        """By event id: when it was made, in monotonic seconds, and how long it may live."""
        self.number = 0
        self.published: Counter[BotKey] = Counter()
        self.resolved_ids: set[str] = set()
        self.start()

    def start(self) -> None:
        self.sockets = FakeSockets()
        self.notes = Notes()
        self.loop.run(self._start())

    async def _start(self) -> None:
        self.watch = WatchedClock(self.clock)
        self.outbox = SqliteOutbox(self.folder, clock=self.clock, sweep_every=3600)
        self.courier = Courier(
            self.outbox,
            self.sockets,
            self.notes,
            self.notes,
            Faults(),
            event_ttl=TTL,
            ack_timeout=5.0,
            backoff=Backoff(5.0, 60.0),
            clock=self.watch,
        )
        self.replayer = Replayer(self.outbox, self.courier, self.notes, idle, watermark=WATERMARK, clock=self.watch)
        self.watch.on_step += [self.outbox.moved, self.courier.moved]
        await self.outbox.start()

    def all_sockets(self) -> list[FakeSocket]:
        return [socket for sockets in self.sockets.by_key.values() for socket in sockets.values()]

    def remaining(self, event_id: str) -> float:
        """Seconds until an event expires."""
        made, lifetime = self.lifetimes[event_id]
        return lifetime - (self.clock.monotonic() - made)

    def check_not_expired(self, event_id: str) -> None:
        if event_id in self.lifetimes:  # its publication has returned
            assert self.remaining(event_id) > -0.001, "sent after its end"

    def draw_socket(self, data: st.DataObject) -> FakeSocket:
        return data.draw(st.sampled_from(self.all_sockets()))

    # what can happen

    @rule(key=st.sampled_from(KEYS), kind=st.sampled_from(["connected", "degraded", "qr"]))
    def publish(self, key: BotKey, kind: str) -> None:
        payload: Payload = Connected("+15550100", "Ada", False)
        expires_at, lifetime = None, TTL
        if kind == "degraded":
            payload = Degraded()
        elif kind == "qr":
            payload = Qr(SECRET, 1, 6, "2026-01-01T00:00:00.000Z")
            lifetime = QR_LIFETIME
            expires_at = self.watch.wall_ns() // 1_000_000 + int(QR_LIFETIME * 1000)
        event = self.loop.run(self.courier.publish(key, "link", payload, expires_at=expires_at))
        self.published[key] += 1
        self.lifetimes[event.id] = (self.clock.monotonic(), lifetime)
        assert event.seq == self.published[key], "seq grows by one per key"

    @rule(key=st.sampled_from(KEYS), must_ack=st.booleans())
    def connect(self, key: BotKey, must_ack: bool) -> None:
        self.number += 1
        socket = FakeSocket(f"s{self.number}", key, must_ack=must_ack)
        self.sockets.by_key[key][socket.sid] = socket
        socket.on_event = self.check_not_expired
        channel = self.courier.joined(socket)
        replay = self.loop.create_task(self.replayer.run(socket, channel, None))
        for _ in range(30):
            if not replay.done():
                self.answer(key)
            if replay.done():
                break
            reached["slowed"] += 1
            self.pass_time(1.0)
        assert socket.live

    @rule(key=st.sampled_from(KEYS), must_ack=st.booleans(), count=st.integers(0, 8))
    def slow_reader_connects(self, key: BotKey, must_ack: bool, count: int) -> None:
        """A client that reads one event for each two that are published, until nothing is published any more."""
        self.number += 1
        socket = self.sockets.by_key[key][f"s{self.number}"] = FakeSocket(f"s{self.number}", key, must_ack=must_ack)
        socket.unread = socket.backlog = WATERMARK
        socket.on_event = self.check_not_expired
        replay = self.loop.create_task(self.replayer.run(socket, self.courier.joined(socket), None))
        for _ in range(300):
            for _ in range(min(count, 2)):
                self.publish(key, "connected")
                count -= 1
            reached["paced"] += socket.backlog > WATERMARK
            socket.backlog = max(0, socket.backlog - WATERMARK)
            self.answer(key)
            self.loop.advance(0.05)
            self.answer(key)
            if replay.done():
                break
        assert socket.live
        socket.unread = socket.backlog = 0

    def answer(self, key: BotKey) -> None:
        """What a replay asked of the outbox's thread is answered, whatever that thread's pace."""
        for _ in range(2):
            self.loop.run(self.outbox.last_seq(key))
            self.loop.settle()

    def pass_time(self, seconds: float) -> None:
        """Also for deadlines that let what waits be read first, once they come late."""
        self.loop.advance(seconds)
        self.loop.advance(0.03)
        self.loop.advance(0.03)

    @rule(key=st.sampled_from(KEYS), times=st.integers(1, 3))
    def acknowledgements_are_missing(self, key: BotKey, times: int) -> None:
        """A client that must acknowledge takes an event and does not: it gets it again."""
        self.connect(key, True)
        self.publish(key, "connected")
        for _ in range(times):
            self.pass_time(5.1)
            self.pass_time(60)

    @rule(key=st.sampled_from(KEYS), slow=st.booleans(), seconds=st.sampled_from([0.1, 0.6]))
    def live_event_is_receipted(self, key: BotKey, slow: bool, seconds: float) -> None:
        """A client gets a live event, and its engine confirms it."""
        self.connect(key, False)
        socket = list(self.sockets.by_key[key].values())[-1]
        socket.slow = slow
        self.publish(key, "connected")
        sent, socket.unreceipted = socket.unreceipted, []
        self.courier.confirmations.received(socket, sent)
        self.pass_time(seconds)

    @rule(key=st.sampled_from(KEYS), times=st.sampled_from([2, 12]))
    def client_reconnects_repeatedly(self, key: BotKey, times: int) -> None:
        self.publish(key, "connected")
        for _ in range(times):
            self.connect(key, False)
            self.leave(list(self.sockets.by_key[key].values())[-1])

    @precondition(lambda self: self.all_sockets())
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        self.leave(self.draw_socket(data))

    def leave(self, socket: FakeSocket) -> None:
        socket.closed = True
        del self.sockets.by_key[socket.key][socket.sid]

        async def left() -> None:  # on the loop, for many misses are written in slices
            self.courier.left(socket)

        self.loop.run(left())

    @precondition(lambda self: self.all_sockets())
    @rule(data=st.data(), slow=st.booleans(), half_open=st.booleans())
    def change_health(self, data: st.DataObject, slow: bool, half_open: bool) -> None:
        socket = self.draw_socket(data)
        socket.slow, socket.half_open = slow, half_open

    @precondition(lambda self: self.all_sockets())
    @rule(data=st.data())
    def receipt(self, data: st.DataObject) -> None:
        socket = self.draw_socket(data)
        if not socket.half_open:
            sent, socket.unreceipted = socket.unreceipted, []
            self.courier.confirmations.received(socket, sent)

    @precondition(lambda self: self.all_sockets())
    @rule(data=st.data(), number=st.integers(0, 1000), twice=st.booleans())
    def acknowledge(self, data: st.DataObject, number: int, twice: bool) -> None:
        """Any event that the socket got: its number does not depend on what came in time, for the outbox is real."""
        socket = self.draw_socket(data)
        if socket.seqs and not socket.half_open:
            seq = socket.seqs[number % len(socket.seqs)]
            self.courier.confirmations.acked(socket, seq)
            if twice:
                self.courier.confirmations.acked(socket, seq)

    @precondition(lambda self: self.all_sockets())
    @rule(data=st.data(), seq=st.integers(-5, 10**15))
    def invent_an_ack(self, data: st.DataObject, seq: int) -> None:
        socket = self.draw_socket(data)
        if seq not in socket.seqs:
            self.courier.confirmations.acked(socket, seq)

    @rule(seconds=st.sampled_from([0.6, 6.0, 30.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(seconds=st.sampled_from([-86_400, -120, -3, 3, 120, 86_400]), noticed=st.booleans())
    def the_clock_is_set(self, seconds: int, noticed: bool) -> None:
        self.clock.step(seconds)
        if noticed:
            self.watch.wall_ns()
        reached["clock set"] += 1

    @rule()
    def restart(self) -> None:
        """As a clean stop does it: what is in memory goes, what was written stays."""
        self.watch.stop()
        self.courier.close()
        self.loop.run(self.outbox.close())
        self.start()

    # what must hold

    @invariant()
    def the_ledger_balances(self) -> None:
        if not hasattr(self, "outbox"):
            return
        entries, totals = self._entries(), self.outbox.totals()
        while (again := (self._entries(), self.outbox.totals())) != (entries, totals):  # it expires some by itself
            entries, totals = again
        by_type: Counter[tuple[int, Outcome]] = Counter((entry.type, entry.outcome) for entry in entries)
        for type_ in {entry.type for entry in entries}:
            resolved = sum(count for (of, _), count in totals.resolved.items() if of == type_)
            assert totals.created[type_] == resolved + totals.pending.get(type_, 0)
            assert totals.pending.get(type_, 0) == by_type[type_, Outcome.PENDING]
            assert totals.created[type_] == sum(count for (of, _), count in by_type.items() if of == type_)

    @invariant()
    def no_transition_is_refused_and_nothing_fails(self) -> None:
        if hasattr(self, "notes"):
            assert self.notes.failed_ == 0

    @invariant()
    def order_is_kept_within_one_socket(self) -> None:
        if hasattr(self, "outbox"):
            for socket in self.all_sockets():
                assert socket.seqs == sorted(socket.seqs), "an event came out of seq order"

    @invariant()
    def nothing_resolved_is_replayed(self) -> None:
        if not hasattr(self, "outbox"):
            return
        for key in KEYS:
            pending = self.loop.run(self.outbox.pending(key, 0, 1000))
            for event in pending:
                assert event.id not in self.resolved_ids
                assert self.remaining(event.id) > -0.001, "pending after its end"
        for entry in self._entries():
            reached[entry.outcome.wire] += 1
            reached["attempts left out"] += any(attempt.omitted for attempt in entry.attempts)
            if entry.outcome is Outcome.EXPIRED:
                assert self.remaining(entry.id) < 0.001, "expired before its time"
        self.resolved_ids |= {entry.id for entry in self._entries() if entry.outcome is not Outcome.PENDING}

    def _entries(self) -> list[LedgerEntry]:
        return [entry for key in KEYS for entry in self.loop.run(self.outbox.ledger(key, 0, 10_000))]

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        try:
            self._reconnect_and_confirm_all()
        finally:
            self.courier.close()
            self.loop.run(self.outbox.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def _reconnect_and_confirm_all(self) -> None:
        """Healthy clients connect and confirm: nothing may be left pending, and no secret outlives its event."""
        for socket in self.all_sockets():
            self.leave(socket)
        for key in KEYS:
            self.connect(key, True)
        for socket in self.all_sockets():
            for seq in list(socket.seqs):
                self.courier.confirmations.acked(socket, seq)
        for key in KEYS:
            assert self.loop.run(self.outbox.pending(key, 0, 1000)) == []
        secrets = [entry for entry in self._entries() if entry.type in SECRET_TYPES]
        if all(entry.outcome is not Outcome.PENDING for entry in secrets):
            self.loop.run(self.outbox.close())
            stored = b"".join(path.read_bytes() for path in self.folder.iterdir() if path.is_file())
            assert SECRET.encode() not in stored, "a secret was kept longer than its event"


def test_the_delivery_invariants_hold_in_any_order_of_steps() -> None:
    reached.clear()
    run_state_machine_as_test(CourierMachine, settings=SETTINGS)
    wanted = (
        "live",
        "replayed",
        "retry",
        "slow",
        "slowed",
        "paced",
        "clock set",
        "attempts left out",
    )
    ends = ("acked", "received", "superseded", "expired", "pending")
    assert not [name for name in (*wanted, *ends) if not reached[name]], reached


SETTINGS = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
