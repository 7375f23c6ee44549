"""Expiry, and what a step of the clock must not do."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.events import EventType
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Ended, Outcome, StoredEvent
from tests.outbox.contract.base import ContractBase, Reopen, until
from tests.support.drafts import CONNECTED, CONNECTING, KEY, Clock, assert_balanced, attempt, draft, end, qr, store


class ExpiryContract(ContractBase):
    async def test_an_expired_event_is_never_pending_and_ends(self, outbox: Outbox, clock: Clock) -> None:
        reported: list[Ended] = []
        outbox.on_ended = reported.extend
        await store(outbox, draft(qr(), clock, ttl=1000))
        await store(outbox, draft(CONNECTING, clock, ttl=2000, supersede=False))
        clock.pass_ms(1000)
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [2]
        await until(lambda: reported == [Ended(KEY, 1, Outcome.EXPIRED)])
        clock.pass_ms(1000)
        await until(lambda: len(reported) == 2)
        assert outbox.totals().resolved[EventType.QR, Outcome.EXPIRED] == 1
        assert outbox.totals().oldest_pending_at is None
        assert_balanced(outbox.totals())

    async def test_what_expired_while_the_store_was_closed_ends_at_the_start(
        self, reopen: Reopen, outbox: Outbox, clock: Clock
    ) -> None:
        for _ in range(1234):
            outbox.append(draft(CONNECTED, clock, ttl=1000), lambda _: None)
        outbox.append(draft(CONNECTED, clock, ttl=9000), lambda _: None)
        await outbox.last_seq(KEY)
        clock.pass_ms(5000)
        outbox = await reopen()
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [1235]
        await until(lambda: outbox.totals().resolved.get((EventType.CONNECTED, Outcome.EXPIRED)) == 1234)
        assert outbox.totals().pending[EventType.CONNECTED] == 1

    async def test_an_end_called_before_the_expiry_stands(self, outbox: Outbox, clock: Clock) -> None:
        reported: list[Ended] = []
        outbox.on_ended = reported.extend
        confirmed, expired = [await store(outbox, draft(CONNECTED, clock, ttl=1000)) for _ in range(2)]
        outbox.resolve(end(confirmed))
        clock.pass_ms(1000)
        await until(lambda: reported == [Ended(KEY, expired.seq, Outcome.EXPIRED)])
        outbox.resolve(end(expired))  # too late
        entries = await outbox.ledger(KEY, 0, 9)
        assert [entry.outcome for entry in entries] == [Outcome.ACKED, Outcome.EXPIRED]
        assert_balanced(outbox.totals())

    @pytest.mark.parametrize("seconds", [86_400, -86_400, 7, -7])
    async def test_nothing_expires_by_a_step_of_the_clock(self, outbox: Outbox, clock: Clock, seconds: int) -> None:
        reported: list[Ended] = []
        outbox.on_ended = reported.extend
        before = await store(outbox, draft(CONNECTED, clock, ttl=5000))
        outbox.record(KEY, 1, [attempt(clock.ms, receipt_at=clock.ms + 1)])
        started = clock.ms
        clock.step(seconds)
        for _ in range(3):  # before it is reported: the outbox may see the clock at any time
            assert [event.id for event in await outbox.pending(KEY, 0, 9)] == [before.id]
            await asyncio.sleep(0.01)
        outbox.moved(seconds * 10**9)
        after = await store(outbox, draft(CONNECTED, clock, ttl=6000))
        (first, second) = await outbox.pending(KEY, 0, 9)
        assert (first.created_at, first.expires_at) == (clock.ms, clock.ms + 5000)
        assert (first.body, first.id, second) == (before.body, before.id, after)
        assert (first.attempts[0].at, first.attempts[0].receipt_at) == (clock.ms, clock.ms + 1)
        assert outbox.totals().oldest_pending_at == started + seconds * 1000
        clock.pass_ms(4990)
        await asyncio.sleep(0.05)
        assert len(await outbox.pending(KEY, 0, 9)) == 2
        clock.pass_ms(10)
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [2]
        await until(lambda: reported == [Ended(KEY, 1, Outcome.EXPIRED)])
        assert_balanced(outbox.totals())

    async def test_a_clock_that_is_set_back_and_forth_changes_nothing(
        self, reopen: Reopen, outbox: Outbox, clock: Clock
    ) -> None:
        event = await store(outbox, draft(CONNECTED, clock, ttl=5000))
        for seconds in (86_400, -86_400):
            clock.step(seconds)
            outbox.moved(seconds * 10**9)
            clock.pass_ms(1000)
            await asyncio.sleep(0.03)
        assert await outbox.pending(KEY, 0, 9) == [event]
        outbox = await reopen()  # stored that way too
        assert await outbox.pending(KEY, 0, 9) == [event]

    async def test_results_under_way_are_reported_by_the_new_clock(self, outbox: Outbox, clock: Clock) -> None:
        expiries: list[int] = []

        def done(result: StoredEvent | OutboxError) -> None:
            assert isinstance(result, StoredEvent)
            expiries.append(result.expires_at)

        for _ in range(20):  # reported before, in or after the commit that moves the clock
            expiries.clear()
            outbox.append(draft(CONNECTED, clock, ttl=5000), done)
            reading = asyncio.ensure_future(outbox.pending(KEY, 0, 9))
            await asyncio.sleep(0)
            reported = len(expiries)
            clock.step(3600)
            outbox.moved(3600 * 10**9)
            outbox.append(draft(CONNECTED, clock, ttl=5000), done)
            assert {event.expires_at for event in await reading} <= {clock.ms + 5000}
            await outbox.last_seq(KEY)
            assert expiries[reported:] == [clock.ms + 5000] * (2 - reported)
            for event in await outbox.pending(KEY, 0, 9):
                outbox.resolve(end(event))
