"""What must hold after each step, and at the end, whatever happened."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

from hypothesis.stateful import RuleBasedStateMachine

from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import LedgerEntry, StoredEvent
from tests.model.people import (
    BRANCHES,
    GRACE,
    KEYS,
    MISS,
    OUTCOME,
    QUEUE,
    TTL,
    Person,
)
from tests.model.reference import Reference
from tests.support.world import World


class Promises(RuleBasedStateMachine):
    """One world, what the reference says of it, and the questions."""

    reached: ClassVar[Counter[str]] = Counter()
    """Branches of the whole run; whoever runs the machine gives its own."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="roundtrip-model-"))
        self.world = World(
            self.folder,
            event_ttl=TTL,
            send_queue_limit=QUEUE,
            ping_interval=10,
            ping_timeout=8,
            grace=GRACE,
        )
        self.world.on_stored = self._stored
        self.world.__enter__()
        self.reference = Reference()
        self.people: list[Person] = []
        self.down = False
        self.kept_acks: set[tuple[BotKey, int]] = set()
        self.left: dict[BotKey, tuple[float, float]] = {}
        """Between which moments of the monotonic clock the key's last socket went."""
        self.present: set[BotKey] = set()
        self.checked_at = self.world.clock.monotonic()
        self.sound = True
        self.faults: list[AssertionError] = []
        """What clients found wrong while the server wrote to them."""
        self.unwritten_steps = 0.0
        """Seconds by which the clock was set while the outbox could not be told for good."""
        self.latest_wall = 0.0
        """As far as tokens may have thought it was."""
        self._clock_moved()

    def _stored(self, result: StoredEvent | OutboxError) -> None:
        if isinstance(result, OutboxError):
            assert self.down, "an event was refused though the outbox is up"
            self._reach("refused while down")
        else:
            self.reference.published.setdefault(result.key, []).append(result)
            life = (result.expires_at - result.created_at) / 1000
            self.reference.ends[result.key, result.seq] = self.world.clock.monotonic() + life

    def _check(self) -> None:
        world, reference = self.world, self.reference
        self.sound = False
        world.settle()
        self._let_replays_end()
        if self.faults:
            raise self.faults[0]
        self._clock_moved()
        self._note_who_is_present()
        entries: list[LedgerEntry] = []
        calm = not world.outbox.held
        for key in KEYS:
            of_key = world.ledger(key)
            entries += of_key
            reference.ledger_is_true(key, of_key, writable=not self.down and calm)
            due = reference.due(key, of_key, writable=not self.down)
            for person in self._here() if calm else ():
                if person.key == key and not person.odd:
                    missing = set(due) - {e["seq"] for e in person.seen}
                    assert not missing, f"{missing} never reached a client that was there"
                    assert not (person.acks and due and not self.down), f"{due} acknowledged, and pending"
        reference.sums_are_true(entries, world.sqlite.totals())
        self._the_map_is_true()
        self._count(entries)
        self.sound = True

    def _let_replays_end(self) -> None:
        """A replay looks now and then whether its client has read; that takes moments of the clock."""
        if self.world.outbox.held:
            return
        deadline = self.world.clock.monotonic() + 10.0
        while any(
            not peer.live
            for person in self._here()
            for peer in self.world.registry.of(person.key)
            if peer.sid == person.client.sid and not person.silent
        ):
            assert self.world.clock.monotonic() < deadline, "a replay to a client that reads never ended"
            self.world.advance(0.05)

    def _the_map_is_true(self) -> None:
        """Who behaved is mapped, once, under its key and no other; who went is not."""
        for person in self.people:
            ended = person.token_end is not None and self.latest_wall >= person.token_end
            if not person.odd and not ended:
                assert person.here, "a client that did nothing wrong was closed"
        for key in KEYS:
            mapped = len(self.world.registry.of(key))
            sure = sum(p.here and p.key == key and not p.silent for p in self.people)
            unsure = sum(p.silent and p.key == key and not p.client.closed for p in self.people)
            assert sure <= mapped <= sure + unsure, f"{mapped} are mapped, {sure} there, perhaps {unsure} more"
            if sure > 1:
                self._reach("several sockets of a key")
        self.people = [p for p in self.people if p.here or (p.silent and not p.client.closed)]

    def _note_who_is_present(self) -> None:
        now = self.world.clock.monotonic()
        present = {key for key in KEYS if self.world.registry.of(key)}
        for key in self.present - present:
            self.left[key] = (self.checked_at, now)
        self.present, self.checked_at = present, now

    def _count(self, entries: list[LedgerEntry]) -> None:
        notes = self.world.notes
        for entry in entries:
            if entry.outcome in OUTCOME:
                self._reach(OUTCOME[entry.outcome])
        for attempt in notes.missed_:
            if attempt.reason in MISS:
                self._reach(MISS[attempt.reason])
        if notes.upgrades:
            self._reach("late ack upgrade")
        if "ping timeout" in notes.disconnects:
            self._reach("ping timeout")
        if "token_expired" in notes.disconnects:
            self._reach("token ended")
        if "queue_full" in notes.disconnects:
            self._reach("queue full")
        if any(name == "auth_expired" for p in self.people for name, _ in p.client.log):
            self._reach("token told")

    def _reach(self, branch: str) -> None:
        assert branch in BRANCHES, branch
        type(self).reached[branch] += 1

    def _here(self) -> list[Person]:
        return [person for person in self.people if person.here]

    def _one(self, who: int) -> Person:
        here = self._here()
        return here[who % len(here)]

    def _wall_ms(self) -> int:
        return self.world.clock.wall_ns() // 1_000_000

    def _clock_moved(self) -> None:
        self.reference.now = self.world.clock.monotonic()
        self.latest_wall = max(self.latest_wall, self.world.clock.wall())

    def _advance(self, seconds: float) -> None:
        self.world.advance(seconds)
        self._clock_moved()

    def _forget_people(self) -> None:
        for person in self.people:
            person.client.vanish()
        self.people.clear()
        self.left.clear()
        self.present.clear()
