"""A store that fails for a while: nothing is lost, and what nobody waits for is retried."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Ended, Outcome, Resolution
from tests.outbox.contract.base import ContractBase, FaultableOutbox, Reopen, until
from tests.support.drafts import CONNECTED, KEY, Clock, assert_balanced, attempt, draft, end, qr, store


class OutageContract(ContractBase):
    async def test_a_failed_commit_uses_up_no_seq(self, outbox: FaultableOutbox, clock: Clock) -> None:
        await store(outbox, draft(CONNECTED, clock))
        outbox.fault_down = True
        reported: list[object] = []
        outbox.on_ended = lambda _: reported.append("ended")
        results = await asyncio.gather(
            *(store(outbox, draft(CONNECTED, clock)) for _ in range(9)), return_exceptions=True
        )
        assert {result.code for result in results if isinstance(result, OutboxError)} == {"outbox_unavailable"}
        assert len(results) == 9
        with pytest.raises(OutboxError):
            await store(outbox, draft(CONNECTED, clock, BotKey("new", "key")))
        with pytest.raises(OutboxError):
            await outbox.check()
        assert await outbox.last_seq(KEY) == 1
        outbox.fault_down = False
        assert (await store(outbox, draft(CONNECTED, clock))).seq == 2
        assert (await store(outbox, draft(CONNECTED, clock, BotKey("new", "key")))).seq == 1
        await outbox.check()
        assert reported == []
        assert_balanced(outbox.totals())

    async def test_ends_called_while_the_store_is_down_are_retried(self, outbox: FaultableOutbox, clock: Clock) -> None:
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(4)]
        outbox.resolve(end(events[3], Outcome.RECEIVED))
        await outbox.last_seq(KEY)
        outbox.fault_down = True
        outbox.resolve(end(events[0]))
        outbox.record(KEY, 2, [])
        outbox.upgrade(KEY, 4, 9)
        pending = await outbox.pending(KEY, 0, 9)
        assert [event.seq for event in pending] == [2, 3]  # the first has ended, though that is not yet written
        with pytest.raises(OutboxError):
            await outbox.check()
        assert outbox.totals().pending[EventType.CONNECTED] == 3
        assert_balanced(outbox.totals())
        outbox.fault_down = False
        await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 2)
        entries = await outbox.ledger(KEY, 0, 9)
        assert [entry.outcome.name for entry in entries] == ["ACKED", "PENDING", "PENDING", "ACKED"]

    async def test_an_end_retried_through_an_outage_comes_before_the_expiry(
        self, outbox: FaultableOutbox, clock: Clock
    ) -> None:
        reported: list[Ended] = []
        outbox.on_ended = reported.extend
        acked, late = [await store(outbox, draft(CONNECTED, clock, ttl=1000)) for _ in range(2)]
        outbox.fault_down = True
        outbox.resolve(end(acked))
        with pytest.raises(OutboxError):
            await outbox.check()
        clock.pass_ms(2000)
        await asyncio.sleep(0.1)  # several sweeps find both too old, and the store down
        outbox.fault_down = False
        await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 0)
        assert [entry.outcome for entry in await outbox.ledger(KEY, 0, 9)] == [Outcome.ACKED, Outcome.EXPIRED]
        assert reported == [Ended(KEY, late.seq, Outcome.EXPIRED)]
        assert_balanced(outbox.totals())

    async def test_many_ends_are_retried_through_a_long_outage(self, outbox: FaultableOutbox, clock: Clock) -> None:
        for _ in range(5000):
            outbox.append(draft(CONNECTED, clock), lambda _: None)
        await outbox.last_seq(KEY)
        outbox.fault_down = True
        for seq in range(1, 5001):
            outbox.resolve(Resolution(KEY, seq, Outcome.ACKED, clock.ms, []))
            if seq % 500 == 0:
                with pytest.raises(OutboxError):
                    await outbox.check()
        assert await outbox.pending(KEY, 0, 9) == []
        outbox.fault_down = False
        await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 0)
        assert_balanced(outbox.totals())

    async def test_an_outage_at_the_close_leaves_the_event_pending(
        self, reopen: Reopen, outbox: FaultableOutbox, clock: Clock
    ) -> None:
        event = await store(outbox, draft(CONNECTED, clock))
        outbox.fault_down = True
        outbox.resolve(end(event))
        await outbox.close()
        assert await (await reopen()).pending(KEY, 0, 9) == [event]

    async def test_an_append_that_failed_supersedes_nothing(self, outbox: FaultableOutbox, clock: Clock) -> None:
        event = await store(outbox, draft(qr("one"), clock))
        outbox.fault_down = True
        with pytest.raises(OutboxError):
            await store(outbox, draft(qr("two"), clock))
        outbox.fault_down = False
        assert await outbox.pending(KEY, 0, 9) == [event]
        assert_balanced(outbox.totals())

    async def test_a_step_of_the_clock_in_an_outage_comes_between_the_calls(
        self, outbox: FaultableOutbox, clock: Clock
    ) -> None:
        """Times of the calls before it are converted, those of the calls after it are not."""
        before, after = [await store(outbox, draft(CONNECTED, clock)) for _ in range(2)]
        outbox.fault_down = True
        outbox.record(KEY, before.seq, [attempt(clock.ms)])
        clock.step(3600)
        outbox.moved(3600 * 10**9)
        outbox.record(KEY, after.seq, [attempt(clock.ms)])
        found = await outbox.pending(KEY, 0, 9)
        assert {event.expires_at for event in found} == {clock.ms + 60_000}
        outbox.fault_down = False
        await outbox.check()
        found = await outbox.pending(KEY, 0, 9)
        assert {event.expires_at for event in found} == {clock.ms + 60_000}
        assert [event.attempts[0].at for event in found] == [clock.ms, clock.ms]
