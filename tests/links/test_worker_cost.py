"""What a link costs, with the real library: memory of one, and twenty that start together."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.drivers.neonize.session import TRIM_AFTER
from tests.links.reports import Heard
from tests.whatsapp.stand_in import StandIn, stand_in

ONE_LINK = 40.0
"""MB of PSS that one connected link may cost."""
MANY = 20
MANY_WITHIN = 60.0
AT_ONCE = 4


def pss(pid: int) -> float:
    """Proportional set size in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel does not say")


async def settled(pid: int) -> float:
    """PSS once the worker gave back what only its start needed."""
    await asyncio.sleep(TRIM_AFTER + 0.5)
    async with asyncio.timeout(10):
        while (cost := pss(pid)) > ONE_LINK:
            await asyncio.sleep(0.25)
    return cost


def driver_for(whatsapp: StandIn) -> NeonizeDriver:
    environment = {"PATH": os.environ["PATH"], **whatsapp.environment}
    return NeonizeDriver(whatsapp.proxy_url, worker_command=whatsapp.worker_command, environment=environment)


async def linked(driver: NeonizeDriver, whatsapp: StandIn, folder: Path, number: int) -> int:
    heard = Heard()
    spec = d.SessionSpec(f"link-{number}", folder / f"{number}.db", None)
    session = await driver.start(spec, heard)
    code = await heard.next(d.QrShown, within=MANY_WITHIN)
    await whatsapp.scan(code.qr, f"4474413958{number:02}")
    await heard.next(d.Online, within=MANY_WITHIN)
    return session.pid


@pytest.mark.slow
async def test_one_connected_link(tmp_path: Path) -> None:
    async with stand_in() as whatsapp:
        driver = driver_for(whatsapp)
        try:
            cost = await settled(await linked(driver, whatsapp, tmp_path, 0))
        finally:
            await driver.close()
    print(f"one connected link: {cost:.1f} MB PSS")
    assert cost < ONE_LINK


@pytest.mark.slow
async def test_twenty_links_together(tmp_path: Path) -> None:
    async with stand_in() as whatsapp:
        driver = driver_for(whatsapp)
        slots = asyncio.Semaphore(AT_ONCE)

        async def link(number: int) -> int:
            async with slots:
                return await linked(driver, whatsapp, tmp_path, number)

        started = time.monotonic()
        try:
            pids = await asyncio.gather(*(link(number) for number in range(MANY)))
            took = time.monotonic() - started
            await settled(pids[-1])
            costs = sorted(pss(pid) for pid in pids)
        finally:
            await driver.close()
    print(f"{MANY} links online in {took:.1f} s, {sum(costs):.0f} MB PSS in all")
    print(f"each {costs[0]:.1f} to {costs[-1]:.1f} MB")
    assert took < MANY_WITHIN
    assert sum(costs) / MANY < ONE_LINK
