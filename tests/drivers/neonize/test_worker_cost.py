"""What links cost, with the real library: the memory of one with a worker of its own, and of twenty that share one."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.drivers.neonize.footprint import RELEASE_AFTER
from tests.support.reports import ReportRecorder
from tests.whatsapp.stand_in import StandIn, stand_in

ONE_LINK = 40.0
"""MB of PSS that one connected link may cost."""
MANY = 20
MANY_LINKS = 4.0
"""The same for each of twenty in one worker."""
MANY_WITHIN = 60.0
AT_ONCE = 4


def pss(pid: int) -> float:
    """Proportional set size in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss in smaps_rollup")


async def settled(pid: int, limit: float) -> float:
    """PSS once the worker gave back what only its start needed."""
    await asyncio.sleep(RELEASE_AFTER + 0.5)
    async with asyncio.timeout(20):
        while (cost := pss(pid)) > limit:
            await asyncio.sleep(0.25)
    return cost


def driver_for(whatsapp: StandIn, sessions_per_worker: int) -> NeonizeDriver:
    return NeonizeDriver(
        whatsapp.proxy_url,
        worker_command=whatsapp.worker_command,
        environment={"PATH": os.environ["PATH"], **whatsapp.environment},
        sessions_per_worker=sessions_per_worker,
    )


async def linked(driver: NeonizeDriver, whatsapp: StandIn, folder: Path, number: int) -> int:
    reports = ReportRecorder()
    spec = d.SessionSpec(f"link-{number}", folder / f"{number}.db", None)
    session = await driver.start(spec, reports)
    code = await reports.next(d.QrShown, within=MANY_WITHIN)
    await whatsapp.scan(code.qr, f"4474413958{number:02}")
    await reports.next(d.Online, within=MANY_WITHIN)
    return session.pid


@pytest.mark.slow
@pytest.mark.alone
async def test_one_connected_link(tmp_path: Path) -> None:
    async with stand_in() as whatsapp:
        driver = driver_for(whatsapp, 1)
        try:
            cost = await settled(await linked(driver, whatsapp, tmp_path, 0), ONE_LINK)
        finally:
            await driver.close()
    print(f"one connected link: {cost:.1f} MB PSS")
    assert cost < ONE_LINK


@pytest.mark.slow
@pytest.mark.alone
async def test_twenty_links_together(tmp_path: Path) -> None:
    async with stand_in() as whatsapp:
        driver = driver_for(whatsapp, 32)
        slots = asyncio.Semaphore(AT_ONCE)

        async def link(number: int) -> int:
            async with slots:
                return await linked(driver, whatsapp, tmp_path, number)

        started = time.monotonic()
        try:
            pids = set(await asyncio.gather(*(link(number) for number in range(MANY))))
            took = time.monotonic() - started
            (host,) = pids
            cost = await settled(host, MANY * MANY_LINKS)
        finally:
            await driver.close()
    print(f"{MANY} links online in {took:.1f} s, {cost:.0f} MB PSS in one process")
    assert took < MANY_WITHIN
    assert cost / MANY < MANY_LINKS
