"""A driver with the real library against the stand-in, for several tests."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import psutil

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.drivers.neonize.driver_session import NeonizeSession
from tests.support.reports import ReportRecorder
from tests.whatsapp.accounts import Account
from tests.whatsapp.stand_in import StandIn

PHONE = "447441395830"
NUMBER = f"+{PHONE}"
NAME = "Ada Lovelace"


class Bench:
    """A driver, and links that one test starts with it."""

    def __init__(self, folder: Path, whatsapp: StandIn) -> None:
        self.folder = folder
        self.whatsapp = whatsapp
        self.counts: Path | None = None
        """The folder in which workers count what the library hands over (`tests.whatsapp.patched_worker`)."""
        self.driver = self.make()

    def make(self, proxy: str | None = None, code_life: float = 160.0, **more: Any) -> NeonizeDriver:
        return NeonizeDriver(
            proxy or self.whatsapp.proxy_url,
            worker_command=(*self.whatsapp.worker_command, *([str(self.counts)] if self.counts else [])),
            environment={"PATH": os.environ["PATH"], "ROUNDTRIP_API_KEYS": "hidden", **self.whatsapp.environment},
            code_life=code_life,
            **more,
        )

    def spec(self, name: str = "one", phone_number: str | None = None) -> d.SessionSpec:
        return d.SessionSpec(name, self.folder / "accounts" / f"{name}.db", phone_number)

    async def linked(self, name: str = "one", phone: str = PHONE) -> tuple[NeonizeSession, ReportRecorder, Account]:
        """A session that has paired and is online."""
        reports = ReportRecorder()
        session = await self.driver.start(self.spec(name), reports)
        code = await reports.next(d.QrShown)
        account = await self.whatsapp.scan(code.qr, phone, NAME)
        await reports.next(d.Online)
        return session, reports, account


async def gone(pid: int, within: float = 10) -> float:
    """Seconds until there is no such process."""
    started = time.monotonic()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - started < within, "the worker is still there"
        await asyncio.sleep(0.01)
    return time.monotonic() - started
