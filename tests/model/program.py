"""Rules: what is published, and what befalls the outbox, the clock and the program."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from tests.model.acts import Acts
from tests.model.people import (
    HEARTBEAT,
    KEYS,
    PAYLOADS,
)


class Program(Acts):
    """No client does anything here."""

    @rule(kinds=st.sampled_from([("pending",), ("last_seq",), ("append",), ("ended",), ("pending", "append"), ()]))
    def hold(self, kinds: tuple[str, ...]) -> None:
        """Answers of the outbox take their time."""
        self.world.outbox.hold(*kinds)

    @precondition(lambda self: self.world.outbox.waiting)
    @rule(count=st.integers(1, 4))
    def let(self, count: int) -> None:
        self.world.call(lambda: self.world.outbox.let(count))
        self._check()

    @precondition(lambda self: self.world.outbox.held)
    @rule()
    def let_all(self) -> None:
        self._open()
        self._check()

    @precondition(lambda self: not self.down)
    @rule()
    def outage(self) -> None:
        self.down = self.world.sqlite.fault_down = True
        self._reach("outage")

    @precondition(lambda self: self.down)
    @rule()
    def outage_ends(self) -> None:
        self._outage_ends()
        self._check()

    @rule(seconds=st.sampled_from([0.3, 0.7, 2.5, 6.0, 25.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        before = [(p, len(p.seen), {e["seq"] for e in p.seen}) for p in self._here()]
        calm = not self.down and not self.world.outbox.held
        self._advance(seconds)
        if calm:
            for person, count, seqs in before:
                self._time_did_its_work(person, count, seqs, seconds)
        if seconds > HEARTBEAT:
            for key in KEYS:
                speaking = sum(p.key == key and not p.silent for p in self._here())
                assert len(self.world.registry.of(key)) <= speaking, "a client that says nothing is still mapped"
        self._check()

    @rule(
        seconds=st.sampled_from([-3600.0, -20.0, -1.0, 1.0, 20.0, 90.0, 86_400.0]),
        key=st.sampled_from(KEYS),
        kind=st.sampled_from([None, "connected", "qr"]),
    )
    def the_clock_is_set(self, seconds: float, key: BotKey, kind: str | None) -> None:
        """No event's time is up by it, nor longer. One comes before anybody has looked at the clock."""
        self.world.clock.step(seconds)
        if kind is not None:
            self._publish(key, kind)
        self._advance(1.1)  # a step is noticed within a second
        if self.down:
            self.unwritten_steps += seconds
        self._reach("clock forward" if seconds > 0 else "clock back")
        self._check()

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        self._check()
        if any(e.outcome is Outcome.PENDING for key in KEYS for e in self.world.ledger(key)):
            self._reach("crash with pending" if crash else "restart with pending")
        self._forget_people()
        if crash:
            self.world.crash()
        else:
            self.world.restart()
        self.down = False
        self.kept_acks.clear()
        for event in self.reference.ends:
            if self.reference.before.get(event, Outcome.PENDING) is Outcome.PENDING:
                self.reference.ends[event] -= self.unwritten_steps  # its stored time is by a clock that is no more
        self.unwritten_steps = 0.0
        # what could not be written before is not known to the next life
        for key in KEYS:
            for entry in self.world.ledger(key):
                if entry.outcome in {Outcome.PENDING, Outcome.EXPIRED, Outcome.RECEIVED}:
                    self.reference.acked_in_time.discard((key, entry.seq))
        self._check()

    @rule(key=st.sampled_from(KEYS), kind=st.sampled_from(sorted(PAYLOADS)))
    def publish(self, key: BotKey, kind: str) -> None:
        nobody = not self.world.registry.of(key) and not self.world.outbox.held
        self._publish(key, kind)
        self.world.settle()
        if nobody and not self.down:
            self._the_reason_is_true(key)
        self._check()

    @rule(key=st.sampled_from(KEYS), count=st.sampled_from([3, 30, 60]))
    def publish_many(self, key: BotKey, count: int) -> None:
        for person in self.people:
            if person.key == key and person.client.polls:
                person.odd = True  # a burst may be more than it can fetch
        for _ in range(count):
            self._publish(key, "connected")
        self._check()
