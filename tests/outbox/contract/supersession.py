"""Newer events that end older ones of their key, and the order in which that is reported."""

from __future__ import annotations

import asyncio

from roundtrip.events import PairingCode
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Ended, Outcome, Resolution, StoredEvent
from tests.outbox.contract.base import ContractBase, Reopen
from tests.support.drafts import CONNECTED, CONNECTING, KEY, Clock, assert_balanced, draft, end, qr, store


class SupersessionContract(ContractBase):
    async def test_a_newer_code_supersedes_the_older(self, outbox: Outbox, clock: Clock) -> None:
        reported: list[object] = []
        outbox.on_ended = lambda ended: reported.extend(ended)
        await store(outbox, draft(qr("one"), clock))
        await store(outbox, draft(CONNECTING, clock, supersede=False))
        event = await store(outbox, draft(PairingCode(pairing_code="two", expires_at="x"), clock))
        assert reported == [Ended(KEY, 1, Outcome.SUPERSEDED)]
        assert [pending.seq for pending in await outbox.pending(KEY, 0, 9)] == [2, 3]
        await store(outbox, draft(CONNECTED, clock))
        assert reported == [Ended(KEY, 1, Outcome.SUPERSEDED), Ended(KEY, event.seq, Outcome.SUPERSEDED)]
        assert_balanced(outbox.totals())

    async def test_supersession_keeps_to_its_key_and_its_types(self, outbox: Outbox, clock: Clock) -> None:
        other = BotKey.parse("user", "other")
        await store(outbox, draft(qr(), clock, other))
        await store(outbox, draft(CONNECTED, clock))
        await store(outbox, draft(CONNECTED, clock))
        assert len(await outbox.pending(other, 0, 9)) == 1
        assert len(await outbox.pending(KEY, 0, 9)) == 2

    async def test_what_one_commit_creates_and_supersedes_is_reported_in_order(
        self, outbox: Outbox, clock: Clock
    ) -> None:
        reported: list[tuple[str, int]] = []
        outbox.on_ended = lambda ended: reported.extend(("ended", end.seq) for end in ended)

        def done(result: StoredEvent | OutboxError) -> None:
            assert isinstance(result, StoredEvent)
            reported.append(("done", result.seq))

        for index in range(3):
            outbox.append(draft(qr(index=index), clock), done)
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [3]
        assert sorted(reported) == [("done", 1), ("done", 2), ("done", 3), ("ended", 1), ("ended", 2)]
        assert reported.index(("done", 1)) < reported.index(("ended", 1))
        assert reported.index(("done", 2)) < reported.index(("ended", 2))

    async def test_the_order_of_the_calls_decides(self, outbox: Outbox, clock: Clock) -> None:
        first = await store(outbox, draft(qr("one"), clock))
        outbox.resolve(end(first))
        await store(outbox, draft(qr("two"), clock))  # called after the end of the first: supersedes nothing
        outbox.append(draft(qr("three"), clock), lambda _: None)
        outbox.resolve(Resolution(KEY, 2, Outcome.ACKED, clock.ms, []))  # called after its supersession
        entries = await outbox.ledger(KEY, 0, 9)
        assert [entry.outcome for entry in entries] == [Outcome.ACKED, Outcome.SUPERSEDED, Outcome.PENDING]

    async def test_an_end_called_before_the_event_exists_is_not_its_end(self, outbox: Outbox, clock: Clock) -> None:
        await store(outbox, draft(CONNECTED, clock))
        outbox.resolve(Resolution(KEY, 2, Outcome.ACKED, clock.ms, []))
        outbox.append(draft(CONNECTED, clock), lambda _: None)
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [1, 2]

    async def test_of_many_concurrent_codes_only_the_newest_is_pending(self, outbox: Outbox, clock: Clock) -> None:
        reported: list[Ended] = []
        outbox.on_ended = reported.extend
        keys = [BotKey("user", bot) for bot in "abcd"]

        async def producer(number: int) -> None:
            for count in range(10):
                await store(outbox, draft(qr(f"{number}-{count}"), clock, keys[(number + count) % 4]))

        await asyncio.gather(*(producer(number) for number in range(8)))
        for key in keys:
            assert [event.seq for event in await outbox.pending(key, 0, 99)] == [20]
            ended = [ended.seq for ended in reported if ended.key == key]
            assert sorted(ended) == list(range(1, 20))  # each once
        assert {ended.outcome for ended in reported} == {Outcome.SUPERSEDED}
        assert_balanced(outbox.totals())

    async def test_an_event_from_before_a_restart_is_superseded(
        self, reopen: Reopen, outbox: Outbox, clock: Clock
    ) -> None:
        await store(outbox, draft(qr("one"), clock))
        outbox = await reopen()
        reported: list[Ended] = []
        outbox.on_ended = reported.extend
        await store(outbox, draft(qr("two"), clock))
        assert reported == [Ended(KEY, 1, Outcome.SUPERSEDED)]
        outbox = await reopen()
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [2]
        assert_balanced(outbox.totals())
