"""One account that many people write to shares a host with others, with the real library."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.whatsapp.busy import measure
from tests.whatsapp.hosts import Hosts
from tests.whatsapp.stand_in import stand_in

pytestmark = pytest.mark.slow

MESSAGES, SECONDS = 2000, 12.0
"""10,000 in a minute is the rate that is asked for; `python -m tests.bench.links --busy` plays the whole minute."""
DELAY = 0.25
CPU_PRESSURE = Path("/proc/pressure/cpu")


def shared_with_others() -> bool:
    """Whether other work left processes waiting for a core for most of the last ten seconds."""
    if not CPU_PRESSURE.exists():
        return True
    some = dict(pair.split("=") for pair in CPU_PRESSURE.read_text().splitlines()[0].split()[1:])
    return float(some["avg10"]) > 40


@pytest.mark.timeout(400)
async def test_one_busy_account_delays_nobody_and_takes_no_memory(tmp_path: Path) -> None:
    busy = shared_with_others()
    (counts := tmp_path / "counts").mkdir()
    async with stand_in() as whatsapp:
        hosts = Hosts(tmp_path, whatsapp)
        try:
            found = await measure(hosts, counts, MESSAGES, SECONDS, known=True)
        finally:
            await hosts.driver.close()
    print(f"\n{found}")
    assert found.events <= 0, "no message crosses into Python"
    assert found.crossed["log-calls"] <= 1 + len(found.beside.online) + 2 * len(found.beside.offline)
    assert max(found.memory) < found.memory[0] + 40
    for percent in (50,) if busy else (50, 99):
        for beside, apart in zip(found.beside.of(percent), found.apart.of(percent), strict=True):
            assert beside < apart + DELAY
