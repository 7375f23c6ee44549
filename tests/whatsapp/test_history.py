"""What a device downloads of an account's past after it was paired, and what that costs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
from tests.support.reports import ReportRecorder
from tests.whatsapp.history import ARCHIVED, CONTACTS, MUTED, STATE, Past
from tests.whatsapp.stand_in import stand_in

PHONE = "447441395830"
SETTLED = 50.0
"""MB of PSS that a session may keep once its history has come. It was 94 before there was a limit."""
PEAK = 120.0
"""MB of RSS that it may take meanwhile."""

TAKEN = 150.0
"""Seconds until all is downloaded, read and noted, on a machine that does much else: 4 s on one that does not."""


def memory(pid: int, field: str) -> float:
    """MB of a process: `VmHWM` (the most it ever had), `Rss`, `Pss`."""
    name = "status" if field == "VmHWM" else "smaps_rollup"
    for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel does not say")


def kept(store: Path) -> tuple[int, int]:
    """(contacts with a name of the address book, chats with settings) that the library has read and noted."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
            names = database.execute("SELECT count(*) FROM whatsmeow_contacts WHERE full_name <> ''").fetchone()[0]
            chats = database.execute("SELECT count(*) FROM whatsmeow_chat_settings").fetchone()[0]
    except sqlite3.OperationalError:  # the library is writing: asked again
        return 0, 0
    return names, chats


@pytest.mark.slow
@pytest.mark.waits(25)
async def test_an_ordinary_past_is_downloaded_and_its_memory_given_back(tmp_path: Path) -> None:
    async with stand_in() as whatsapp:
        environment = {"PATH": os.environ["PATH"], **whatsapp.environment}
        driver = NeonizeDriver(  # in a worker of its own, so that its memory is this one account's
            whatsapp.proxy_url,
            worker_command=whatsapp.worker_command,
            environment=environment,
            sessions_per_worker=1,
        )
        account = whatsapp.account(PHONE, "Ada")
        account.past = Past()
        try:
            reports = ReportRecorder()
            session = await driver.start(d.SessionSpec("one", tmp_path / "one.db", None), reports)
            code = await reports.next(d.QrShown)
            await whatsapp.scan(code.qr, PHONE, "Ada")
            await reports.next(d.Online, within=30)
            before = memory(session.pid, "Pss")
            files = account.past.files
            async with asyncio.timeout(TAKEN):
                while sum(STATE in path for path in set(account.past.fetched)) < len({CONTACTS, MUTED, ARCHIVED}):
                    await asyncio.sleep(0.05)
                while len(set(account.past.fetched)) < len(files):
                    await asyncio.sleep(0.05)
                while kept(tmp_path / "one.db") != (account.past.contacts, account.past.chats):
                    await asyncio.sleep(1)
            async with asyncio.timeout(60):
                while (after := memory(session.pid, "Pss")) > SETTLED:
                    await asyncio.sleep(0.5)
            peak = memory(session.pid, "VmHWM")
            size = sum(map(len, account.past.files.values())) / 1e6
            print(f"\nhistory and settings of {size:.1f} MB, {account.past.raw_size / 1e6:.1f} MB unpacked")
            print(f"PSS {before:.1f} MB before, {after:.1f} MB after; peak RSS {peak:.1f} MB")
            assert peak < PEAK
            assert await session.alive() is True
        finally:
            await driver.close()
