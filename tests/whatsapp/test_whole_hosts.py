"""The whole program with accounts that share a host, and the real library: it is killed, and takes all of them up."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from roundtrip.drivers.neonize.key_lock import KeyLock
from roundtrip.links.record import store_name
from tests.support.node_client import node_client
from tests.support.program import Api, Program, api, running
from tests.whatsapp.copies import copy_account, owner, pair_one, phone_of, prepare
from tests.whatsapp.hosts import LOAD, until
from tests.whatsapp.stand_in import StandIn, stand_in

pytestmark = pytest.mark.slow

COUNT = 8
WATCHED = 2
HELD = 6.0
"""Seconds that the first login takes: within them the page must be there."""


@asynccontextmanager
async def backend(folder: Path, whatsapp: StandIn, **settings: Any) -> AsyncIterator[Program]:
    async with running(
        folder,
        command=whatsapp.backend_command,
        ready=False,
        whatsapp_driver="neonize",
        whatsapp_proxy=whatsapp.proxy_url,
        sessions_per_worker=COUNT,
        **settings,
    ) as program:
        await until(lambda: program.url)
        yield program


async def all_connected(calls: Api) -> None:
    async with asyncio.timeout(LOAD):
        while (await calls.metrics()).get('roundtrip_links{state="connected"}') != COUNT:
            await asyncio.sleep(0.05)


async def test_a_killed_program_leaves_no_host_and_takes_up_all_accounts_whose_page_is_open_first(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    async with stand_in() as whatsapp:
        source = await pair_one(tmp_path / "first", whatsapp)
        await prepare(data, source, whatsapp, COUNT)
        whatsapp.let_in.clear()
        async with backend(data, whatsapp, restore_concurrency=1) as program, api(program) as calls:
            await all_connected(calls)
            workers = psutil.Process(program.pid).children()
            assert len(workers) == 1, "one host has them all"
            program.kill()
            await program.ended()
            _gone, alive = psutil.wait_procs(workers, timeout=2)
            assert not alive, "a host outlived its parent"
        for number in range(COUNT):
            lock = KeyLock.take(data / "sessions" / store_name(f"link{number:08}"))
            assert lock is not None, "no key file is in use"
            with lock:
                pass
        assert whatsapp.let_in == [phone_of(number) for number in range(COUNT)], "who was connected last comes first"

        whatsapp.let_in.clear()
        newest = COUNT - 1
        whatsapp.unwell(phone_of(newest), "passive", delay=HELD)
        key = owner(WATCHED)
        async with (
            backend(data, whatsapp, restore_concurrency=1) as program,
            node_client(program.url, {"userId": key.user_id, "botId": key.bot_id}) as page,
            api(program) as calls,
        ):
            await page.heard("connect", within=LOAD)
            assert whatsapp.let_in in ([], [phone_of(newest)]), "the page came in time"
            await all_connected(calls)
        rest = [number for number in reversed(range(newest)) if number != WATCHED]
        assert whatsapp.let_in == [phone_of(number) for number in (newest, WATCHED, *rest)]


async def test_a_copied_account_is_another_one(tmp_path: Path) -> None:
    """What the tests with many accounts rest on."""
    async with stand_in() as whatsapp:
        source = await pair_one(tmp_path / "first", whatsapp)
        copy_account(source, tmp_path / "other.db", phone_of(1))
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as db:
        text = "\n".join(db.iterdump())
    assert phone_of(1) in text
    assert phone_of(0) not in text
