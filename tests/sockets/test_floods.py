"""What a stranger can cost: memory, and everybody else's time, of the real program while it is flooded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sockets.floods import FLOODS, measure
from tests.support.program import running

MOST_MEMORY = 40.0
"""MB over what the program had before."""

MOST_WAIT = 0.1
"""Seconds that nine of ten requests of a bystander stay below."""

QUICK = ("posts of UPGRADE packets", "namespaces with long names")
"""Those that cost the most before they were bounded; the rest runs with the slow tests."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name) for name in FLOODS]
)
async def test_a_flood_costs_little_memory_and_delays_nobody(name: str, tmp_path: Path) -> None:
    async with running(tmp_path) as program:
        measured = await measure(program.url, program.pid, FLOODS[name], 2.5)
        print(f"{name}: +{measured.grown:.1f} MB, {measured.wait * 1000:.0f} ms, {len(measured.waits)} requests")
        assert measured.grown < MOST_MEMORY
        assert measured.wait < MOST_WAIT
