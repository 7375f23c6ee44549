"""Many linked accounts for the price of one pairing: its key file, copied for others under their own numbers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from pathlib import Path

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkRecord, LinkState, store_name
from roundtrip.links.store import LinkStore
from tests.support.reports import ReportRecorder
from tests.whatsapp.accounts import Account
from tests.whatsapp.stand_in import StandIn

FIRST = "447441000000"


def phone_of(number: int) -> str:
    """The phone number of an account, in digits."""
    return str(int(FIRST) + number)


def owner(number: int) -> BotKey:
    return BotKey(f"owner-{number}", "bot")


async def pair_one(folder: Path, whatsapp: StandIn) -> Path:
    """The key file of an account that was paired."""
    driver = NeonizeDriver(
        whatsapp.proxy_url, worker_command=whatsapp.worker_command, environment={**os.environ, **whatsapp.environment}
    )
    reports = ReportRecorder()
    store = folder / "first.db"
    await driver.start(d.SessionSpec("first", store, None), reports)
    await whatsapp.scan((await reports.next(d.QrShown)).qr, FIRST, "Person")
    await reports.next(d.Online)
    await driver.close()
    return store


def copy_account(source: Path, target: Path, phone: str) -> None:
    """The same keys under another number: every text in the file that holds the number gets the other one."""
    with contextlib.closing(sqlite3.connect(source)) as one, contextlib.closing(sqlite3.connect(target)) as other:
        one.backup(other)  # what is in the log beside it included
    with contextlib.closing(sqlite3.connect(target)) as db, db:
        db.execute("PRAGMA foreign_keys = off")
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})").fetchall():
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    db.execute(
                        f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?",  # noqa: S608
                        (FIRST, phone, f"%{FIRST}%"),
                    )
    target.chmod(0o600)


async def prepare(folder: Path, source: Path, whatsapp: StandIn, count: int) -> None:
    """A data folder with so many linked accounts, and their phones. The first was connected last."""
    store = LinkStore(folder)
    await store.open()
    now, first = time.time(), whatsapp.accounts[FIRST]
    for number in range(count):
        phone, link_id = phone_of(number), f"link{number:08}"
        await asyncio.to_thread(copy_account, source, folder / "sessions" / store_name(link_id), phone)
        record = LinkRecord(owner(number), link_id, LinkState.CONNECTED, now - number, now - number, f"+{phone}")
        await store.save(_paired(record))
        if number:
            whatsapp.accounts[phone] = Account(
                phone, "Person", key=first.key, device=first.device, device_key=first.device_key
            )
    await store.close()


def _paired(record: LinkRecord) -> LinkRecord:
    return LinkRecord(
        record.key,
        record.link_id,
        record.state,
        record.since,
        record.started_at,
        record.phone_number,
        "Person",
        paired=True,
        connected_before=True,
    )
