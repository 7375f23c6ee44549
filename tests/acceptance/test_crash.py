"""kill -9 at any moment: whatever somebody was told is stored arrives, in order, and the ledger balances."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.node_client import node_client
from tests.support.ports import free_port
from tests.support.program import Program, api, running
from tests.support.publishing import COMMAND
from tests.support.swarm import swarm

ROUNDS = int(os.environ.get("ROUNDTRIP_SOAK_ROUNDS", "20"))
CLIENTS = 50


async def publish(program: Program, users: list[str], count: int = 1, **more: Any) -> list[list[Any]]:
    """What was acknowledged as stored: [user, seq, id]."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{program.admin_url}/test/publish", json={"users": users, "count": count, **more}) as response,
    ):
        response.raise_for_status()
        stored: list[list[Any]] = await response.json()
        return stored


async def live(program: Program, count: int = 1) -> None:
    """Wait until the replays of so many sockets are over: what is published before may reach them as replayed, for a
    replay's first page is read behind the snapshot."""
    async with api(program) as admin, asyncio.timeout(10):
        while True:
            keys = (await admin.admin("/debug/sockets"))["keys"]
            if sum(socket["live"] for key in keys for socket in key["sockets"]) == count:
                return
            await asyncio.sleep(0.01)


def balance(metrics: dict[str, float]) -> tuple[float, float, float]:
    """Created, resolved, pending: over all types."""

    def total(name: str) -> float:
        return sum(value for sample, value in metrics.items() if sample.startswith(name + "{"))

    return (
        total("roundtrip_events_created_total"),
        total("roundtrip_events_resolved_total"),
        total("roundtrip_events_pending"),
    )


@pytest.mark.slow
@pytest.mark.timeout(300 + 10 * ROUNDS)
async def test_a_stream_of_events_survives_kills_at_random_moments(tmp_path: Path) -> None:
    seed = int(os.environ.get("ROUNDTRIP_SOAK_SEED", random.randrange(10**6)))  # noqa: S311  # not a secret
    chance = random.Random(seed)  # noqa: S311  # not a secret
    port = free_port()
    told: dict[str, list[str]] = {f"user-{number}": [] for number in range(CLIENTS)}
    async with swarm(f"http://127.0.0.1:{port}", CLIENTS) as clients:
        for _ in range(ROUNDS):
            async with running(tmp_path, command=COMMAND, port=port, ready=True) as program:
                stream = asyncio.ensure_future(_stream(program, told, chance))
                await asyncio.sleep(chance.uniform(0.05, 0.8))
                program.kill()
                await program.ended()
                stream.cancel()
                await asyncio.gather(stream, return_exceptions=True)
        async with running(tmp_path, command=COMMAND, port=port) as program, api(program) as admin:
            report = await clients.until(
                lambda report: all(
                    set(told[f"user-{number}"]) <= set(client["ids"]) for number, client in enumerate(report)
                )
            )
            async with asyncio.timeout(15):
                while balance(await admin.metrics())[2]:
                    await asyncio.sleep(0.05)
            created, resolved, pending = balance(await admin.metrics())
            report = await clients.report()
    stored = sum(map(len, told.values()))
    received = sum(len(client["ids"]) for client in report)
    print(
        f"seed {seed}: {ROUNDS} kills, {stored} events told as stored, {created:.0f} created, {received} received, "
        f"{sum(client['duplicates'] for client in report)} duplicates, {sum(c['connects'] for c in report)} connects"
    )
    assert stored > ROUNDS * 5
    assert created == resolved + pending
    assert received == created, "also what nobody was told of arrives"
    assert sum(client["disorder"] for client in report) == 0
    assert sum(client["changed"] for client in report) == 0, "a seq came with two ids"


async def _stream(program: Program, told: dict[str, list[str]], chance: random.Random) -> None:
    users = list(told)
    while True:
        for user, _, event_id in await publish(program, chance.sample(users, 10)):
            told[user].append(event_id)


async def test_an_event_that_was_committed_but_not_emitted_arrives_after_the_crash(tmp_path: Path) -> None:
    """Nobody was there when it was stored: the kill falls between its commit and any emit."""
    async with running(tmp_path, command=COMMAND) as program:
        [[_, seq, event_id]] = await publish(program, ["user"])
        program.kill()
        await program.ended()
    async with (
        running(tmp_path, command=COMMAND) as program,
        node_client(program.url, {"userId": "user", "botId": "bot"}) as client,
    ):
        event = await client.event("whatsapp_connected")
        assert (event["id"], event["seq"], event["replayed"]) == (event_id, seq, True)


async def test_an_event_that_was_emitted_but_not_acknowledged_arrives_again_with_its_id(tmp_path: Path) -> None:
    port = free_port()
    auth = {"userId": "user", "botId": "bot", "acks": True}
    async with node_client(f"http://127.0.0.1:{port}", auth, ack="manual") as client:
        async with running(tmp_path, command=COMMAND, port=port) as program:
            await client.heard("status")
            await live(program)
            [[_, _, event_id]] = await publish(program, ["user"])
            await client.heard("event")
            program.kill()
            await program.ended()
        async with running(tmp_path, command=COMMAND, port=port) as program, api(program) as user:
            events = await client.heard("event", 2)
            assert [line["payload"]["id"] for line in events] == [event_id, event_id]
            assert [line["payload"]["replayed"] for line in events] == [False, True]
            await client.do(do="ack", id=event_id)
            async with asyncio.timeout(5):
                while (await user.ledger())[0]["outcome"] != "acked":
                    await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_500_clients_miss_nothing_when_the_program_restarts_in_a_stream(tmp_path: Path) -> None:
    port = free_port()
    users = [f"user-{number}" for number in range(500)]
    async with swarm(f"http://127.0.0.1:{port}", 500) as clients:
        async with running(tmp_path, command=COMMAND, port=port) as program:
            await clients.connected()
            for _ in range(4):
                await publish(program, users)
            program.terminate()
            stored = 4
            try:
                while True:
                    await publish(program, users)
                    stored += 1
            except aiohttp.ClientError:
                pass
            assert await program.ended() == 0
        async with running(tmp_path, command=COMMAND, port=port) as program:
            await clients.connected()
            await publish(program, users)
            report = await clients.until(lambda report: all(len(client["ids"]) >= stored + 1 for client in report))
        print(f"{stored + 1} events to each of 500 clients, {sum(c['duplicates'] for c in report)} duplicates")
        assert sum(client["disorder"] for client in report) == 0
