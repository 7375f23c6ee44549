"""The states of an event: `resolve`, `record` and `upgrade`, and what they refuse."""

from __future__ import annotations

import pytest

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import MissReason, Outcome, Resolution
from tests.outbox.contract.base import ContractBase, Reopen
from tests.support.drafts import CONNECTED, KEY, Clock, assert_balanced, attempt, draft, end, store

ENDED = tuple(outcome for outcome in Outcome if outcome is not Outcome.PENDING)


class StateContract(ContractBase):
    async def test_a_read_sees_every_write_called_before_it(self, outbox: Outbox, clock: Clock) -> None:
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(3)]
        outbox.resolve(end(events[1]))
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [1, 3]
        assert [event.seq for event in await outbox.pending(KEY, 1, 9)] == [3]
        assert [event.seq for event in await outbox.pending(KEY, 0, 1)] == [1]
        assert await outbox.pending(KEY, 0, 0) == []

    async def test_an_event_ends_exactly_once(self, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTED, clock))
        outbox.resolve(end(event, Outcome.RECEIVED))
        outbox.resolve(end(event, Outcome.ACKED, at=clock.ms + 6))
        entry = await outbox.find(event.id)
        outbox.resolve(end(event, Outcome.ACKED, at=clock.ms + 7))
        assert entry is not None
        assert entry == await outbox.find(event.id)
        assert (entry.outcome, entry.resolved_at) == (Outcome.RECEIVED, clock.ms + 5)
        totals = outbox.totals()
        assert totals.resolved[EventType.CONNECTED, Outcome.RECEIVED] == 1
        assert totals.resolved.get((EventType.CONNECTED, Outcome.ACKED), 0) == 0
        assert_balanced(totals)

    async def test_writes_to_unknown_events_do_nothing(self, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTED, clock))
        for key, seq in ((BotKey("no", "body"), 1), (KEY, 2), (KEY, 0), (KEY, -1), (KEY, 1 << 40)):
            outbox.resolve(Resolution(key, seq, Outcome.ACKED, clock.ms, []))
            outbox.record(key, seq, [attempt()])
            outbox.upgrade(key, seq, 5)
        assert await outbox.pending(KEY, 0, 9) == [event]
        assert await outbox.last_seq(BotKey("no", "body")) == 0

    @pytest.mark.parametrize("first", ENDED)
    async def test_no_transition_happens_but_the_listed_ones(
        self, reopen: Reopen, outbox: Outbox, clock: Clock, first: Outcome
    ) -> None:
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(2 * len(ENDED))]
        for event in events:
            outbox.resolve(end(event, first))
        for event, second in zip(events, ENDED, strict=False):  # in the commit of the first end
            outbox.resolve(end(event, second, at=clock.ms + 6))
        await outbox.last_seq(KEY)
        for event, second in zip(events[len(ENDED) :], ENDED, strict=True):  # in a later one
            outbox.resolve(end(event, second, at=clock.ms + 7))
        for entry in await outbox.ledger(KEY, 0, 99):
            assert (entry.outcome, entry.resolved_at) == (first, clock.ms + 5)
        outbox = await reopen()
        for event in events:
            outbox.upgrade(KEY, event.seq, clock.ms + 8)
        upgraded = Outcome.ACKED if first is Outcome.RECEIVED else first
        assert {entry.outcome for entry in await outbox.ledger(KEY, 0, 99)} == {upgraded}
        assert await outbox.pending(KEY, 0, 99) == []
        resolved = outbox.totals().resolved
        assert {outcome: n for (_, outcome), n in resolved.items() if n} == {first: len(events)}
        assert_balanced(outbox.totals())

    async def test_pending_is_no_end(self, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTED, clock))
        with pytest.raises(ValueError, match="pending"):
            outbox.resolve(Resolution(KEY, 1, Outcome.PENDING, clock.ms, []))
        assert await outbox.pending(KEY, 0, 9) == [event]

    async def test_attempts_survive_a_restart(self, reopen: Reopen, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTED, clock))
        attempts = [attempt(1, reason=MissReason.KEY_MISMATCH, keys=("other", 'q"x'))]
        outbox.record(KEY, 1, attempts)
        attempts.append(attempt(2, sids=("sid",), trace_id="ab" * 16))
        outbox.record(KEY, 1, attempts)
        attempts.clear()  # the caller's list is the caller's
        outbox = await reopen()
        (again,) = await outbox.pending(KEY, 0, 9)
        assert [item.at for item in again.attempts] == [1, 2]
        assert again.attempts[0].keys == ("other", 'q"x')
        assert (again.body, again.id) == (event.body, event.id)
        entry = await outbox.find(event.id)
        assert entry is not None
        assert entry.attempts == again.attempts
        assert entry.outcome is Outcome.PENDING

    async def test_a_record_after_the_end_changes_nothing(self, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTED, clock))
        outbox.resolve(end(event))
        outbox.record(KEY, 1, [])
        entry = await outbox.find(event.id)
        assert entry is not None
        assert len(entry.attempts) == 1

    async def test_an_upgrade_turns_received_into_acked(self, outbox: Outbox, clock: Clock) -> None:
        received, acked, pending = [await store(outbox, draft(CONNECTED, clock)) for _ in range(3)]
        outbox.resolve(end(received, Outcome.RECEIVED))
        outbox.resolve(end(acked, Outcome.ACKED))
        before = outbox.totals()
        for event in (received, acked, pending):
            outbox.upgrade(KEY, event.seq, 9)
        entries = await outbox.ledger(KEY, 0, 9)
        assert [entry.outcome for entry in entries] == [Outcome.ACKED, Outcome.ACKED, Outcome.PENDING]
        assert [entry.attempts[-1].ack_at for entry in entries[:2]] == [9, clock.ms + 5]
        after = outbox.totals()
        assert after.resolved[EventType.CONNECTED, Outcome.RECEIVED] == 1
        assert after.resolved[EventType.CONNECTED, Outcome.ACKED] == 1
        assert before.created == after.created
        assert_balanced(after)

    async def test_an_upgrade_counts_only_after_the_receipt(self, outbox: Outbox, clock: Clock) -> None:
        early, late = [await store(outbox, draft(CONNECTED, clock)) for _ in range(2)]
        outbox.upgrade(KEY, early.seq, 9)  # in one commit with the receipt, but called before it
        outbox.resolve(end(early, Outcome.RECEIVED))
        outbox.resolve(end(late, Outcome.RECEIVED))
        outbox.upgrade(KEY, late.seq, 9)
        entries = await outbox.ledger(KEY, 0, 9)
        assert [entry.outcome for entry in entries] == [Outcome.RECEIVED, Outcome.ACKED]
        assert entries[1].attempts[-1].ack_at == 9
