"""A hand-over that takes longer than the rest of a stop may take."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cluster.nodes import nodes
from tests.support.postgres import value

LINKS = 48


@pytest.mark.slow
@pytest.mark.waits(35)
@pytest.mark.timeout(150)
async def test_a_stop_waits_for_the_hand_over_of_many_links(tmp_path: Path, database: str) -> None:
    """Each of them needs a second at its next owner, four go at a time: the stop must not be broken off."""
    settings = {"lease": 30, "simulated_speed": 0.5, "simulated_scan_after": 0.1, "max_links_per_user": LINKS}
    async with nodes(tmp_path, database, "a", **settings) as [a]:
        await asyncio.gather(*(a.user.link(f"bot-{number}") for number in range(LINKS)))
        async with asyncio.timeout(40):
            while await value(database, "SELECT count(*) FROM links WHERE state = 'connected'") < LINKS:
                await asyncio.sleep(0.1)
        async with nodes(tmp_path, database, "b", **settings) as [b]:
            a.program.terminate()
            assert await a.program.ended(40) == 0
            assert a.lines("hand_over_begins")
            assert not a.lines("stop_took_too_long")
            assert a.lines("stopped")
            assert await value(database, "SELECT count(*) FROM nodes WHERE node_id = 'a'") == 0
            async with asyncio.timeout(30):
                while await value(database, "SELECT count(*) FROM links WHERE owner = 'b'") < LINKS:
                    await asyncio.sleep(0.1)
            taken = await b.user.metrics()
            assert taken['roundtrip_link_takeovers_total{reason="handed_over"}'] == LINKS
            assert taken['roundtrip_link_takeovers_total{reason="node_lost"}'] == 0
