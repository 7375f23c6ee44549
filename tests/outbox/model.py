"""Whatever is done to an outbox in whatever order: it agrees with a simple model, and its ledger balances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roundtrip.events import (
    SECRET_TYPES,
    SUPERSEDES_ALWAYS,
    SUPERSEDES_UNSEEN,
    TYPE_OF,
    Disconnected,
    EventType,
    PairingCode,
    Payload,
)
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Draft, Ended, Outcome, Resolution, StoredEvent
from tests.outbox.contract.base import FaultableOutbox
from tests.support.drafts import CONNECTED, CONNECTING, TRACEPARENT, Clock, assert_balanced, attempt, qr

KEYS = (BotKey("a_b", "c"), BotKey("a", "b_c"), BotKey("u", "u"))
_keys = st.sampled_from(KEYS)
_seqs = st.integers(1, 8)
_ends = st.sampled_from([Outcome.ACKED, Outcome.RECEIVED, Outcome.DISCARDED])


class Known(msgspec.Struct):
    """What the model knows of one event."""

    type: EventType
    expires_at: int
    secret: bytes
    id: str = ""
    outcome: Outcome = Outcome.PENDING


MODEL_SETTINGS = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class OutboxMachine(RuleBasedStateMachine):
    """Writes are called in bursts without waiting, so that they share commits; every invariant then waits for them.

    An implementation overrides `open`, and `stored_bytes` if it stores anything outside of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.model: dict[BotKey, dict[int, Known]] = {key: {} for key in KEYS}
        self.ended: list[Ended] = []
        self.reported: list[StoredEvent | OutboxError] = []
        self.down = False
        self.secrets = 0
        self.start()

    def open(self) -> FaultableOutbox:
        """The outbox, not started: over the same store each time."""
        raise NotImplementedError

    def stored_bytes(self) -> bytes:
        """All that is stored outside of the process."""
        return b""

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 5))

    def burst(self, *calls: Callable[[], None]) -> None:
        """Make calls in one turn of the loop."""

        async def call_all() -> None:
            for call in calls:
                call()

        self.run(call_all())

    def start(self) -> None:
        self.outbox = self.open()
        self.outbox.on_ended = self.on_ended
        self.run(self.outbox.start())

    def on_ended(self, ended: Any) -> None:
        for end in ended:
            known = self.model[end.key][end.seq]
            if end.outcome is Outcome.EXPIRED:
                assert known.expires_at <= self.clock.ms
                assert known.outcome is Outcome.PENDING
                known.outcome = Outcome.EXPIRED
            self.ended.append(end)

    def payload(self, kind: EventType) -> tuple[Payload, bytes]:
        self.secrets += 1
        secret = f"<secret {self.secrets}>"
        if kind is EventType.QR:
            return qr(secret * 30), secret.encode()
        if kind is EventType.PAIRING_CODE:
            return PairingCode(pairing_code=secret, expires_at="x"), secret.encode()
        if kind is EventType.DISCONNECTED:
            return Disconnected(reason_code="x", retryable=True, user_action="y"), b""
        return (CONNECTED if kind is EventType.CONNECTED else CONNECTING), b""

    @rule(
        key=_keys,
        kinds=st.lists(
            st.sampled_from(
                [
                    EventType.QR,
                    EventType.PAIRING_CODE,
                    EventType.CONNECTED,
                    EventType.DISCONNECTED,
                    EventType.CONNECTING,
                ]
            ),
            min_size=1,
            max_size=6,
        ),
        ttl=st.integers(1, 5000),
        unseen=st.booleans(),
    )
    def append(self, key: BotKey, kinds: list[EventType], ttl: int, unseen: bool) -> None:
        calls: list[Callable[[], None]] = []
        for kind in kinds:
            payload, secret = self.payload(kind)
            supersedes = SUPERSEDES_ALWAYS.get(kind, frozenset())
            if unseen:
                supersedes |= SUPERSEDES_UNSEEN.get(kind, frozenset())
            now = self.clock.ms
            item = Draft(key, "link", payload, now, now + ttl, TRACEPARENT, supersedes)
            if self.down:
                calls.append(partial(self.outbox.append, item, self.reported.append))
                continue
            events = self.model[key]
            for known in events.values():
                if known.outcome is Outcome.PENDING and known.type in supersedes:
                    known.outcome = Outcome.SUPERSEDED
            seq = len(events) + 1
            events[seq] = Known(TYPE_OF[type(payload)], now + ttl, secret)

            def done(result: StoredEvent | OutboxError, seq: int = seq) -> None:
                assert isinstance(result, StoredEvent)
                assert result.seq == seq
                self.model[key][seq].id = result.id

            calls.append(partial(self.outbox.append, item, done))
        self.burst(*calls)

    @rule(key=_keys, seq=_seqs, outcome=_ends, times=st.integers(1, 2))
    def resolve(self, key: BotKey, seq: int, outcome: Outcome, times: int) -> None:
        resolution = Resolution(key, seq, outcome, self.clock.ms, [attempt()])
        self.burst(*times * [partial(self.outbox.resolve, resolution)])
        known = self.model[key].get(seq)
        if known is not None and known.outcome is Outcome.PENDING:
            known.outcome = outcome

    @rule(key=_keys, seq=_seqs)
    def upgrade(self, key: BotKey, seq: int) -> None:
        self.burst(partial(self.outbox.upgrade, key, seq, self.clock.ms))
        known = self.model[key].get(seq)
        if known is not None and known.outcome is Outcome.RECEIVED:
            known.outcome = Outcome.ACKED

    @rule(key=_keys, seq=_seqs)
    def record(self, key: BotKey, seq: int) -> None:
        self.burst(partial(self.outbox.record, key, seq, [attempt()]))

    @rule(ms=st.integers(0, 4000))
    def time_passes(self, ms: int) -> None:
        self.clock.pass_ms(ms)
        if not self.down:
            self.run(self.swept())

    @rule(seconds=st.sampled_from([-86_400, -7, -1, 1, 7, 86_400]), told_late=st.booleans())
    def the_clock_is_set(self, seconds: int, told_late: bool) -> None:
        """What is pending moves along; nothing expires, though the outbox may see the clock before it is reported."""
        self.clock.step(seconds)
        if told_late and not self.down:
            self.run(asyncio.sleep(0.005))
        self.burst(partial(self.outbox.moved, seconds * 10**9))
        for events in self.model.values():
            for known in events.values():
                if known.outcome is Outcome.PENDING:
                    known.expires_at += seconds * 1000

    async def swept(self) -> None:
        """Wait until all that has expired has been reported."""
        while any(
            known.outcome is Outcome.PENDING and known.expires_at <= self.clock.ms
            for events in self.model.values()
            for known in events.values()
        ):
            await asyncio.sleep(0.001)

    @rule()
    def goes_down(self) -> None:
        self.settle()
        self.outbox.fault_down = self.down = True

    @rule()
    def comes_up(self) -> None:
        self.outbox.fault_down = self.down = False

    @rule()
    def restarts(self) -> None:
        self.comes_up()
        self.settle()
        self.run(self.outbox.close())
        self.start()
        self.run(self.swept())

    def settle(self) -> None:
        """Wait until what was called is committed, as far as it can be."""
        self.run(self.outbox.last_seq(KEYS[0]))
        if not self.down:
            self.run(self.outbox.check())  # commits after the retries
            self.run(self.swept())

    @invariant()
    def balances(self) -> None:
        self.settle()
        assert_balanced(self.outbox.totals())

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.settle()
        for key, events in self.model.items():
            pending = self.run(self.outbox.pending(key, 0, 999))
            open_ = {seq for seq, known in events.items() if known.outcome is Outcome.PENDING}
            assert {e.seq for e in pending} == {s for s in open_ if events[s].expires_at > self.clock.ms}
            assert [e.seq for e in pending] == sorted(e.seq for e in pending)
            entries = self.run(self.outbox.ledger(key, 0, 999))
            assert [entry.seq for entry in entries] == list(range(1, len(events) + 1))
            assert [entry.id for entry in entries] == [known.id for known in events.values()]
            if not self.down:
                assert [entry.outcome for entry in entries] == [known.outcome for known in events.values()]
        assert all(isinstance(result, OutboxError) for result in self.reported)

    @invariant()
    def keeps_no_ended_secret(self) -> None:
        if self.down:
            return
        ended = [k.secret for e in self.model.values() for k in e.values() if k.secret and k.outcome != Outcome.PENDING]
        assert all(k.type in SECRET_TYPES for e in self.model.values() for k in e.values() if k.secret)

        async def wiped() -> None:
            while True:
                content = self.stored_bytes()
                if not any(secret in content for secret in ended):
                    return
                await asyncio.sleep(0.002)

        self.run(wiped())

    def teardown(self) -> None:
        self.outbox.fault_down = False
        self.run(self.outbox.close())
        self.loop.close()
