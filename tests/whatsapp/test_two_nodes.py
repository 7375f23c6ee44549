"""Two nodes on one store with the real neonize: an account goes from one to the other, and nobody scans again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.node_client import node_client
from tests.support.postgres import value
from tests.support.program import Program, api, running
from tests.whatsapp.stand_in import StandIn, stand_in

pytestmark = pytest.mark.slow

PHONE = "447441395830"
LEASE = 6
KEY = {"userId": "user", "botId": "bot"}


@asynccontextmanager
async def node(folder: Path, name: str, database: str, whatsapp: StandIn) -> AsyncIterator[Program]:
    async with running(
        folder / name,
        command=whatsapp.backend_command,
        whatsapp_driver="neonize",
        whatsapp_proxy=whatsapp.proxy_url,
        store=database,
        node_id=name,
        lease=LEASE,
    ) as program:
        yield program


async def test_killed_where_it_was_paired_and_connected_on_the_other(tmp_path: Path, database: str) -> None:
    async with (
        stand_in() as whatsapp,
        node(tmp_path, "a", database, whatsapp) as a,
        node(tmp_path, "b", database, whatsapp) as b,
        api(a) as on_a,
        api(b) as on_b,
    ):
        await on_a.link()
        await whatsapp.scan((await on_b.state("qr", within=60))["qr"], PHONE)  # the code, read on the other node
        before = await on_b.state("connected", within=60)
        async with node_client(b.url, KEY) as page:
            await page.heard("connect")
            await page.event("whatsapp_connected")
            told = len(page.events)
            a.kill()
            killed = time.monotonic()
            await a.ended()
            await page.wait(
                lambda page: any(event["type"] == "whatsapp_connected" for event in page.events[told:]), LEASE + 10
            )
            assert time.monotonic() - killed < LEASE + 10
            assert not {event["type"] for event in page.events[told:]} & {"whatsapp_qr", "whatsapp_paired"}
            seqs = [event["seq"] for event in page.events]
            assert seqs == sorted(seqs)
        after = await on_b.state("connected")
        assert (after["linkId"], after["phoneNumber"]) == (before["linkId"], before["phoneNumber"])
        assert whatsapp.accounts[PHONE].replaced == 0
        assert len(whatsapp.registrations) == 1


async def test_a_paused_node_and_its_workers_never_disturb_the_next_owner(tmp_path: Path, database: str) -> None:
    async with (
        stand_in() as whatsapp,
        node(tmp_path, "a", database, whatsapp) as a,
        node(tmp_path, "b", database, whatsapp) as b,
        api(a) as on_a,
        api(b) as on_b,
    ):
        await on_a.link()
        await whatsapp.scan((await on_a.state("qr", within=60))["qr"], PHONE)
        await on_a.state("connected", within=60)
        account = whatsapp.accounts[PHONE]
        logins = account.logins
        paused = [a.pid, *(child.pid for child in psutil.Process(a.pid).children(recursive=True))]
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                while account.logins == logins or (await on_b.snapshot())["state"] != "connected":
                    await asyncio.sleep(0.05)
            assert await value(database, "SELECT owner FROM links") == "b"
            taken = account.replaced  # the paused one's connection stood still
            events = await on_b.ledger()
        finally:
            for pid in reversed(paused):
                os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            while "links_start_over" not in a.text():
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert await on_b.ledger() == events
        assert (await on_a.snapshot()) == (await on_b.snapshot())
        assert (account.logins, account.replaced) == (logins + 1, taken)  # the next owner's alone
        assert taken <= 1
