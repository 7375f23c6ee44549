"""A node that stops hands its links over, and one that was paused for longer than its lease has none when it wakes."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.cluster.nodes import Node, nodes, owner
from tests.support.postgres import value

LONGEST_GAP = 5.0
"""Seconds for which an account may be without a session in a rolling update."""


def sessions(node: Node, what: str) -> dict[str, list[float]]:
    """When each link's simulated session came online, or ended, by the driver's own record."""
    found: dict[str, list[float]] = {}
    for line in node.lines(f"simulated_session_{what}"):
        found.setdefault(line["link_id"], []).append(datetime.fromisoformat(line["timestamp"]).timestamp())
    return found


async def test_a_stop_hands_links_over_one_by_one(tmp_path: Path, database: str) -> None:
    """Each account's gap is short, and no two nodes have its session at a time."""
    async with nodes(tmp_path, database, "a", "b", simulated_scan_after=0.1, simulated_speed=2, log_level="DEBUG") as (
        a,
        b,
    ):
        bots = [f"bot{number}" for number in range(6)]
        for bot in bots:
            await a.user.link(bot)
        links = [(await a.user.state("connected", bot))["linkId"] for bot in bots]
        a.program.terminate()
        assert await a.program.ended(30) == 0
        for bot in bots:
            assert (await b.user.snapshot(bot))["state"] == "connected"
            assert await owner(database, bot) == "b"
        ended, online = sessions(a, "ended"), sessions(b, "online")
        for link in links:
            [end], [begin] = ended[link], online[link]
            assert 0 <= begin - end <= LONGEST_GAP
        assert len(a.lines("link_handed_over")) == len(bots)
        metrics = await b.user.metrics()
        assert metrics['roundtrip_link_takeovers_total{reason="handed_over"}'] == len(bots)


async def test_a_stop_that_has_no_time_leaves_its_links_to_be_found(tmp_path: Path, database: str) -> None:
    async with nodes(tmp_path, database, "a", "b", simulated_scan_after=0.1, hand_over_time=0) as (a, b):
        await a.user.link()
        await a.user.state("connected")
        a.program.terminate()
        assert await a.program.ended() == 0
        assert not a.lines("hand_over_begins")
        async with asyncio.timeout(5):
            while await owner(database) != "b":
                await asyncio.sleep(0.05)
        await b.user.state("connected")


async def test_a_node_that_was_paused_for_longer_than_its_lease_has_lost_its_links(
    tmp_path: Path, database: str
) -> None:
    """It wakes with a timer that is overdue, whose event would be of a link that another node has by now."""
    settings: dict[str, Any] = {"simulated_scan_after": 0.1, "disconnect_grace": 3, "log_level": "DEBUG"}
    async with nodes(tmp_path, database, "a", "b", **settings) as (a, b):
        for bot in ("quiet", "waits"):
            await a.user.link(bot)
        links = [(await a.user.state("connected", bot))["linkId"] for bot in ("quiet", "waits")]
        await a.user.simulate("disconnect", "waits")  # to be told in three seconds
        os.kill(a.program.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(12):
                while await value(database, "SELECT count(*) FROM links WHERE owner = 'b' AND restoring IS NULL") < 2:
                    await asyncio.sleep(0.05)
            before = {bot: await b.user.ledger(bot) for bot in ("quiet", "waits")}
            await asyncio.sleep(1.5)  # past the moment at which the event would have been told
            seen = len(a.program.log)
        finally:
            os.kill(a.program.pid, signal.SIGCONT)
        async with asyncio.timeout(15):
            while not a.lines("links_start_over"):
                await asyncio.sleep(0.05)
        woken = [line.decode() for line in a.program.log[seen:]]
        assert sum("simulated_session_ended" in line for line in woken) == 2
        assert not [line for line in woken if "simulated_session_online" in line or '"link_state"' in line]
        for bot, events in before.items():
            assert await b.user.ledger(bot) == events
            assert await a.user.snapshot(bot) == await b.user.snapshot(bot)
            assert (await a.user.snapshot(bot))["state"] == "connected"
        for link in links:
            assert [len(sessions(node, "online")[link]) for node in (a, b)] == [1, 1]  # nobody's twice
        assert await value(database, "SELECT count(*) FROM links WHERE owner = 'b'") == 2
        await a.user.link("new")  # it takes part again
        assert await owner(database, "new") == "a"
