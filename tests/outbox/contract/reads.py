"""Reads, and what lasts over a restart."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Outcome, Resolution
from tests.outbox.contract.base import ContractBase, Reopen
from tests.support.drafts import CONNECTED, KEY, Clock, attempt, draft, end, store


class ReadContract(ContractBase):
    async def test_the_ledger_pages_in_order(self, outbox: Outbox, clock: Clock) -> None:
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(5)]
        outbox.resolve(end(events[2]))
        assert [entry.seq for entry in await outbox.ledger(KEY, 0, 3)] == [1, 2, 3]
        rest = await outbox.ledger(KEY, 3, 3)
        assert [(entry.seq, entry.id) for entry in rest] == [(4, events[3].id), (5, events[4].id)]
        assert await outbox.ledger(BotKey("no", "body"), 0, 3) == []
        assert await outbox.find("no-such-id") is None

    async def test_everything_survives_a_restart(self, reopen: Reopen, outbox: Outbox, clock: Clock) -> None:
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(4)]
        outbox.resolve(end(events[0]))
        outbox.resolve(end(events[1], Outcome.RECEIVED))
        entries = await outbox.ledger(KEY, 0, 9)
        totals = outbox.totals()
        outbox = await reopen()
        assert await outbox.ledger(KEY, 0, 9) == entries
        assert await outbox.pending(KEY, 0, 9) == events[2:]
        assert outbox.totals()[:4] == totals[:4]
        assert totals.oldest_pending_at == events[2].created_at
        assert (await store(outbox, draft(CONNECTED, clock))).seq == 5

    async def test_close_writes_what_was_called_before(self, reopen: Reopen, outbox: Outbox, clock: Clock) -> None:
        reported: list[object] = []
        for _ in range(100):
            outbox.append(draft(CONNECTED, clock), reported.append)
        outbox.resolve(Resolution(KEY, 100, Outcome.ACKED, clock.ms, []))
        await outbox.close()
        assert len(reported) == 100
        outbox = await reopen()
        assert len(await outbox.pending(KEY, 0, 999)) == 99

    async def test_a_closed_outbox_refuses(self, outbox: Outbox, clock: Clock) -> None:
        await outbox.close()
        await outbox.close()
        with pytest.raises(OutboxError):
            await store(outbox, draft(CONNECTED, clock))
        with pytest.raises(OutboxError):
            await outbox.pending(KEY, 0, 9)
        with pytest.raises(OutboxError):
            await outbox.check()

    async def test_a_write_after_the_close_changes_nothing(self, reopen: Reopen, outbox: Outbox, clock: Clock) -> None:
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(2)]
        outbox.resolve(end(events[1], Outcome.RECEIVED))
        entries = await outbox.ledger(KEY, 0, 9)
        await outbox.close()
        outbox.resolve(end(events[0]))
        outbox.record(KEY, 1, [attempt()])
        outbox.upgrade(KEY, 2, 9)
        assert await (await reopen()).ledger(KEY, 0, 9) == entries

    async def test_check_passes_and_stores_no_event(self, outbox: Outbox) -> None:
        await outbox.check()
        await outbox.check()
        assert sum(outbox.totals().created.values()) == 0

    async def test_concurrent_readers_see_order_without_gaps(self, outbox: Outbox, clock: Clock) -> None:
        finished = False

        async def write() -> None:
            nonlocal finished
            for _ in range(20):
                await asyncio.gather(*(store(outbox, draft(CONNECTED, clock)) for _ in range(20)))
            finished = True

        async def read() -> int:
            seen = 0
            while seen < 400:
                found = [event.seq for event in await outbox.pending(KEY, seen, 50)]
                assert found == list(range(seen + 1, seen + 1 + len(found)))
                assert found or not finished or seen >= 400
                seen += len(found)
            return seen

        async with asyncio.timeout(20):
            _, *read_by = await asyncio.gather(write(), *(read() for _ in range(8)))
        assert read_by == [400] * 8
