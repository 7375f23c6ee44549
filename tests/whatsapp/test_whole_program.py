"""The whole program with the real neonize, from the request to a stock JavaScript client in Node."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.node_client import NodeClient, node_client
from tests.support.program import Api, Program, api, running
from tests.whatsapp.stand_in import StandIn, stand_in

PHONE = "447441395830"
NUMBER = f"+{PHONE}"
NAME = "Ada Lovelace"


@asynccontextmanager
async def backend(folder: Path, whatsapp: StandIn) -> AsyncIterator[Program]:
    command = whatsapp.backend_command
    async with running(
        folder, command=command, whatsapp_driver="neonize", whatsapp_proxy=whatsapp.proxy_url
    ) as program:
        yield program


async def link(api: Api, client: NodeClient, whatsapp: StandIn) -> None:
    await api.link()
    code = await client.event("whatsapp_qr", within=20)
    await whatsapp.scan(code["qr"], PHONE, NAME)
    await client.event("whatsapp_connected", within=20)


async def worker_of(program: Program) -> psutil.Process:
    """The one worker that runs."""
    async with asyncio.timeout(10):
        while len(children := psutil.Process(program.pid).children()) != 1:
            await asyncio.sleep(0.02)
    return children[0]


async def test_from_qr_to_connected_then_a_drop_then_a_logout_on_the_phone(tmp_path: Path) -> None:
    async with (
        stand_in() as whatsapp,
        backend(tmp_path, whatsapp) as program,
        api(program) as calls,
        node_client(program.url, {"userId": "user", "botId": "bot"}) as client,
    ):
        await client.heard("connect")
        await link(calls, client, whatsapp)
        connected = await client.event("whatsapp_connected")
        assert (connected["phoneNumber"], connected["displayName"], connected["first"]) == (NUMBER, NAME, True)
        assert (await client.event("whatsapp_paired"))["phoneNumber"] == NUMBER
        assert (await calls.state("connected"))["displayName"] == NAME

        logins = whatsapp.accounts[PHONE].logins
        whatsapp.drop(PHONE)
        async with asyncio.timeout(10):
            while whatsapp.accounts[PHONE].logins == logins:
                await asyncio.sleep(0.02)
        await calls.state("connected")

        whatsapp.logout_from_phone(PHONE)
        out = await client.event("whatsapp_logged_out", within=15)
        assert out["reasonCode"] == "device_removed"
        assert [event["seq"] for event in client.events] == sorted(event["seq"] for event in client.events)
    log = program.text()
    for secret in (PHONE, NAME, "2@"):
        assert secret not in log


@pytest.mark.slow
async def test_a_worker_that_is_killed_comes_back_by_itself(tmp_path: Path) -> None:
    async with (
        stand_in() as whatsapp,
        backend(tmp_path, whatsapp) as program,
        api(program) as calls,
        node_client(program.url, {"userId": "user", "botId": "bot"}) as client,
    ):
        await client.heard("connect")
        await link(calls, client, whatsapp)
        first = await worker_of(program)
        logins = whatsapp.accounts[PHONE].logins  # two, where the first worker was quicker than the move out of it
        os.kill(first.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while whatsapp.accounts[PHONE].logins == logins:
                await asyncio.sleep(0.02)
        await calls.state("connected", within=20)
        assert (await worker_of(program)).pid != first.pid


@pytest.mark.slow
async def test_links_come_back_after_the_program_was_killed(tmp_path: Path) -> None:
    async with stand_in() as whatsapp:
        async with (
            backend(tmp_path, whatsapp) as program,
            api(program) as calls,
            node_client(program.url, {"userId": "user", "botId": "bot"}) as client,
        ):
            await client.heard("connect")
            await link(calls, client, whatsapp)
            worker = await worker_of(program)
            logins = whatsapp.accounts[PHONE].logins
            program.kill()
            await program.ended()
            _gone, alive = psutil.wait_procs([worker], timeout=10)
            assert not alive, "a worker outlived its parent"
        async with backend(tmp_path, whatsapp) as program, api(program) as calls:
            snapshot = await calls.state("connected", within=20)
            assert snapshot["phoneNumber"] == NUMBER
        assert whatsapp.accounts[PHONE].logins == logins + 1


@pytest.mark.slow
async def test_linking_by_a_typed_code(tmp_path: Path) -> None:
    async with (
        stand_in() as whatsapp,
        backend(tmp_path, whatsapp) as program,
        api(program) as calls,
        node_client(program.url, {"userId": "user", "botId": "bot"}) as client,
    ):
        await client.heard("connect")
        await calls.link(phone_number=NUMBER)
        shown = await client.event("whatsapp_pairing_code", within=20)
        whatsapp.enter_code(shown["pairingCode"], PHONE, NAME)
        assert (await client.event("whatsapp_connected", within=20))["phoneNumber"] == NUMBER
