"""A primary that dies and a replica that is promoted: what was confirmed is there once, what was refused is not."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.outbox import PostgresOutbox
from roundtrip.outbox.records import Outcome, StoredEvent
from tests.outbox.contract.base import until
from tests.outbox.postgres.helpers import joined
from tests.support.drafts import CONNECTED, Clock, assert_balanced, draft, end
from tests.support.postgres import server, standby
from tests.support.tcp_proxy import tcp_proxy

KEYS = [BotKey("user", str(number)) for number in range(3)]


class Caller:
    """Appends one event after the other, and resolves each second one that is stored."""

    def __init__(self, outbox: PostgresOutbox, clock: Clock) -> None:
        self.stored: list[StoredEvent] = []
        self.resolved: set[str] = set()
        self.refusals: Counter[str] = Counter()
        self._outbox = outbox
        self._clock = clock
        self._under_way = 0
        self._task = asyncio.create_task(self._run())

    def _done(self, result: StoredEvent | OutboxError) -> None:
        self._under_way -= 1
        if isinstance(result, OutboxError):
            self.refusals[result.code] += 1
            return
        self.stored.append(result)
        if len(self.stored) % 2:
            self.resolved.add(result.id)
            self._outbox.resolve(end(result))

    async def _run(self) -> None:
        number = 0
        while True:
            number += 1
            self._under_way += 1
            self._outbox.append(draft(CONNECTED, self._clock, KEYS[number % 3], supersede=False), self._done)
            await asyncio.sleep(0.005)

    async def confirmed(self, more: int) -> None:
        wanted = len(self.stored) + more
        await until(lambda: len(self.stored) >= wanted, within=20)

    async def stop(self) -> None:
        self._task.cancel()
        await until(lambda: self._under_way == 0, within=20)


@pytest.mark.parametrize("several_hosts", [True, False])
async def test_a_promoted_replica_goes_on_where_the_primary_ended(several_hosts: bool) -> None:
    """With several hosts in the address, the primary's machine goes silent as one without power does; with one, the
    address moves to the replica, which takes no writes for a while."""
    clock = Clock()
    with server() as primary, standby(primary) as replica:
        name = primary.new_database()
        async with tcp_proxy(primary.port) as proxy:
            second = f",127.0.0.1:{replica.port}" if several_hosts else ""
            url = f"postgresql://roundtrip@127.0.0.1:{proxy.port}{second}/{name}"
            database, lease = await joined(url, answer_timeout=0.5)
            outbox = PostgresOutbox(database, lease, clock=clock)
            await outbox.start()
            caller = Caller(outbox, clock)
            await caller.confirmed(50)
            proxy.deaf = True  # what is committed from now on, nobody hears of
            await until(lambda: caller.refusals["store_unavailable"] > 0, within=10)
            before = len(caller.stored)
            if several_hosts:
                proxy.silent = True
            else:
                proxy.deaf, proxy.target_port = False, replica.port
                proxy.cut()
                primary.stop()
            with pytest.raises(OutboxError):
                await outbox.check()
            assert len(caller.stored) == before  # nothing is called stored that may not be
            assert not outbox.up
            replica.promote()
            await caller.confirmed(50)
            await caller.stop()
            assert set(caller.refusals) == {"store_unavailable"}
            ledger = [entry for key in KEYS for entry in await outbox.ledger(key, 0, 1_000_000)]
            assert sorted(entry.id for entry in ledger) == sorted(event.id for event in caller.stored)
            for key in KEYS:
                seqs = [entry.seq for entry in ledger if entry.key == key]
                assert seqs == list(range(1, len(seqs) + 1))
            assert {entry.id for entry in ledger if entry.outcome is Outcome.ACKED} == caller.resolved
            assert_balanced(outbox.totals())
            await outbox.close()
            await lease.leave()
