"""A suspended program (SIGSTOP): deadlines that passed meanwhile are judged only after what waits was read."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.acceptance.test_crash import publish
from tests.support.node_client import NodeClient, node_client
from tests.support.program import Program, api, running
from tests.support.publishing import COMMAND
from tests.support.raw_client import RawClient, raw_client

INTERVAL = 1.0
TIMEOUT = 1.0
SUSPENDED = 5.0
"""Seconds: longer than interval and timeout together, twice over. 60 at default settings."""


async def suspend(program: Program, seconds: float) -> None:
    program.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        program.process.send_signal(signal.SIGCONT)


async def ready(client: RawClient, user: str) -> None:
    assert (await client.join(userId=user, botId="bot")).startswith("40")


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.parametrize("transport", ["websocket", "polling", "upgrade"])
@pytest.mark.parametrize("waiting", ["its PONG waits", "nothing waits"])
async def test_living_clients_stay_connected_through_a_suspend(tmp_path: Path, transport: str, waiting: str) -> None:
    """The client hears a PING and answers while the program sleeps; or answered before, and is asked afterwards."""
    async with (
        running(tmp_path, command=COMMAND, ping_interval=INTERVAL, ping_timeout=TIMEOUT) as program,
        api(program) as admin,
        raw_client(program.url, "polling" if transport == "upgrade" else transport) as client,
    ):
        await ready(client, "user")
        if transport == "upgrade":
            await client.upgrade()
        pongs = sum(packet.text == "3" for packet in client.sent)
        await client.until(lambda: client.closed or sum(packet.text == "3" for packet in client.sent) > pongs)
        if waiting == "its PONG waits":
            client.answering = False
            pings = sum(packet.text == "2" for packet in client.heard)
            await client.until(lambda: client.closed or sum(packet.text == "2" for packet in client.heard) > pings)
            stopped = asyncio.ensure_future(suspend(program, SUSPENDED))
            await asyncio.sleep(0.1)
            client.answering = True
            answer = asyncio.ensure_future(client.send("3"))  # a POST is answered after the sleep
            await asyncio.gather(stopped, answer)
        else:
            await asyncio.sleep(0.2)  # the PONG has been read
            await suspend(program, SUSPENDED)
        before = len(client.heard)
        await client.until(
            lambda: client.closed or sum(packet.text == "2" for packet in client.heard[before:]) >= 3, within=8
        )
        assert client.closed is None
        [[_, _, event_id]] = await publish(program, ["user"])
        await client.until(lambda: [payload["id"] for _, _, payload in client.events()] == [event_id])
        assert (await admin.admin("/debug/sockets"))["totals"]["sockets"] == 1


@pytest.mark.slow
@pytest.mark.waits
async def test_a_client_that_died_while_the_program_slept_is_still_closed(tmp_path: Path) -> None:
    async with (
        running(tmp_path, command=COMMAND, ping_interval=INTERVAL, ping_timeout=TIMEOUT) as program,
        api(program) as admin,
        raw_client(program.url, "websocket") as client,
        raw_client(program.url, "polling") as other,
    ):
        await ready(client, "user")
        await ready(other, "other")
        client.answering = other.answering = other.reading = False
        await suspend(program, SUSPENDED)
        async with asyncio.timeout(INTERVAL + TIMEOUT + 3):
            while (await admin.admin("/debug/sockets"))["totals"]["sockets"]:
                await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.waits
async def test_stock_clients_that_gave_up_meanwhile_are_back_at_once_and_miss_nothing(tmp_path: Path) -> None:
    """A stock client ends the connection itself when it hears no PING for interval and timeout together."""
    async with (
        running(tmp_path, command=COMMAND, ping_interval=INTERVAL, ping_timeout=TIMEOUT) as program,
        AsyncExitStack() as stack,
    ):
        clients: dict[str, NodeClient] = {}
        for transport in ("websocket", "polling"):
            auth = {"userId": transport, "botId": "bot", "acks": True}
            client = await stack.enter_async_context(node_client(program.url, auth, transports=[transport]))
            await client.heard("status")
            clients[transport] = client
        told = await publish(program, list(clients))
        await suspend(program, SUSPENDED)
        told += await publish(program, list(clients))
        for user, _, event_id in told:
            await clients[user].wait(
                lambda c, event_id=event_id: event_id in {e["id"] for e in c.events},  # type: ignore[misc]  # bound now
                within=10,
            )
        async with api(program) as admin, asyncio.timeout(10):
            while (await admin.admin("/debug/sockets"))["totals"]["sockets"] != len(clients):
                await asyncio.sleep(0.05)
