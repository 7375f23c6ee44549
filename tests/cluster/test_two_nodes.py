"""Two nodes on one store, from outside: commands and views are the same on both, and one takes over from the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.outbox.postgres.helpers import value
from tests.support.program import Api, Program, api, running

FAST: dict[str, Any] = {"lease": 2, "simulated_speed": 20}


class Node:
    """A running program, and its API as one user."""

    def __init__(self, program: Program, user: Api) -> None:
        self.program = program
        self.user = user


@asynccontextmanager
async def nodes(folder: Path, database: str, *names: str, **settings: Any) -> AsyncIterator[list[Node]]:
    """Programs on one store, each with a disk of its own."""
    async with AsyncExitStack() as stack:

        async def node(name: str) -> Node:
            own = {**FAST, **settings, "store": database, "node_id": name}
            program = await stack.enter_async_context(running(folder / name, **own))
            return Node(program, await stack.enter_async_context(api(program)))

        yield [await node(name) for name in names]


async def owner(database: str, bot: str = "bot") -> str | None:
    name: str | None = await value(database, "SELECT owner FROM links WHERE bot_id = $1", bot)
    return name


async def test_commands_and_views_are_the_same_on_both(tmp_path: Path, database: str) -> None:
    async with nodes(tmp_path, database, "a", "b") as (a, b):
        await a.user.link()
        shown = await b.user.state("qr")
        assert shown == await a.user.snapshot()
        assert shown["qr"]
        again = await b.user.link()  # asked of a, which has it
        assert again == {"linkId": shown["linkId"], "state": "qr"}
        assert (await b.user.simulate("scan"))["state"] in ("paired", "connected")
        assert await b.user.state("connected") == await a.user.state("connected")
        assert await value(database, "SELECT count(*) FROM links WHERE code IS NOT NULL") == 0
        for node in (a, b):
            _, bots = await node.user.call("GET", "/api/bots")
            assert [(bot["botId"], bot["state"]) for bot in bots["bots"]] == [("bot", "connected")]
        status, problem = await b.user.call("POST", "/api/bots/bot/link/simulate", {"action": "scan"})
        assert (status, problem["code"]) == (409, "action_impossible")
        status, problem = await b.user.call("PUT", "/api/bots/bot/link", {"phoneNumber": "+4915112345678"})
        assert (status, problem["code"]) == (409, "another_number_linked")
        assert await owner(database) == "a"
        status, ended = await b.user.call("DELETE", "/api/bots/bot/link")
        assert (status, ended["state"]) == (200, "logged_out")
        assert await b.user.snapshot() == await a.user.snapshot()
        assert await value(database, "SELECT count(*) FROM commands") == 0
        metrics = [await node.user.metrics() for node in (a, b)]
        assert [one["roundtrip_nodes"] for one in metrics] == [2, 2]
        states = [one['roundtrip_links{state="logged_out"}'] for one in metrics]
        assert states == [1, 0]  # their sum counts the link once


async def test_a_dead_nodes_links_are_taken_over_without_a_scan(tmp_path: Path, database: str) -> None:
    async with nodes(tmp_path, database, "a", "b", simulated_scan_after=0.1) as (a, b):
        for number in range(6):
            await a.user.link(f"bot{number}")
        before = [await a.user.state("connected", f"bot{number}") for number in range(6)]
        assert await owner(database, "bot0") == "a"
        a.program.kill()
        await a.program.ended()
        async with asyncio.timeout(12):
            while await value(database, "SELECT count(*) FROM links WHERE owner = 'b' AND restoring IS NULL") < 6:
                await asyncio.sleep(0.05)
        for number, link in enumerate(before):
            after = await b.user.state("connected", f"bot{number}")
            assert (after["linkId"], after["phoneNumber"]) == (link["linkId"], link["phoneNumber"])
            kinds = [event["type"] for event in await b.user.ledger(f"bot{number}")]
            assert kinds.count("whatsapp_qr") == 1
            assert kinds[-1] == "whatsapp_connected"
        metrics = await b.user.metrics()
        assert metrics['roundtrip_link_takeovers_total{reason="node_lost"}'] == 6
        assert metrics["roundtrip_nodes"] == 1


@pytest.mark.parametrize("bots", [1, 4])
async def test_two_starts_at_once_on_two_nodes_are_one_link(tmp_path: Path, database: str, bots: int) -> None:
    async with nodes(tmp_path, database, "a", "b") as (a, b):
        for bot in (f"bot{number}" for number in range(bots)):
            answers = await asyncio.gather(*(node.user.call("PUT", f"/api/bots/{bot}/link") for node in (a, b, a, b)))
            assert {status for status, _ in answers} == {202}
            assert len({answer["linkId"] for _, answer in answers}) == 1
            kinds = [event["type"] for event in await a.user.ledger(bot)]
            assert kinds.count("whatsapp_connecting") == 1
