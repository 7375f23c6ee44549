"""Everything that can happen to the path of an event, as rules; after each of them the reference is asked."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from backend.delivery.outbox import LedgerEntry, OutboxError, StoredEvent
from backend.delivery.outcome import MissReason, Outcome
from backend.events import Connected, Connecting, Degraded, Paired, Payload, Qr
from backend.identity import BotKey
from tests.model.reference import GRAIN, Reference
from tests.support.memory_client import MemoryClient
from tests.support.world import World

KEYS: Final = (BotKey("ada", "1"), BotKey("ada", "2"), BotKey("bob", "1"))
TTL: Final = 60.0
QR_LIFE: Final = 12.0
GRACE: Final = 10.0
QUEUE: Final = 16_384
"""Bytes that a slow client may leave unread: some forty events."""

HEARTBEAT: Final = 20.0
"""Seconds after which a client that says nothing is certainly gone: interval, timeout, and a sweep."""

PAYLOADS: Final[dict[str, Payload]] = {
    "connected": Connected("+15550100", "Ada", False),
    "connecting": Connecting(),
    "degraded": Degraded(),
    "paired": Paired("+15550100"),
    "qr": Qr("2@secret", 1, 6, "2026-01-01T00:00:00.000Z"),
}

BRANCHES: Final = frozenset(
    {
        "acked", "received", "superseded", "expired", "late ack upgrade",
        "retry", "replay", "replay with held-back events", "backlog overflow", "replay waits for a slow reader",
        "queue full", "ack timeout", "just disconnected", "disconnected", "never connected", "key mismatch",
        "outage", "refused while down", "kept write", "kept ack whose event's time was up",
        "restart with pending", "crash with pending", "clock forward", "clock back",
        "ping timeout", "identity changed", "upgraded", "polling", "several sockets of a key",
        "token told", "token ended", "token renewed",
    }
)  # fmt: skip
"""What a run must have been to."""

_MISS: Final = {
    MissReason.QUEUE_FULL: "queue full",
    MissReason.ACK_TIMEOUT: "ack timeout",
    MissReason.JUST_DISCONNECTED: "just disconnected",
    MissReason.DISCONNECTED: "disconnected",
    MissReason.NEVER_CONNECTED: "never connected",
    MissReason.KEY_MISMATCH: "key mismatch",
}
_OUTCOME: Final = {
    Outcome.ACKED: "acked",
    Outcome.RECEIVED: "received",
    Outcome.SUPERSEDED: "superseded",
    Outcome.EXPIRED: "expired",
}

WAYS_OUT: Final = ("hang_up", "reset", "close_engine", "close_frame", "leave", "vanish")

pick = st.integers(0, 3)


@dataclass
class Person:
    """One client and what it did: only somebody who did nothing odd must see everything and stay."""

    client: MemoryClient
    key: BotKey
    acks: bool
    token_end: float | None
    odd: bool = False
    """It read slowly, kept its answers back, or went away: the server may end it, and it may have a gap."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    """Events since it last said who it is."""

    @property
    def here(self) -> bool:
        return self.client.connected and not self.client.vanished and not self.client.closed

    @property
    def silent(self) -> bool:
        """It does not answer, so that the server may have given it up without its knowing."""
        return self.client.vanished or self.client.slow or not self.client.pongs


class PathMachine(RuleBasedStateMachine):
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
        self.unwritten_steps = 0.0
        """Seconds by which the clock was set while the outbox could not be told for good."""
        self.latest_wall = 0.0
        """As far as tokens may have thought it was."""
        self._clock_moved()

    # what can happen: events

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

    def _publish(self, key: BotKey, kind: str) -> None:
        expires_at = self._wall_ms() + int(QR_LIFE * 1000) if kind == "qr" else None
        self.world.publish(key, PAYLOADS[kind], expires_at)

    def _stored(self, result: StoredEvent | OutboxError) -> None:
        if isinstance(result, OutboxError):
            assert self.down, "an event was refused though the outbox is up"
            self._reach("refused while down")
        else:
            self.reference.published.setdefault(result.key, []).append(result)
            life = (result.expires_at - result.created_at) / 1000
            self.reference.ends[result.key, result.seq] = self.world.clock.monotonic() + life

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

    # what can happen: clients

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

        def event(fields: dict[str, Any]) -> None:
            seen, seq = person.seen, fields["seq"]
            event = self.reference.published[person.key][seq - 1]
            assert event.id == fields["id"], "an event of another key"
            assert (fields["userId"], fields["botId"]) == (person.key.user_id, person.key.bot_id)
            again = any(old["seq"] == seq for old in seen)
            if not again and seen:
                assert seq > max(old["seq"] for old in seen), "first sightings come in seq order"
            if fields["replayed"] and not person.odd:
                self._clock_moved()
                assert not self.reference.is_up((person.key, seq), GRAIN), "an event was replayed past its end"
                self._reach("replay")
            if again:
                self._reach("retry")
            seen.append(fields)

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
    @rule(key=st.sampled_from(KEYS), kind=st.sampled_from(["connected", "qr"]), crash=st.booleans())
    def acknowledge_while_the_outbox_is_down(self, key: BotKey, kind: str, crash: bool) -> None:
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
        self.time_passes(seconds=seconds)
        if person.here:
            person.client.answer()
        self._check()

    @precondition(lambda self: len(self._here()) < 4)
    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from([11.0, 16.0, 25.0, 27.0]), polling=st.booleans())
    def token_runs_out(self, key: BotKey, seconds: float, polling: bool) -> None:
        person = self._connect(key, acks=True, polling=polling, life=15.0)
        self._advance(seconds)
        if seconds < 15.0 + GRACE:
            assert person.here or self.latest_wall > (person.token_end or 0.0) + GRACE
        elif seconds > 15.0 + GRACE + 1.0:
            assert not person.here, "a token ended, and its socket did not"
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
    @rule(who=pick)
    def read_again(self, who: int) -> None:
        self._one(who).client.slow = False
        self._check()

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

    @precondition(lambda self: any(p.token_end is not None for p in self._here()))
    @rule(who=pick)
    def renew(self, who: int) -> None:
        holders = [p for p in self._here() if p.token_end is not None and not p.client.slow]
        if holders:
            person = holders[who % len(holders)]
            end = self.world.clock.wall() + 15.0
            number = person.client.emit("auth", {"token": end})
            self.world.settle()
            if person.here:
                assert person.client.replies[number][0]["ok"] is True
                person.token_end = end
                self._reach("token renewed")
        self._check()

    # what can happen: the outbox, the clock, the program

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

    def _open(self) -> None:
        self.world.call(self.world.outbox.open)
        self.world.settle()

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
        for _ in range(count):
            self._publish(key, "connected")
        self.world.settle()
        if not self.down and person.here:
            self._reach("backlog overflow" if count > 1_000 else "replay with held-back events")
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
            self.reference.ends[event] -= self.unwritten_steps
        self.unwritten_steps = 0.0
        # what could not be written before is not known to the next life
        for key in KEYS:
            for entry in self.world.ledger(key):
                if entry.outcome in {Outcome.PENDING, Outcome.EXPIRED, Outcome.RECEIVED}:
                    self.reference.acked_in_time.discard((key, entry.seq))
        self._check()

    # what must hold

    def _check(self) -> None:
        world, reference = self.world, self.reference
        self.sound = False
        world.settle()
        self._let_replays_end()
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
            if entry.outcome in _OUTCOME:
                self._reach(_OUTCOME[entry.outcome])
        for attempt in notes.missed_:
            if attempt.reason in _MISS:
                self._reach(_MISS[attempt.reason])
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

    # helpers

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

    # the end

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
