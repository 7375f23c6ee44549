"""Each input that needs no token, as fast as it goes: memory stays within its bound, and others are served.

`python -m tests.bench.floods` prints the table of all; the suite runs one of each kind.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.flooders import FLOODS, Flood
from tests.bench.floods import measure, table

SECONDS = float(os.environ.get("ROUNDTRIP_FLOOD_SECONDS", "1"))
HELD = 40 * 1024 * 1024
LATE = 100.0
"""Milliseconds by which others may be delayed, beyond what the machine does to a server that nobody floods."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "flood", [flood for flood in FLOODS if not flood.alike], ids=lambda flood: flood.name.replace(" ", "-")
)
async def test_a_flood_without_a_token_costs_little_and_delays_nobody(tmp_path: Path, flood: Flood) -> None:
    finding = await measure(flood, tmp_path / "1", SECONDS)
    if finding.late > LATE:  # the machine is others' too: once more, and then it counts
        finding = await measure(flood, tmp_path / "2", SECONDS)
    print(table([finding]))
    assert finding.connections
    assert finding.grown <= HELD
    assert finding.late <= LATE
    assert finding.tracebacks == 0
