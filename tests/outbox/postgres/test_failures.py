"""What a failure on the way to PostgreSQL means: nothing is lost, nothing is written twice, nothing guessed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from roundtrip.events import EventType
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from roundtrip.outbox.records import Ended, Outcome, StoredEvent
from tests.outbox.contract.base import until
from tests.outbox.postgres.helpers import joined, store_clock
from tests.support.drafts import CONNECTED, KEY, Clock, assert_balanced, draft, end, qr, store
from tests.support.postgres import Postgres, server, value
from tests.support.tcp_proxy import TcpProxy, tcp_proxy


class Behind:
    """An outbox that reaches its database through a proxy."""

    def __init__(self, outbox: PostgresOutbox, proxy: TcpProxy, url: str) -> None:
        self.outbox = outbox
        self.proxy = proxy
        self.url = url

    async def rows(self) -> int:
        count: int = await value(self.url, "SELECT count(*) FROM events")
        return count


@pytest.fixture
async def behind(database: str, clock: Clock) -> AsyncIterator[Behind]:
    parts = urlsplit(database)
    async with tcp_proxy(parts.port or 0) as proxy:
        url = parts._replace(netloc=f"roundtrip@127.0.0.1:{proxy.port}").geturl()
        store_, lease = await joined(url, answer_timeout=1.5)
        outbox = PostgresOutbox(store_, lease, sweep_every=3600, clock=clock, store_clock=store_clock(clock))
        await outbox.start()
        yield Behind(outbox, proxy, database)
        proxy.silent = proxy.deaf = proxy.refusing = False
        proxy.delay = 0.0
        await outbox.close()
        await lease.leave()


async def test_a_commit_whose_answer_was_lost_is_found_and_not_written_twice(behind: Behind, clock: Clock) -> None:
    outbox, proxy = behind.outbox, behind.proxy
    ended: list[Ended] = []
    outbox.on_ended = ended.extend
    code = await store(outbox, draft(qr(), clock))
    await until(lambda: outbox._writer._sweep.due_in() > 1)  # so that the commit is what loses its answer
    proxy.deaf = True
    storing = [asyncio.ensure_future(store(outbox, draft(CONNECTED, clock))) for _ in range(3)]
    async with asyncio.timeout(5):
        while await behind.rows() < 4:
            await asyncio.sleep(0.01)
    assert not any(task.done() for task in storing)  # committed, and nobody is told so yet
    proxy.deaf = False
    proxy.cut()
    events = await asyncio.gather(*storing)
    assert [event.seq for event in events] == [2, 3, 4]
    assert ended == [Ended(KEY, code.seq, Outcome.SUPERSEDED)]
    assert [event.id for event in await outbox.pending(KEY, 0, 9)] == [event.id for event in events]
    assert await behind.rows() == 4
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 5
    assert_balanced(outbox.totals())


async def test_what_was_never_sent_is_written_over_the_next_connection(behind: Behind, clock: Clock) -> None:
    """A cut connection is replaced within moments: no caller notices."""
    for number in range(1, 6):
        behind.proxy.cut()
        assert (await store(behind.outbox, draft(CONNECTED, clock))).seq == number
    assert await behind.rows() == 5


async def test_a_network_that_goes_silent_counts_as_lost(behind: Behind, clock: Clock) -> None:
    outbox, proxy = behind.outbox, behind.proxy
    first = await store(outbox, draft(CONNECTED, clock))
    proxy.silent = True
    unknown = asyncio.ensure_future(store(outbox, draft(CONNECTED, clock)))
    await asyncio.sleep(0.1)
    outbox.resolve(end(first))
    await until(lambda: not outbox.up)
    proxy.silent = False
    proxy.cut()
    assert (await unknown).seq == 2
    await until(lambda: outbox.totals().resolved[EventType.CONNECTED, Outcome.ACKED] == 1)
    assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [2]
    assert await behind.rows() == 2
    assert_balanced(outbox.totals())


async def test_a_transaction_that_ends_after_its_connection_is_waited_for(behind: Behind, clock: Clock) -> None:
    """The server is still at it when the client has given up: its commit is not overlooked."""
    outbox = behind.outbox
    await value(
        behind.url,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(1.2); RETURN NULL; END $$",
    )
    await value(behind.url, "CREATE TRIGGER slow AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION slow()")
    event = await store(outbox, draft(CONNECTED, clock))
    assert event.seq == 1
    assert [found.id for found in await outbox.pending(KEY, 0, 9)] == [event.id]
    assert await behind.rows() == 1


async def test_a_slow_network_loses_nothing(behind: Behind, clock: Clock) -> None:
    behind.proxy.delay = 0.03
    events = await asyncio.gather(*(store(behind.outbox, draft(CONNECTED, clock)) for _ in range(200)))
    assert [event.seq for event in events] == list(range(1, 201))
    assert await behind.rows() == 200


async def test_a_conflict_is_tried_again_at_once(behind: Behind, clock: Clock) -> None:
    await value(behind.url, "CREATE SEQUENCE conflicts")
    await value(
        behind.url,
        "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('conflicts') < 3 THEN "
        "RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$",
    )
    await value(
        behind.url, "CREATE TRIGGER conflict AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION conflict()"
    )
    failures: list[None] = []
    behind.outbox.count_failures(lambda: failures.append(None))
    assert (await store(behind.outbox, draft(CONNECTED, clock))).seq == 1
    assert len(failures) == 2
    assert await behind.rows() == 1


async def test_a_closing_outbox_does_not_wait_for_a_store_that_is_away(behind: Behind, clock: Clock) -> None:
    behind.proxy.silent = True
    unknown = asyncio.ensure_future(store(behind.outbox, draft(CONNECTED, clock)))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(6):
        await behind.outbox.close()
    with pytest.raises(OutboxError):
        await unknown


async def test_a_node_that_lost_its_lease_writes_nothing(database: str, clock: Clock) -> None:
    """It was paused for longer than its lease, and another node has the store: what it sends is refused."""
    store_, lease = await joined(database, "paused", seconds=0.2)
    outbox = PostgresOutbox(store_, lease, sweep_every=3600)
    await outbox.start()
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 1
    await asyncio.sleep(0.3)  # nobody renews
    assert not lease.held
    _, other = await joined(database, "other")
    with pytest.raises(OutboxError) as refusal:
        await store(outbox, draft(CONNECTED, clock))
    assert refusal.value.code == "store_unavailable"
    assert await value(database, "SELECT count(*) FROM events") == 1
    await outbox.close()
    await lease.leave()
    await other.leave()


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    with server() as running:
        yield running


async def test_a_server_that_dies_and_comes_back(own_server: Postgres, clock: Clock) -> None:
    name = own_server.new_database()
    store_, lease = await joined(own_server.url_of(name))
    outbox = PostgresOutbox(store_, lease, sweep_every=0.05, clock=clock, store_clock=store_clock(clock))
    told: list[bool] = []
    outbox.watch(told.append)
    await outbox.start()
    events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(3)]
    own_server.stop()
    outbox.resolve(end(events[0]))
    sent = asyncio.ensure_future(store(outbox, draft(CONNECTED, clock)))  # whether it arrived will be known later
    await until(lambda: not outbox.up)
    for _ in range(3):
        async with asyncio.timeout(4):
            with pytest.raises(OutboxError) as refusal:
                await store(outbox, draft(CONNECTED, clock))
        assert refusal.value.code == "store_unavailable"
        with pytest.raises(OutboxError):
            await outbox.pending(KEY, 0, 9)
        with pytest.raises(OutboxError):
            await outbox.check()
    assert not outbox.up
    own_server.start()
    await until(lambda: outbox.totals().resolved[EventType.CONNECTED, Outcome.ACKED] == 1, within=10)
    (first,) = await asyncio.gather(sent, return_exceptions=True)  # a stored event, or refused and not stored
    last = await store(outbox, draft(CONNECTED, clock))
    assert last.seq == (5 if isinstance(first, StoredEvent) else 4)
    assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == list(range(2, last.seq + 1))
    assert told == [True, False, True]
    assert_balanced(outbox.totals())
    await outbox.close()
    await lease.leave()
