"""Two nodes on one store, from outside: commands and views are the same on both, and one takes over from the other."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.nodes import nodes, owner
from tests.support.postgres import value


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
        for action in ("degrade", "restore", "disconnect", "reconnect"):
            on, off = (a, b) if action in ("degrade", "disconnect") else (b, a)
            told = await on.user.simulate(action)
            assert (await off.user.snapshot())["seq"] >= told["seq"]
            assert await off.user.snapshot() == await on.user.snapshot()
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


async def test_starts_at_once_on_two_nodes(tmp_path: Path, database: str) -> None:
    """Of one bot they are one link; of several, no more are linked than one user may have."""
    async with nodes(tmp_path, database, "a", "b", max_links_per_user=4) as (a, b):
        for bot in ("bot0", "bot1", "bot2"):
            answers = await asyncio.gather(*(node.user.call("PUT", f"/api/bots/{bot}/link") for node in (a, b, a, b)))
            assert {status for status, _ in answers} == {202}
            assert len({answer["linkId"] for _, answer in answers}) == 1
            kinds = [event["type"] for event in await a.user.ledger(bot)]
            assert kinds.count("whatsapp_connecting") == 1
        answers = await asyncio.gather(
            *(node.user.call("PUT", f"/api/bots/more{n}/link") for n, node in enumerate((a, b, a, b)))
        )
        assert sorted(status for status, _ in answers) == [202, 429, 429, 429]
        assert {answer["code"] for status, answer in answers if status == 429} == {"too_many_links"}
        assert await value(database, "SELECT count(*) FROM links") == 4  # nothing is left of what was refused


@pytest.mark.slow
@pytest.mark.waits(25)
async def test_a_command_whose_owner_is_silent_is_refused_in_time_and_never_carried_out(
    tmp_path: Path, database: str
) -> None:
    async with nodes(tmp_path, database, "a", "b", lease=60, simulated_scan_after=0.1) as (a, b):
        await a.user.link()
        await a.user.state("connected")
        os.kill(a.program.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            status, problem = await b.user.call("DELETE", "/api/bots/bot/link")
            assert (status, problem["code"]) == (503, "store_unavailable")
            assert time.monotonic() - began < 15
            assert (await b.user.snapshot())["state"] == "connected"  # as far as anybody knows
        finally:
            os.kill(a.program.pid, signal.SIGCONT)
        assert await value(database, "SELECT count(*) FROM commands") == 0
        await a.user.simulate("degrade")
        assert (await b.user.state("degraded"))["linkId"]
        assert (await b.user.call("DELETE", "/api/bots/bot/link"))[0] == 200  # it answers again
        await a.user.state("logged_out")
