"""Rules: how clients come and go."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from roundtrip.identity import BotKey
from tests.model.people import (
    KEYS,
    WAYS_OUT,
    pick,
)
from tests.model.program import Program


class Clients(Program):
    """They connect by polling or websocket, at a bad moment, and leave in any way."""

    @precondition(lambda self: len(self._here()) < 4)
    @rule(
        key=st.sampled_from(KEYS),
        acks=st.booleans(),
        polling=st.booleans(),
        life=st.sampled_from([None, 15.0]),
    )
    def connect(self, key: BotKey, acks: bool, polling: bool, life: float | None) -> None:
        self._connect(key, acks, polling=polling, life=life)
        self._check()

    @precondition(lambda self: len(self._here()) < 4 and not self.down)
    @rule(key=st.sampled_from(KEYS), acks=st.booleans(), more=st.sampled_from([0, 1, 5]))
    def replay_to_a_slow_reader(self, key: BotKey, acks: bool, more: int) -> None:
        """It stops for a moment in the middle of what it missed, and more comes; then it has all, in order."""
        self._open()
        self._advance(3.0)
        if self.world.registry.of(key):
            return  # somebody is there to take what it is to miss
        for _ in range(60):
            self._publish(key, "connected")
        self.world.settle()
        self.world.outbox.hold("last_seq")
        person = self._connect(key, acks)
        person.client.slow = True
        self._open()
        assert not any(peer.live for peer in self.world.registry.of(key)), "the replay did not wait for its reader"
        self._reach("replay waits for a slow reader")
        for _ in range(more):
            self._publish(key, "connected")
        self._advance(0.5)
        person.client.slow = False
        self._check()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(key=st.sampled_from(KEYS), acks=st.booleans(), during=st.integers(0, 3))
    def connect_and_upgrade(self, key: BotKey, acks: bool, during: int) -> None:
        """As stock clients do, while events come."""
        person = self._connect(key, acks, polling=True)
        self.world.call_soon(person.client.upgrade)
        for _ in range(during):
            self._publish(key, "paired")
        self.world.settle()
        if not person.client.polls:
            self._reach("upgraded")
        self._check()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(key=st.sampled_from(KEYS), acks=st.booleans())
    def overwhelm(self, key: BotKey, acks: bool) -> None:
        """More is sent than a client that reads nothing may leave unread: it is closed, and comes back for the rest."""
        self._open()
        person = self._connect(key, acks)
        person.odd = person.client.slow = True
        self.publish_many(key=key, count=60)
        if not self.down:
            assert person.client.closed, "what waits for a client has no bound"
            self._connect(key, acks)
            self._check()

    @precondition(lambda self: not self.down)
    @rule(key=st.sampled_from(KEYS), how=st.sampled_from(WAYS_OUT), seconds=st.sampled_from([0.0, 29.0, 31.0]))
    def everybody_leaves(self, key: BotKey, how: str, seconds: float) -> None:
        """And then something happens."""
        self._open()
        if not self.world.registry.of(key):
            self._connect(key, acks=True)
        for person in self.people:
            if person.key == key:
                person.odd = True
                getattr(person.client, how)()
        self._check()
        self._advance(seconds)
        self._check()
        self.publish(key=key, kind="degraded")

    @precondition(lambda self: self._here())
    @rule(who=pick, how=st.sampled_from(WAYS_OUT))
    def leave(self, who: int, how: str) -> None:
        person = self._one(who)
        person.odd = True
        getattr(person.client, how)()
        self._check()

    @precondition(lambda self: self._here())
    @rule(who=pick, key=st.sampled_from(KEYS), acks=st.booleans(), pause=st.booleans())
    def change_identity(self, who: int, key: BotKey, acks: bool, pause: bool) -> None:
        """Somebody else signs in on the same page: one connection carries one socket, so that takes another one."""
        person = self._one(who)
        person.odd = True
        person.client.leave()
        if pause:
            self._check()
        person.client.send(f'40{{"userId":"{key.user_id}","botId":"{key.bot_id}"}}')
        person.client.vanished = True  # it closes this connection itself
        self.world.settle()
        self._connect(key, acks)
        self._reach("identity changed")
        self._check()

    @precondition(lambda self: any(p.client.polls for p in self._here()))
    @rule(who=pick)
    def upgrade(self, who: int) -> None:
        polling = [p for p in self._here() if p.client.polls and not p.client.slow]
        if polling:
            client = polling[who % len(polling)].client
            self.world.call(client.upgrade)
            if not client.polls:
                self._reach("upgraded")
        self._check()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(
        key=st.sampled_from(KEYS),
        acks=st.booleans(),
        at=st.sampled_from(["last_seq", "pending"]),
        count=st.sampled_from([1, 1, 5, 20, 1_001]),
        slow=st.booleans(),
    )
    def connect_while_events_flow(self, key: BotKey, acks: bool, at: str, count: int, slow: bool) -> None:
        self._open()
        self.world.outbox.hold(at)
        person = self._connect(key, acks)
        if slow:
            person.odd = person.client.slow = True
        for other in self.people:
            if count > 5 and other.key == key and other.client.polls:
                other.odd = True  # a burst may be more than it can fetch
        for _ in range(count):
            self._publish(key, "connected")
        self.world.settle()
        if not self.down and person.here:
            self._reach("backlog overflow" if count > 1_000 else "replay with held-back events")
        self._open()
        self._check()
