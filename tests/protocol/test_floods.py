"""Each input of the public listener, without a token and from a member, as fast as it goes: memory stays within its
bound, and others are served.

`python -m tests.bench.floods` prints the table of all; the suite runs one of each kind.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.flooders import FLOODS, Flood
from tests.bench.floods import measure, table

SECONDS = float(os.environ.get("ROUNDTRIP_FLOOD_SECONDS", "2"))
HELD = 40 * 1024 * 1024
LATE = 100.0
"""Milliseconds by which others may be delayed, beyond what the machine does to a server that nobody floods."""

QUICK = {"UPGRADE packets by POST", "long namespaces, never read"}
"""Those that cost the most before they were bounded."""


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(flood, marks=() if flood.name in QUICK else pytest.mark.slow, id=flood.name.replace(" ", "-"))
        for flood in FLOODS
        if not flood.alike
    ],
)
async def test_a_flood_costs_little_and_delays_nobody(tmp_path: Path, flood: Flood) -> None:
    finding = await measure(flood, tmp_path / "1", SECONDS)
    if finding.late > LATE:  # the machine is others' too: once more, and then it counts
        finding = await measure(flood, tmp_path / "2", SECONDS)
    print(table([finding]))
    assert finding.connections
    assert finding.grown <= HELD
    assert finding.late <= LATE
    assert finding.tracebacks == 0
