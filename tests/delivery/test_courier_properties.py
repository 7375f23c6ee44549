"""Whatever happens to its sockets, its disk and its clock, the courier keeps its promises.

A stateful property test: random publishing, connects, disconnects, half-open and slow sockets, acknowledgements that
are late, repeated or invented, receipts, a failing outbox, restarts and clock steps. After every step the ledger
balances, and at the end everybody who came back and confirmed has every event. Nothing expires before as much time has
passed as it was given, however often the clock is set meanwhile.

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
from roundtrip.clock import WatchedClock
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.replay import Replayer
from roundtrip.events import SECRET_TYPES, Connected, Degraded, Payload, Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.records import LedgerEntry, Outcome
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.support.fake_sockets import KEYS, FakeSocket, FakeSockets, reached
from tests.support.sockets import Faults, Notes, idle
from tests.support.stepped_loop import SteppedLoop

TTL = 600.0
QR_LIFE = 20.0
SECRET = "2@secret"  # noqa: S105  # a canary


class CourierMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="roundtrip-courier-"))
        self.loop = SteppedLoop()
        self.clock = self.loop.clock
        self.lives: dict[str, tuple[float, float]] = {}
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
        self.replayer = Replayer(self.outbox, self.courier, self.notes, idle, watermark=1 << 19, clock=self.watch)
        self.watch.on_step += [self.outbox.moved, self.courier.moved]
        await self.outbox.start()

    def everybody(self) -> list[FakeSocket]:
        return [socket for sockets in self.sockets.by_key.values() for socket in sockets.values()]

    def left_of(self, event_id: str) -> float:
        """How much of its life an event has left, in seconds."""
        made, life = self.lives[event_id]
        return life - (self.clock.monotonic() - made)

    def saw(self, event_id: str) -> None:
        if event_id in self.lives:  # its publication has returned
            assert self.left_of(event_id) > -0.001, "sent after its end"

    def pick(self, data: st.DataObject) -> FakeSocket:
        return data.draw(st.sampled_from(self.everybody()))

    # what can happen

    @rule(key=st.sampled_from(KEYS), kind=st.sampled_from(["connected", "degraded", "qr"]))
    def publish(self, key: BotKey, kind: str) -> None:
        payload: Payload = Connected("+15550100", "Ada", False)
        expires_at, life = None, TTL
        if kind == "degraded":
            payload = Degraded()
        elif kind == "qr":
            payload = Qr(SECRET, 1, 6, "2026-01-01T00:00:00.000Z")
            life = QR_LIFE
            expires_at = self.watch.wall_ns() // 1_000_000 + int(QR_LIFE * 1000)
        event = self.loop.run(self.courier.publish(key, "link", payload, expires_at=expires_at))
        self.published[key] += 1
        self.lives[event.id] = (self.clock.monotonic(), life)
        assert event.seq == self.published[key], "seq grows by one per key"

    @rule(key=st.sampled_from(KEYS), must_ack=st.booleans())
    def connect(self, key: BotKey, must_ack: bool) -> None:
        self.number += 1
        socket = FakeSocket(f"s{self.number}", key, must_ack=must_ack)
        self.sockets.by_key[key][socket.sid] = socket
        socket.saw = self.saw
        channel = self.courier.joined(socket)
        replay = self.loop.create_task(self.replayer.run(socket, channel, None))
        for _ in range(30):
            for _ in range(2):  # what the replay asked before is answered by then
                if not replay.done():
                    self.loop.run(self.outbox.last_seq(key))
                    self.loop.settle()
            if replay.done():
                break
            reached["slowed"] += 1
            self.pass_time(1.0)
        assert socket.live

    def pass_time(self, seconds: float) -> None:
        """Also for deadlines that let what waits be read first, once they come late."""
        self.loop.advance(seconds)
        self.loop.advance(0.03)
        self.loop.advance(0.03)

    @rule(key=st.sampled_from(KEYS), times=st.integers(1, 3))
    def nobody_acknowledges(self, key: BotKey, times: int) -> None:
        """A client that must acknowledge takes an event and says nothing: it gets it again."""
        self.connect(key, True)
        self.publish(key, "connected")
        for _ in range(times):
            self.pass_time(5.1)
            self.pass_time(60)

    @rule(key=st.sampled_from(KEYS), slow=st.booleans(), seconds=st.sampled_from([0.1, 0.6]))
    def somebody_is_there(self, key: BotKey, slow: bool, seconds: float) -> None:
        """A client that is told something live, and whose engine confirms it."""
        self.connect(key, False)
        socket = list(self.sockets.by_key[key].values())[-1]
        socket.slow = slow
        self.publish(key, "connected")
        sent, socket.unreceipted = socket.unreceipted, []
        self.courier.confirmations.received(socket, sent)
        self.pass_time(seconds)

    @rule(key=st.sampled_from(KEYS), times=st.sampled_from([2, 12]))
    def comes_and_goes(self, key: BotKey, times: int) -> None:
        self.publish(key, "connected")
        for _ in range(times):
            self.connect(key, False)
            self.leave(list(self.sockets.by_key[key].values())[-1])

    @precondition(lambda self: self.everybody())
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        self.leave(self.pick(data))

    def leave(self, socket: FakeSocket) -> None:
        socket.closed = True
        del self.sockets.by_key[socket.key][socket.sid]
        self.courier.left(socket)

    @precondition(lambda self: self.everybody())
    @rule(data=st.data(), slow=st.booleans(), half_open=st.booleans())
    def change_health(self, data: st.DataObject, slow: bool, half_open: bool) -> None:
        socket = self.pick(data)
        socket.slow, socket.half_open = slow, half_open

    @precondition(lambda self: self.everybody())
    @rule(data=st.data())
    def receipt(self, data: st.DataObject) -> None:
        socket = self.pick(data)
        if not socket.half_open:
            sent, socket.unreceipted = socket.unreceipted, []
            self.courier.confirmations.received(socket, sent)

    @precondition(lambda self: self.everybody())
    @rule(data=st.data(), twice=st.booleans())
    def acknowledge(self, data: st.DataObject, twice: bool) -> None:
        socket = self.pick(data)
        if socket.seqs and not socket.half_open:
            seq = data.draw(st.sampled_from(socket.seqs))
            self.courier.confirmations.acked(socket, seq)
            if twice:
                self.courier.confirmations.acked(socket, seq)

    @precondition(lambda self: self.everybody())
    @rule(data=st.data(), seq=st.integers(-5, 10**15))
    def invent_an_ack(self, data: st.DataObject, seq: int) -> None:
        socket = self.pick(data)
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
            for socket in self.everybody():
                assert socket.seqs == sorted(socket.seqs), "an event came out of seq order"

    @invariant()
    def nothing_resolved_is_replayed(self) -> None:
        if not hasattr(self, "outbox"):
            return
        for key in KEYS:
            pending = self.loop.run(self.outbox.pending(key, 0, 1000))
            for event in pending:
                assert event.id not in self.resolved_ids
                assert self.left_of(event.id) > -0.001, "pending after its end"
        for entry in self._entries():
            reached[entry.outcome.wire] += 1
            reached["attempts left out"] += any(attempt.omitted for attempt in entry.attempts)
            if entry.outcome is Outcome.EXPIRED:
                assert self.left_of(entry.id) < 0.001, "expired before its time"
        self.resolved_ids |= {entry.id for entry in self._entries() if entry.outcome is not Outcome.PENDING}

    def _entries(self) -> list[LedgerEntry]:
        return [entry for key in KEYS for entry in self.loop.run(self.outbox.ledger(key, 0, 10_000))]

    def teardown(self) -> None:
        if not hasattr(self, "outbox"):
            return
        try:
            self._everybody_comes_back()
        finally:
            self.courier.close()
            self.loop.run(self.outbox.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def _everybody_comes_back(self) -> None:
        """Healthy clients connect and confirm: nothing may be left pending, and no secret outlives its event."""
        for socket in self.everybody():
            self.leave(socket)
        for key in KEYS:
            self.connect(key, True)
        for socket in self.everybody():
            for seq in list(socket.seqs):
                self.courier.confirmations.acked(socket, seq)
        for key in KEYS:
            assert self.loop.run(self.outbox.pending(key, 0, 1000)) == []
        secrets = [entry for entry in self._entries() if entry.type in SECRET_TYPES]
        if all(entry.outcome is not Outcome.PENDING for entry in secrets):
            self.loop.run(self.outbox.close())
            stored = b"".join(path.read_bytes() for path in self.folder.iterdir() if path.is_file())
            assert SECRET.encode() not in stored, "a secret was kept longer than its event"


def test_whatever_happens_the_courier_keeps_its_promises() -> None:
    reached.clear()
    run_state_machine_as_test(CourierMachine, settings=SETTINGS)
    wanted = ("live", "replayed", "retry", "slow", "slowed", "clock set", "attempts left out")
    ends = ("acked", "received", "superseded", "expired", "pending")
    assert not [name for name in (*wanted, *ends) if not reached[name]], reached


SETTINGS = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
