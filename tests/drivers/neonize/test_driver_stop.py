"""The real neonize against the stand-in: stop and logout."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import driver_session
from tests.drivers.neonize.helpers import PHONE, Bench, gone
from tests.support.reports import ReportRecorder
from tests.whatsapp.troubles import Stage


async def test_logging_out_removes_the_device_and_the_store(bench: Bench) -> None:
    session, reports, account = await bench.linked()
    store = bench.spec().store
    parts = [store, store.with_name(f"{store.name}-wal")]
    assert [part.stat().st_mode & 0o777 for part in parts] == [0o600] * 2, "its log has what the file has"
    assert store.parent.stat().st_mode & 0o777 == 0o700
    await session.logout()
    assert account.device_key == b"", "WhatsApp removed it"
    assert list(store.parent.iterdir()) == []
    assert reports.names[-1] == "Online", "reports stop with the session"
    await gone(session.pid)


async def test_logging_out_before_anybody_scanned(bench: Bench) -> None:
    reports = ReportRecorder()
    session = await bench.driver.start(bench.spec(), reports)
    await reports.next(d.QrShown)
    await asyncio.wait_for(session.logout(), 5)
    assert list(bench.spec().store.parent.iterdir()) == []


async def test_stopping_keeps_the_keys(bench: Bench) -> None:
    session, reports, account = await bench.linked()
    started = time.monotonic()
    await session.stop()
    assert time.monotonic() - started < driver_session.STOP_TIMEOUT
    assert account.device_key
    with sqlite3.connect(bench.spec().store) as db:
        assert db.execute("SELECT count(*) FROM whatsmeow_device").fetchone() == (1,)
    db.close()
    assert reports.names[-1] == "Online"
    await session.stop()  # and once more does no harm
    assert await session.alive() is None


async def test_a_folder_whose_name_means_something_in_a_uri(bench: Bench) -> None:
    bench.folder = bench.folder / "what?mode=memory&x=%41#y"
    session, _, _ = await bench.linked()
    assert bench.spec().store.is_file()
    await session.logout()
    assert list(bench.spec().store.parent.iterdir()) == []


async def test_stopping_before_anybody_scanned(bench: Bench) -> None:
    reports = ReportRecorder()
    session = await bench.driver.start(bench.spec(), reports)
    await reports.next(d.QrShown)
    await asyncio.wait_for(session.stop(), driver_session.STOP_TIMEOUT)
    assert reports.names == ["QrShown"]


@pytest.mark.parametrize("late", ["before", "meanwhile", "after"])
async def test_a_start_beside_the_end_leaves_no_worker_behind(bench: Bench, late: str) -> None:
    reports = ReportRecorder()
    if late == "before":
        await bench.driver.start(bench.spec("earlier"), ReportRecorder())
    if late == "after":
        await bench.driver.close()
    starting = asyncio.ensure_future(bench.driver.start(bench.spec(), reports))
    if late != "after":
        await asyncio.sleep(0)  # it looks for the account's keys, in a thread
        await bench.driver.close()
    session = await asyncio.wait_for(starting, 20)
    assert bench.driver.workers() == []
    assert reports.all == []
    assert await session.alive() is not True
    await session.stop()


async def test_stopping_one_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roundtrip.drivers.neonize.driver_session.STOP_TIMEOUT", 0.3)
    monkeypatch.setattr("roundtrip.drivers.neonize.driver_session.ALIVE_TIMEOUT", 0.3)
    session, reports, _ = await bench.linked()
    os.kill(session.pid, signal.SIGSTOP)
    assert await session.alive() is None
    await asyncio.wait_for(session.stop(), 10)
    await gone(session.pid)
    assert reports.names[-1] == "Online"


async def test_a_logout_that_cannot_reach_whatsapp_keeps_the_keys(bench: Bench) -> None:
    session, reports, account = await bench.linked()
    bench.whatsapp.fail(Stage.TCP)
    bench.whatsapp.drop(PHONE)
    await reports.next(d.Offline)
    started = time.monotonic()
    with pytest.raises(d.DeviceNotRemovedError):
        await session.logout()
    assert time.monotonic() - started < 2 * driver_session.LOGOUT_TIMEOUT
    assert bench.spec().store.is_file()
    assert account.device_key
    bench.whatsapp.recover()
    again = ReportRecorder()
    later = await bench.driver.start(bench.spec(), again)
    await later.logout()  # at once: it waits for the connection
    assert account.device_key == b""
    assert list(bench.spec().store.parent.iterdir()) == []


async def test_a_logout_that_whatsapp_refuses_keeps_the_keys(bench: Bench) -> None:
    session, _, account = await bench.linked()
    bench.whatsapp.unwell(PHONE, "md", error="500")
    with pytest.raises(d.DeviceNotRemovedError):
        await session.logout()
    assert account.device_key
    assert bench.spec().store.is_file()
    await gone(session.pid)


async def test_a_logout_with_no_answer_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_session, "LOGOUT_TIMEOUT", 3.0)
    session, _, _ = await bench.linked()
    bench.whatsapp.unwell(PHONE, "md", delay=60)
    started = time.monotonic()
    with pytest.raises(d.DeviceNotRemovedError):
        await session.logout()
    assert time.monotonic() - started < 30
    assert bench.spec().store.is_file()


async def test_a_logout_of_a_session_whose_worker_died_waits_for_the_next_one(bench: Bench) -> None:
    session, reports, account = await bench.linked()
    os.kill(session.pid, signal.SIGKILL)
    await reports.next(d.Offline)
    await session.logout()
    assert account.device_key == b""
    assert list(bench.spec().store.parent.iterdir()) == []


async def test_a_logout_while_the_phone_removes_the_device(bench: Bench) -> None:
    session, _, _ = await bench.linked()
    bench.whatsapp.unwell(PHONE, "md", delay=60)
    logout = asyncio.create_task(session.logout())
    await asyncio.sleep(0.2)
    bench.whatsapp.logout_from_phone(PHONE)
    await logout
    assert list(bench.spec().store.parent.iterdir()) == []
