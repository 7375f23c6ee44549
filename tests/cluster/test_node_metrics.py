"""What nodes of one store tell Prometheus: nothing of the store is told twice, and each node tells of its own lease."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from tests.cluster.nodes import FAST, Node, nodes
from tests.support.lives import total
from tests.support.postgres import value
from tests.support.program import api, running
from tests.support.tcp_proxy import tcp_proxy

STORE_WIDE: Final = (
    "roundtrip_events_created_total",
    "roundtrip_events_resolved_total",
    "roundtrip_events_pending",
    "roundtrip_oldest_pending_event_age_seconds",
    "roundtrip_outbox_size_bytes",
)


async def told(found: list[Node]) -> list[dict[str, float]]:
    """How much each node tells of the store's sums; empty where it tells none."""
    samples = [await node.user.metrics() for node in found]
    return [
        {name: total(one, name) for name in STORE_WIDE if any(sample.partition("{")[0] == name for sample in one)}
        for one in samples
    ]


async def test_the_stores_sums_are_told_by_one_node_at_a_time(tmp_path: Path, database: str) -> None:
    """By the oldest; when it is killed, by the next one."""
    async with (
        nodes(tmp_path, database, "a", simulated_scan_after=0.1) as [a],
        nodes(tmp_path, database, "b", simulated_scan_after=0.1) as [b],
    ):
        for node, bot in ((a, "one"), (b, "two")):
            await node.user.link(bot)
            await node.user.state("connected", bot)
        await one_tells(database, [a, b], a)
        samples = [await node.user.metrics() for node in (a, b)]
        assert [one["roundtrip_nodes"] for one in samples] == [2, 2]
        assert [one["roundtrip_node_lease_seconds"] for one in samples] == [FAST["lease"]] * 2
        assert all(0 <= one["roundtrip_node_lease_age_seconds"] < FAST["lease"] for one in samples)
        a.program.kill()
        await a.program.ended()
        await one_tells(database, [b], b)


async def one_tells(database: str, found: list[Node], who: Node) -> None:
    """Wait until this node, and no other, tells as many events as are stored."""
    sums: list[dict[str, float]] = []
    async with asyncio.timeout(20):
        while True:
            stored = await value(database, "SELECT count(*) FROM events")
            sums = await told(found)
            mine = sums[found.index(who)]
            if mine.get(STORE_WIDE[0]) == stored and sum(bool(one) for one in sums) == 1:
                break
            await asyncio.sleep(0.1)
    assert set(mine) == set(STORE_WIDE)
    assert mine[STORE_WIDE[0]] == mine[STORE_WIDE[1]] + mine[STORE_WIDE[2]]


async def test_a_lease_that_cannot_be_renewed_grows_old(tmp_path: Path, database: str) -> None:
    """What RoundtripNodeLeaseOld and RoundtripStoreDown look at."""
    base, _, rest = database.partition("@")
    host_port, _, name = rest.partition("/")
    async with tcp_proxy(int(host_port.rpartition(":")[2])) as proxy:
        settings: dict[str, Any] = {**FAST, "store": f"{base}@127.0.0.1:{proxy.port}/{name}"}
        async with running(tmp_path, **settings) as program, api(program) as user:
            proxy.silent = True
            async with asyncio.timeout(20):
                while (await user.metrics())["roundtrip_node_lease_age_seconds"] < FAST["lease"]:
                    await asyncio.sleep(0.1)
                while (await user.metrics())["roundtrip_store_up"]:
                    await asyncio.sleep(0.1)
            proxy.silent = False
            proxy.cut()
            async with asyncio.timeout(20):
                while not (await user.metrics())["roundtrip_store_up"]:
                    await asyncio.sleep(0.1)
                while (await user.metrics())["roundtrip_node_lease_age_seconds"] > FAST["lease"] / 2:
                    await asyncio.sleep(0.1)


async def test_a_node_alone_tells_all_of_it(tmp_path: Path) -> None:
    """Without a shared store."""
    async with running(tmp_path, **FAST | {"lease": 15}) as program, api(program) as user:
        samples = await user.metrics()
        for name in STORE_WIDE:
            assert any(sample.partition("{")[0] == name for sample in samples), name
        assert samples["roundtrip_nodes"] == 1
        assert samples["roundtrip_node_lease_seconds"] == 0
