"""What is kept and for how long, and how a large ledger is read."""

from __future__ import annotations

import asyncio

from roundtrip.events import EventType
from roundtrip.outbox.postgres.sweep import SLICE
from roundtrip.outbox.records import Outcome
from tests.outbox.contract.base import until
from tests.outbox.postgres.helpers import Open
from tests.support.drafts import CONNECTED, KEY, Clock, assert_balanced, draft, end, store
from tests.support.postgres import value


async def test_ended_events_leave_the_ledger_in_time_and_the_sums_stay(
    open_outbox: Open, clock: Clock, database: str
) -> None:
    outbox = await open_outbox(retention=10.0)
    count = SLICE + 7
    events = await asyncio.gather(*(store(outbox, draft(CONNECTED, clock)) for _ in range(count)))
    for event in events[:-2]:
        outbox.resolve(end(event))
    clock.pass_ms(5000)
    outbox.resolve(end(events[-2], at=clock.ms))
    await outbox.check()
    assert len(await outbox.ledger(KEY, 0, 9999)) == count
    clock.pass_ms(5200)

    async def few() -> bool:
        return len(await outbox.ledger(KEY, 0, 9999)) == 2

    await until(few)
    clock.pass_ms(60_000)  # the last one expires, and the one before it is old enough now
    await until(lambda: outbox.totals().resolved[EventType.CONNECTED, Outcome.EXPIRED] == 1)
    assert_balanced(outbox.totals())
    assert outbox.totals().created[EventType.CONNECTED] == count
    assert (await store(outbox, draft(CONNECTED, clock))).seq == count + 1


async def test_an_unbalanced_ledger_is_told_and_used(open_outbox: Open, clock: Clock, database: str) -> None:
    outbox = await open_outbox()
    await store(outbox, draft(CONNECTED, clock))
    await outbox.close()
    await value(database, "UPDATE totals SET n = n + 1")
    again = await open_outbox()
    assert (await store(again, draft(CONNECTED, clock))).seq == 2


async def test_a_clock_that_differs_from_the_databases_is_reckoned_with(open_outbox: Open, database: str) -> None:
    """This machine is an hour late: what it stores expires by the database's clock, and is told by its own."""
    clock = Clock()
    clock.step(-3600)
    outbox = await open_outbox(clock=clock, store_clock=None)
    event = await store(outbox, draft(CONNECTED, clock, ttl=60_000))
    assert (event.created_at, event.expires_at) == (clock.ms, clock.ms + 60_000)
    stored = await value(database, "SELECT created_at - now_ms_1() FROM events")
    assert abs(stored) < 60_000
    assert [found.id for found in await outbox.pending(KEY, 0, 9)] == [event.id]
    entry = await outbox.find(event.id)
    assert entry is not None
    assert entry.created_at == clock.ms


async def test_what_may_not_go_yet_does_not_hide_what_may(open_outbox: Open, clock: Clock) -> None:
    """More old events than one step looks at have to stay: the search goes on behind them."""
    outbox = await open_outbox(retention=10.0, sweep_every=0.005)
    staying = await asyncio.gather(*(store(outbox, draft(CONNECTED, clock)) for _ in range(2 * SLICE)))
    going = await store(outbox, draft(CONNECTED, clock))
    outbox.resolve(end(going))
    clock.pass_ms(11_000)

    async def gone() -> bool:
        return await outbox.find(going.id) is None

    await until(gone)
    assert len(await outbox.pending(KEY, 0, 9999)) == len(staying)
