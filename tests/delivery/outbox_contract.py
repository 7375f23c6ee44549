"""What every outbox promises, as one suite. A class of its own gives an implementation's `reopened` fixture and runs
it all."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from roundtrip.events import EventType, PairingCode
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Ended, MissReason, Outcome, Resolution, StoredEvent
from tests.support.drafts import (
    CONNECTED,
    CONNECTING,
    KEY,
    TRACEPARENT,
    Clock,
    assert_balanced,
    attempt,
    draft,
    end,
    qr,
    store,
)

Reopen: TypeAlias = Callable[[], Awaitable[Outbox]]
"""Closes the outbox if it is open, and opens it again: the same store, another life."""

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float = 5) -> None:
    """Wait until a condition holds that nobody tells of."""
    async with asyncio.timeout(within):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)


class OutboxContract:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def reopen(self) -> Reopen:
        raise NotImplementedError

    @pytest.fixture
    async def outbox(self, reopen: Reopen) -> Outbox:
        return await reopen()

    # append

    async def test_a_stored_event_is_what_the_contract_says(self, outbox: Outbox, clock: Clock) -> None:
        clock.wall_ms(1_767_225_600_007)
        event = await store(outbox, draft(CONNECTED, clock))
        assert UUID7.fullmatch(event.id)
        assert int(event.id.replace("-", "")[:12], 16) == clock.ms
        body = json.loads(event.body)
        assert list(body.items()) == [
            ("id", event.id),
            ("seq", 1),
            ("type", "whatsapp_connected"),
            ("userId", "user"),
            ("botId", "bot"),
            ("linkId", "link-1"),
            ("timestamp", "2026-01-01T00:00:00.007Z"),
            ("traceparent", TRACEPARENT),
            ("phoneNumber", "+15550100"),
            ("displayName", "Ada"),
            ("first", True),
        ]
        assert (event.key, event.seq, event.type) == (KEY, 1, EventType.CONNECTED)
        assert (event.created_at, event.expires_at) == (clock.ms, clock.ms + 60_000)

    async def test_a_payload_without_fields_makes_valid_json(self, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTING, clock))
        assert list(json.loads(event.body))[-1] == "traceparent"

    async def test_strange_text_survives(self, outbox: Outbox, clock: Clock) -> None:
        key = BotKey.parse('us"er\\☎', "b,ot{}é")
        event = await store(outbox, draft(qr('"\\\u2028\x00☎'), clock, key))
        body = json.loads(event.body)
        assert (body["userId"], body["botId"], body["qr"]) == (key.user_id, key.bot_id, '"\\\u2028\x00☎')
        assert (await outbox.pending(key, 0, 9)) == [event]

    async def test_seq_grows_by_one_per_key_and_keys_never_mix(self, outbox: Outbox, clock: Clock) -> None:
        keys = [BotKey("a_b", "c"), BotKey("a", "b_c"), BotKey("a", "b"), BotKey("b", "a")]
        events = await asyncio.gather(*(store(outbox, draft(CONNECTED, clock, key)) for _ in range(50) for key in keys))
        for key in keys:
            assert [event.seq for event in events if event.key == key] == list(range(1, 51))
            assert await outbox.last_seq(key) == 50
            assert [event.seq for event in await outbox.pending(key, 0, 99)] == list(range(1, 51))
        assert len({event.id for event in events}) == 200

    async def test_done_comes_in_the_order_of_the_calls(self, outbox: Outbox, clock: Clock) -> None:
        told: list[int] = []

        def done(result: StoredEvent | OutboxError) -> None:
            assert isinstance(result, StoredEvent)
            told.append(result.seq)

        for _ in range(3000):
            outbox.append(draft(CONNECTED, clock), done)
        assert await outbox.last_seq(KEY) == 3000
        assert told == list(range(1, 3001))

    async def test_a_callback_that_raises_hurts_nobody_else(self, outbox: Outbox, clock: Clock) -> None:
        def broken(_result: object) -> None:
            raise ZeroDivisionError

        outbox.append(draft(CONNECTED, clock), broken)
        assert (await store(outbox, draft(CONNECTED, clock))).seq == 2

    async def test_an_event_that_cannot_be_encoded_is_refused_alone(self, outbox: Outbox, clock: Clock) -> None:
        before = store(outbox, draft(CONNECTED, clock))
        bad = store(outbox, draft(qr("\ud800"), clock))
        after = store(outbox, draft(CONNECTED, clock))
        first, refused, second = await asyncio.gather(before, bad, after, return_exceptions=True)
        assert isinstance(first, StoredEvent)
        assert isinstance(second, StoredEvent)
        assert (first.seq, second.seq) == (1, 2)
        assert isinstance(refused, OutboxError)

    # resolve, record, upgrade, discard

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

    async def test_ends_of_what_is_unknown_do_nothing(self, outbox: Outbox, clock: Clock) -> None:
        event = await store(outbox, draft(CONNECTED, clock))
        for key, seq in ((BotKey("no", "body"), 1), (KEY, 2), (KEY, 0), (KEY, -1), (KEY, 1 << 40)):
            outbox.resolve(Resolution(key, seq, Outcome.ACKED, clock.ms, []))
            outbox.record(key, seq, [attempt()])
            outbox.upgrade(key, seq, 5)
        assert await outbox.pending(KEY, 0, 9) == [event]
        assert await outbox.discard(BotKey("no", "body")) == 0
        assert await outbox.last_seq(BotKey("no", "body")) == 0

    async def test_attempts_are_kept_for_the_next_life(self, reopen: Reopen, outbox: Outbox, clock: Clock) -> None:
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

    async def test_discard_ends_all_that_is_pending_of_one_key(self, outbox: Outbox, clock: Clock) -> None:
        other = BotKey.parse("user", "bot2")
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(3)]
        await store(outbox, draft(CONNECTED, clock, other))
        outbox.resolve(end(events[0]))
        assert await outbox.discard(KEY) == 2
        assert await outbox.discard(KEY) == 0
        assert await outbox.pending(KEY, 0, 9) == []
        assert len(await outbox.pending(other, 0, 9)) == 1
        assert outbox.totals().resolved[EventType.CONNECTED, Outcome.DISCARDED] == 2
        assert_balanced(outbox.totals())

    # supersession and expiry

    async def test_a_newer_code_supersedes_the_older(self, outbox: Outbox, clock: Clock) -> None:
        told: list[object] = []
        outbox.on_ended = lambda ended: told.extend(ended)
        await store(outbox, draft(qr("one"), clock))
        await store(outbox, draft(CONNECTING, clock, supersede=False))
        event = await store(outbox, draft(PairingCode(pairing_code="two", expires_at="x"), clock))
        assert told == [Ended(KEY, 1, Outcome.SUPERSEDED)]
        assert [pending.seq for pending in await outbox.pending(KEY, 0, 9)] == [2, 3]
        await store(outbox, draft(CONNECTED, clock))
        assert told == [Ended(KEY, 1, Outcome.SUPERSEDED), Ended(KEY, event.seq, Outcome.SUPERSEDED)]
        assert_balanced(outbox.totals())

    async def test_supersession_keeps_to_its_key_and_its_types(self, outbox: Outbox, clock: Clock) -> None:
        other = BotKey.parse("user", "other")
        await store(outbox, draft(qr(), clock, other))
        await store(outbox, draft(CONNECTED, clock))
        await store(outbox, draft(CONNECTED, clock))
        assert len(await outbox.pending(other, 0, 9)) == 1
        assert len(await outbox.pending(KEY, 0, 9)) == 2

    async def test_what_one_commit_creates_and_supersedes_is_told_in_order(self, outbox: Outbox, clock: Clock) -> None:
        told: list[tuple[str, int]] = []
        outbox.on_ended = lambda ended: told.extend(("ended", end.seq) for end in ended)

        def done(result: StoredEvent | OutboxError) -> None:
            assert isinstance(result, StoredEvent)
            told.append(("done", result.seq))

        for index in range(3):
            outbox.append(draft(qr(index=index), clock), done)
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [3]
        assert sorted(told) == [("done", 1), ("done", 2), ("done", 3), ("ended", 1), ("ended", 2)]
        assert told.index(("done", 1)) < told.index(("ended", 1))
        assert told.index(("done", 2)) < told.index(("ended", 2))

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

    async def test_an_expired_event_is_never_pending_and_ends(self, outbox: Outbox, clock: Clock) -> None:
        told: list[Ended] = []
        outbox.on_ended = told.extend
        await store(outbox, draft(qr(), clock, ttl=1000))
        await store(outbox, draft(CONNECTING, clock, ttl=2000, supersede=False))
        clock.pass_ms(1000)
        assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [2]
        await until(lambda: told == [Ended(KEY, 1, Outcome.EXPIRED)])
        clock.pass_ms(1000)
        await until(lambda: len(told) == 2)
        assert outbox.totals().resolved[EventType.QR, Outcome.EXPIRED] == 1
        assert outbox.totals().oldest_pending_at is None
        assert_balanced(outbox.totals())

    async def test_what_expired_while_nobody_ran_ends_at_the_start(
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

    # the clock is set

    @pytest.mark.parametrize("seconds", [86_400, -86_400, 7, -7])
    async def test_nothing_expires_by_a_step_of_the_clock(self, outbox: Outbox, clock: Clock, seconds: int) -> None:
        told: list[Ended] = []
        outbox.on_ended = told.extend
        before = await store(outbox, draft(CONNECTED, clock, ttl=5000))
        outbox.record(KEY, 1, [attempt(clock.ms, receipt_at=clock.ms + 1)])
        started = clock.ms
        clock.step(seconds)
        for _ in range(3):  # before it is told: the outbox may see the clock at any time
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
        await until(lambda: told == [Ended(KEY, 1, Outcome.EXPIRED)])
        assert_balanced(outbox.totals())

    async def test_a_clock_that_is_wrong_for_a_moment_costs_nothing(
        self, reopen: Reopen, outbox: Outbox, clock: Clock
    ) -> None:
        event = await store(outbox, draft(CONNECTED, clock, ttl=5000))
        for seconds in (86_400, -86_400):
            clock.step(seconds)
            outbox.moved(seconds * 10**9)
            clock.pass_ms(1000)
            await asyncio.sleep(0.03)
        assert await outbox.pending(KEY, 0, 9) == [event]
        outbox = await reopen()  # nothing of it is forgotten by another life
        assert await outbox.pending(KEY, 0, 9) == [event]

    async def test_results_that_were_on_their_way_are_told_by_the_new_clock(self, outbox: Outbox, clock: Clock) -> None:
        expiries: list[int] = []

        def done(result: StoredEvent | OutboxError) -> None:
            assert isinstance(result, StoredEvent)
            expiries.append(result.expires_at)

        for _ in range(20):  # told before, in or after the commit that moves the clock
            expiries.clear()
            outbox.append(draft(CONNECTED, clock, ttl=5000), done)
            reading = asyncio.ensure_future(outbox.pending(KEY, 0, 9))
            await asyncio.sleep(0)
            told = len(expiries)
            clock.step(3600)
            outbox.moved(3600 * 10**9)
            outbox.append(draft(CONNECTED, clock, ttl=5000), done)
            assert {event.expires_at for event in await reading} <= {clock.ms + 5000}
            await outbox.last_seq(KEY)
            assert expiries[told:] == [clock.ms + 5000] * (2 - told)
            await outbox.discard(KEY)

    # reading and lasting

    async def test_the_ledger_pages_in_order(self, outbox: Outbox, clock: Clock) -> None:
        events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(5)]
        outbox.resolve(end(events[2]))
        assert [entry.seq for entry in await outbox.ledger(KEY, 0, 3)] == [1, 2, 3]
        rest = await outbox.ledger(KEY, 3, 3)
        assert [(entry.seq, entry.id) for entry in rest] == [(4, events[3].id), (5, events[4].id)]
        assert await outbox.ledger(BotKey("no", "body"), 0, 3) == []
        assert await outbox.find("no-such-id") is None

    async def test_everything_lasts(self, reopen: Reopen, outbox: Outbox, clock: Clock) -> None:
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
        told: list[object] = []
        for _ in range(100):
            outbox.append(draft(CONNECTED, clock), told.append)
        outbox.resolve(Resolution(KEY, 100, Outcome.ACKED, clock.ms, []))
        await outbox.close()
        assert len(told) == 100
        outbox = await reopen()
        assert len(await outbox.pending(KEY, 0, 999)) == 99

    async def test_a_closed_outbox_says_so(self, outbox: Outbox, clock: Clock) -> None:
        await outbox.close()
        await outbox.close()
        with pytest.raises(OutboxError):
            await store(outbox, draft(CONNECTED, clock))
        with pytest.raises(OutboxError):
            await outbox.pending(KEY, 0, 9)
        with pytest.raises(OutboxError):
            await outbox.check()

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
