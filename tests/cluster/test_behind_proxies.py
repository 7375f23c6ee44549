"""Three nodes behind a real HAProxy and a real nginx, with the configurations of deploy/proxy and stock clients."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
import socketio

from tests.support.cluster import Node, cluster
from tests.support.node_client import node_client
from tests.support.postgres import Postgres
from tests.support.program import Api
from tests.support.proxies import proxy
from tests.support.py_client import PyClient, py_client
from tests.support.swarm import swarm

pytestmark = [pytest.mark.slow, pytest.mark.waits(40), pytest.mark.timeout(240)]

SETTINGS: Final[dict[str, Any]] = {"lease": 4, "simulated_speed": 10, "simulated_scan_after": 0.1, "ack_timeout": 2}
NAMES: Final = ("one", "two", "three")


class Behind:
    """What is called through a proxy."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.admin_url = ""


async def _has(client: PyClient, wanted: list[str]) -> None:
    await client.until(lambda: set(wanted) <= {event["id"] for event in client.events}, within=30)


@asynccontextmanager
async def three(folder: Path, postgres: Postgres) -> AsyncIterator[list[Node]]:
    async with cluster(folder, postgres.port, postgres.new_database(), *NAMES, **SETTINGS) as nodes:
        yield nodes


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_websockets_are_spread_and_polling_stays(tmp_path: Path, postgres: Postgres, kind: str) -> None:
    """One account is linked and told to a client of each kind, whichever nodes they are on."""
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(three(tmp_path, postgres))
        url = await stack.enter_async_context(proxy(kind, tmp_path, nodes))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        websockets = [await stack.enter_async_context(py_client(url)) for _ in range(6)]
        on = Counter([(await client.io.call("node", timeout=5))["node"] for client in websockets])
        assert set(on) == set(NAMES), on
        polling = await stack.enter_async_context(py_client(url, transports=["polling"]))
        upgrading = await stack.enter_async_context(node_client(url, {"userId": "user", "botId": "bot", "acks": True}))
        await upgrading.heard("upgrade", within=30)
        await upgrading.heard("status", within=30)  # before that, what others have confirmed is in its snapshot only
        user = Api(Behind(url), session, "user")
        await user.link()
        await user.state("connected", within=30)
        wanted = [event["id"] for event in await user.ledger() if event["type"] != "whatsapp_qr"]
        await asyncio.gather(*(_has(client, wanted) for client in (*websockets, polling)))
        await upgrading.wait(lambda client: set(wanted) <= {event["id"] for event in client.events}, within=30)


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_without_stickiness_websockets_work_and_polling_does_not(
    tmp_path: Path, postgres: Postgres, kind: str
) -> None:
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(three(tmp_path, postgres))
        url = await stack.enter_async_context(proxy(kind, tmp_path, nodes, sticky=False))
        for _ in range(3):
            await stack.enter_async_context(py_client(url))
        with pytest.raises(socketio.exceptions.ConnectionError):  # its second request finds no session
            async with py_client(url, transports=["polling"]):
                pass


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_a_rolling_restart_loses_nothing(tmp_path: Path, postgres: Postgres, kind: str) -> None:
    people = 20
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(three(tmp_path, postgres))
        url = await stack.enter_async_context(proxy(kind, tmp_path, nodes))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        clients = await stack.enter_async_context(swarm(url, people))
        await clients.connected()
        users = [Api(Behind(url), session, f"user-{number}") for number in range(people)]
        await asyncio.gather(*(user.link() for user in users))
        await asyncio.gather(*(user.state("connected", within=60) for user in users))
        refused: Counter[int] = Counter()

        async def use() -> None:
            while True:
                for user in users:
                    for action in ("disconnect", "reconnect"):
                        try:
                            status, _ = await user.call("POST", "/api/bots/bot/link/simulate", {"action": action})
                        except (aiohttp.ClientError, ValueError):  # a proxy's own answer is no JSON
                            status = 0
                        refused[status] += 1
                        await asyncio.sleep(0.02)

        using = asyncio.create_task(use())
        for node in nodes:
            assert await node.stop(60) == 0
            await node.start()
            await asyncio.sleep(1.5)  # until the proxy has seen that it is back
        using.cancel()
        await asyncio.wait((using,))
        await clients.connected()
        assert refused[200] > people, refused
        for user in users:
            await user.call("POST", "/api/bots/bot/link/simulate", {"action": "reconnect"})
        await asyncio.gather(*(user.state("connected", within=60) for user in users))
        db = await asyncpg.connect(f"postgresql://roundtrip@127.0.0.1:{postgres.port}/{nodes[0].database}")
        try:
            async with asyncio.timeout(60):
                while await db.fetchval("SELECT count(*) FROM events WHERE outcome = 0"):
                    await asyncio.sleep(0.1)
        finally:
            await db.close()
        report = await clients.report()
        for number, (user, client) in enumerate(zip(users, report, strict=True)):
            told = [event["id"] for event in await user.ledger() if event["outcome"] != "superseded"]
            assert set(told) <= set(client["ids"]), f"user-{number}"
            assert (client["disorder"], client["changed"]) == (0, 0), f"user-{number}"
