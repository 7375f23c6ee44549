"""Linked accounts in shared workers, with the real library against the stand-in, for several tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver_session import NeonizeSession
from roundtrip.telemetry.tracing import OFF
from tests.drivers.neonize.helpers import Bench
from tests.support.reports import ReportRecorder
from tests.whatsapp.accounts import Account

LOAD = 40.0
"""Seconds that something may take on a machine that does much else."""


class Member:
    """One linked account."""

    def __init__(self, phone: str, session: NeonizeSession, reports: ReportRecorder, account: Account) -> None:
        self.phone = phone
        self.session = session
        self.reports = reports
        self.account = account
        self.seen = len(reports.all)

    def news(self) -> list[d.Report]:
        """What it reported since it was linked, or since `forget`."""
        return self.reports.all[self.seen :]

    def forget(self) -> None:
        self.seen = len(self.reports.all)

    def back(self) -> bool:
        """Whether it said anew that it is online, and last of all."""
        return bool(self.news()) and isinstance(self.news()[-1], d.Online)


class Hosts(Bench):
    """A driver with linked accounts. `exits` are the causes for which workers have exited."""

    def restart(self, **settings: Any) -> None:
        self.driver = self.make(**settings)
        self.exits: list[str] = []
        self.driver.observe(OFF, self.exits.append)

    async def link(self, number: int) -> Member:
        phone = f"4474413958{number:02}"
        return Member(phone, *await self.linked(f"link-{number:02}", phone))

    async def link_many(self, count: int) -> list[Member]:
        few = asyncio.Semaphore(4)

        async def one(number: int) -> Member:
            async with few:
                return await self.link(number)

        return list(await asyncio.gather(*(one(number) for number in range(count))))

    @property
    def workers(self) -> dict[str, int]:
        """The workers that have sessions, and how many."""
        return {view.id: view.sessions for view in self.driver.workers() if view.sessions}


async def until(condition: Callable[[], object], within: float = LOAD, step: float = 0.02) -> float:
    """Wait for something to hold; the seconds that it took."""
    started = time.monotonic()
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(step)
    return time.monotonic() - started
