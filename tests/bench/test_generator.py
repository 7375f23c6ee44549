"""The load generator: it counts what the server says was acknowledged, and a server that refuses it is an error."""

from __future__ import annotations

import asyncio
import json

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from tests.bench.generator import command
from tests.support.programs import require
from tests.support.sockets import stage

CLIENTS, EVENTS = 20, 30


async def test_it_acknowledges_each_event_and_counts_them() -> None:
    require("cc", "apt-get install gcc libc6-dev")
    async with stage() as s:
        load = await asyncio.create_subprocess_exec(
            *command(s.url, CLIENTS, in_flight=4), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert load.stdout is not None
        assert load.stdin is not None
        try:
            async with asyncio.timeout(20):
                assert json.loads(await load.stdout.readline())["ready"] == CLIENTS
                for number in range(EVENTS):
                    key = BotKey(f"user-{number % CLIENTS}", "bot")
                    await s.courier.publish(key, "link", Connected("+15550100", "Ada", False))
                while len(s.notes.settled_) < EVENTS:
                    await asyncio.sleep(0.01)
                load.stdin.close()
                figures = json.loads(await load.stdout.readline())
        finally:
            if load.returncode is None and load.stdin.is_closing() is False:
                load.kill()
            await load.wait()
    assert {delivery.outcome for delivery in s.notes.settled_} == {Outcome.ACKED}
    assert (figures["events"], figures["closed"]) == (EVENTS, 0)


async def test_a_connection_that_is_refused_ends_it_with_an_error() -> None:
    require("cc", "apt-get install gcc libc6-dev")
    async with stage() as s:
        url = s.url
    load = await asyncio.create_subprocess_exec(
        *command(url, 1), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(load.communicate(), 10)
    assert load.returncode == 1
    assert b"connect" in said


async def test_a_herd_says_when_each_client_has_its_snapshot_and_what_it_missed() -> None:
    require("cc", "apt-get install gcc libc6-dev")
    async with stage() as s:
        for number in range(CLIENTS):
            for _ in range(2):
                await s.courier.publish(BotKey(f"user-{number}", "bot"), "link", Connected("+15550100", "Ada", False))
        load = await asyncio.create_subprocess_exec(
            *command(s.url, CLIENTS, in_flight=CLIENTS, missed=2),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert load.stdout is not None
        try:
            async with asyncio.timeout(20):
                lines = [json.loads(await load.stdout.readline()) for _ in range(2)]
        finally:
            load.kill()
            await load.wait()
    found = next(line for line in lines if "complete" in line)
    assert (found["complete"], found["told"], found["untold"]) == (CLIENTS, 0, 0)
