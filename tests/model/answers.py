"""Rules: what clients answer, or do not, and how long they may stay."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from roundtrip.identity import BotKey
from tests.model.people import (
    GRACE,
    KEYS,
    QR_LIFE,
    Person,
    pick,
)
from tests.model.program import Program


class Answers(Program):
    """Acknowledgements, receipts, reading, and tokens."""

    @precondition(lambda self: self._here())
    @rule(who=pick, pongs=st.booleans())
    def keep_answers_back(self, who: int, pongs: bool) -> None:
        """Its handler does not return, or, with `pongs`, not even its engine answers."""
        person = self._one(who)
        person.odd = True
        person.client.acks = False
        person.client.pongs = not pongs

    @precondition(lambda self: self._here())
    @rule(who=pick)
    def answer(self, who: int) -> None:
        """All that it kept back, and at once from now on."""
        self._one(who).client.answer()
        self._check()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from([0.1, 3.0]), slow_store=st.booleans())
    def acknowledge_late(self, key: BotKey, seconds: float, slow_store: bool) -> None:
        """By somebody who did not promise to: perhaps after the receipt has ended the event."""
        person = self._connect(key, acks=False)
        if slow_store:
            self.world.outbox.hold("append")
        self._publish(key, "connected")
        self._advance(seconds)
        self._open()
        self._advance(seconds)
        for seq in dict.fromkeys(person.client.owed_acks):
            person.client.ack(seq)
        person.client.owed_acks.clear()
        self._check()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(
        key=st.sampled_from(KEYS),
        kind=st.sampled_from(["connected", "qr"]),
        crash=st.booleans(),
        pause=st.sampled_from([0.1, 0.4, 0.7]),
    )
    def acknowledge_while_the_outbox_is_down(self, key: BotKey, kind: str, crash: bool, pause: float = 0.4) -> None:
        """In time, and written only when the time is up, or never."""
        if self.down:
            self._outage_ends()
        self._open()
        person = self._connect(key, acks=True)
        person.odd = True
        person.client.acks = False
        self._publish(key, kind)
        self.world.settle()
        self.outage()
        person.client.answer()
        self._advance(QR_LIFE + 1.0)
        self._check()
        self._advance(pause)
        self._publish(key, "connected")  # fails too: what is kept waits a second more, and the sweep comes first
        self.world.settle()
        if crash:
            self.restart(crash=True)
        else:
            self.outage_ends()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from([6.0, 25.0]), pongs=st.booleans())
    def promise_and_not_acknowledge(self, key: BotKey, seconds: float, pongs: bool) -> None:
        """Its receipts come, or not even they; what it owes is sent again, and one answer is enough for both."""
        person = self._connect(key, acks=True)
        person.odd = True
        person.client.acks, person.client.pongs = False, pongs
        self._publish(key, "paired")
        self._publish(key, "connected")
        self.world.settle()
        self.time_passes(seconds=seconds)
        if person.here:
            person.client.answer()
        self._check()

    @precondition(lambda self: self._here())
    @rule(who=pick, seq=st.sampled_from([0, 1, 2, 3, 999_999, 10**14]))
    def invent_an_ack(self, who: int, seq: int) -> None:
        """Of an event that it was never sent, or that never was."""
        person = self._one(who)
        if not person.client.slow and all(event["seq"] != seq for event in person.seen):
            person.client.send(f"43{seq}[]")
        self._check()

    @precondition(lambda self: self._here())
    @rule(who=pick)
    def read_slowly(self, who: int) -> None:
        person = self._one(who)
        person.odd = True
        person.client.slow = True

    @precondition(lambda self: self._here())
    @rule(who=pick)
    def read_again(self, who: int) -> None:
        self._one(who).client.slow = False
        self._check()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from([11.0, 16.0, 25.0, 27.0]), polling=st.booleans())
    def token_runs_out(self, key: BotKey, seconds: float, polling: bool) -> None:
        person = self._connect(key, acks=True, polling=polling, life=15.0)
        self._advance(seconds)
        if seconds < 15.0 + GRACE:
            assert person.here or self.latest_wall > (person.token_end or 0.0) + GRACE
            self._renew(person)
            self._advance(12.0)
            assert person.here, "a token was renewed, and its socket ended"
        elif seconds > 15.0 + GRACE + 1.0:
            assert not person.here, "a token ended, and its socket did not"
        self._check()

    @precondition(lambda self: any(p.token_end is not None for p in self._here()))
    @rule(who=pick)
    def renew(self, who: int) -> None:
        holders = [p for p in self._here() if p.token_end is not None and not p.client.slow]
        if holders:
            self._renew(holders[who % len(holders)])
        self._check()

    def _renew(self, person: Person) -> None:
        end = self.world.clock.wall() + 15.0
        number = person.client.emit("auth", {"token": end})
        self.world.settle()
        if person.here:
            assert person.client.replies[number][0]["ok"] is True
            person.token_end = end
            self._reach("token renewed")
