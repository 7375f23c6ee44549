"""What rules are made of: to publish, to connect and listen, to let time pass, each with what must follow from it."""

from __future__ import annotations

import shutil
from typing import Any

from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from tests.model.people import (
    KEYS,
    PAUSE,
    PAYLOADS,
    QR_LIFE,
    Person,
)
from tests.model.promises import Promises
from tests.model.reference import GRAIN


class Acts(Promises):
    """No rules yet."""

    def teardown(self) -> None:
        try:
            if self.sound:  # else what failed is known
                self._everybody_comes_back()
        finally:
            try:
                self.world.__exit__()
            finally:
                shutil.rmtree(self.folder)

    def _everybody_comes_back(self) -> None:
        """Clients that confirm connect for each key: nothing stays pending, and no secret outlives its event."""
        if self.down:
            self._outage_ends()
        self._open()
        self._check()
        for person in self.people:
            person.odd = True
            person.client.vanish()
        for key in KEYS:
            self._connect(key, True)
        self._check()
        for key in KEYS:
            assert self.reference.due(key, self.world.ledger(key)) == []

    def _publish(self, key: BotKey, kind: str) -> None:
        expires_at = self._wall_ms() + int(QR_LIFE * 1000) if kind == "qr" else None
        self.world.publish(key, PAYLOADS[kind], expires_at)

    def _the_reason_is_true(self, key: BotKey) -> None:
        entry = self.world.ledger(key)[-1]
        if not entry.attempts:
            raise AssertionError("an event that nobody was there for has no attempt")
        reason = entry.attempts[0].reason
        others = self.world.registry.keys_of(key.user_id)
        now = self.world.clock.monotonic()
        if others:
            expected = {"key_mismatch", "other_bot_connected"}
        elif key not in self.left:
            expected = {"never_connected"}
        else:
            expected = {"just_disconnected" if now - at <= 30.0 else "disconnected" for at in self.left[key]}
        assert reason in expected, f"{reason}, not {expected}"

    def _connect(self, key: BotKey, acks: bool, *, polling: bool = False, life: float | None = None) -> Person:
        end = None if life is None else self.world.clock.wall() + life
        client = self.world.client(key.user_id, key.bot_id, polling=polling, acks=acks, token=end)
        person = Person(client, key, acks, end)
        self.people.append(person)
        self._watch(person)
        self.world.settle()
        assert client.connected, f"a good handshake was refused: {client.refused}"
        self._note_who_is_present()
        if polling:
            self._reach("polling")
        return person

    def _watch(self, person: Person) -> None:
        client = person.client
        person.seen = []
        person.newest = 0
        seqs: set[int] = set()

        def event(fields: dict[str, Any]) -> None:
            try:
                self._judge(person, seqs, fields)
            except AssertionError as error:  # it must reach the test, not the server that wrote to this client
                self.faults.append(error)
            seqs.add(fields["seq"])
            person.seen.append(fields)

        def ack(seq: int) -> None:
            self.reference.acked.add((person.key, seq))
            self._clock_moved()
            in_time = not self.reference.is_up((person.key, seq), -GRAIN)
            peers = self.world.registry.of(person.key)
            there = any(peer.sid == client.sid and not peer.closed for peer in peers)
            mapped = there and not (client.polls and person.odd)
            if in_time and mapped:
                self.reference.acked_in_time.add((person.key, seq))
                if self.down:
                    self.kept_acks.add((person.key, seq))

        def pong() -> None:
            if not person.acks:
                self.reference.answered |= {(person.key, e["seq"]) for e in person.seen}

        client.on_event, client.on_ack, client.on_pong = event, ack, pong

    def _judge(self, person: Person, seqs: set[int], fields: dict[str, Any]) -> None:
        """What a client may be sent."""
        seq = fields["seq"]
        event = self.reference.published[person.key][seq - 1]
        assert event.id == fields["id"], "an event of another key"
        assert (fields["userId"], fields["botId"]) == (person.key.user_id, person.key.bot_id)
        if seq in seqs:
            self._reach("retry")
        else:
            assert not seqs or seq > person.newest, "first sightings come in seq order"
            person.newest = seq
        if fields["replayed"] and not person.odd:
            self._clock_moved()
            assert not self.reference.is_up((person.key, seq), PAUSE), "an event was replayed past its end"
            self._reach("replay")

    def _open(self) -> None:
        self.world.call(self.world.outbox.open)
        self.world.settle()

    def _outage_ends(self) -> None:
        self.world.sqlite.fault_down = False
        self._advance(1.5)  # what was kept is tried again within a second
        self.down = False
        self.unwritten_steps = 0.0
        kept, self.kept_acks = self.kept_acks, set()
        if kept and not self.world.outbox.held:
            self._reach("kept write")
            if any(self.reference.is_up(event) for event in kept):
                self._reach("kept ack whose event's time was up")

    def _time_did_its_work(self, person: Person, count: int, seqs: set[int], seconds: float) -> None:
        """Receipts end what they must; what was promised and not acknowledged is sent again."""
        client = person.client
        if not person.here or client.slow or not client.pongs:
            return
        pending = {e.seq for e in self.world.ledger(person.key) if e.outcome is Outcome.PENDING}
        if seconds >= 2.0 and not person.acks:
            assert not seqs & pending, "a receipt did not end its event"
        if seconds >= 60.0 and person.acks and not client.acks and seqs & pending:
            raise AssertionError("an event outlived its time")
        if seconds >= 25.0 and person.acks and not client.acks and seqs & pending:
            assert len(person.seen) > count, "an event without an acknowledgement was not sent again"
