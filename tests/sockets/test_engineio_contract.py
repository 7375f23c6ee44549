"""What the lane leans on in python-engineio and in the stock client. A new version that changes it fails here."""

from __future__ import annotations

import asyncio

import pytest

from backend.delivery.outcome import Outcome
from backend.events import Connected, Degraded
from backend.identity import BotKey
from tests.support.node_client import node_client
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
AUTH = {"userId": "user", "botId": "bot"}


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]])
async def test_a_client_that_never_acks_confirms_by_receipt(transports: list[str]) -> None:
    async with stage() as s, node_client(s.url, AUTH, ack="no", transports=transports) as client:
        await client.heard("status")
        for _ in range(20):
            await s.courier.publish(KEY, "link", Degraded())
        await client.heard("event", 20)
        async with asyncio.timeout(5):
            while len(s.notes.settled_) < 20:
                await asyncio.sleep(0.01)
        assert {d.outcome for d in s.notes.settled_} == {Outcome.RECEIVED}
        assert [event["seq"] for event in client.events] == list(range(1, 21))
        assert not s.notes.missed_


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]])
async def test_acks_come_back_on_every_transport(transports: list[str]) -> None:
    async with stage() as s, node_client(s.url, AUTH | {"acks": True}, transports=transports) as client:
        await client.heard("status")
        for _ in range(20):
            await s.courier.publish(KEY, "link", Degraded())
        async with asyncio.timeout(5):
            while len(s.notes.settled_) < 20:
                await asyncio.sleep(0.01)
        assert {d.outcome for d in s.notes.settled_} == {Outcome.ACKED}
        assert [event["seq"] for event in client.events] == list(range(1, 21))


async def test_events_in_a_stream_survive_the_upgrade_in_order() -> None:
    async with stage() as s:
        for _ in range(100):
            await s.courier.publish(KEY, "link", Connected("+15550100", "Ada", False))
        async with node_client(s.url, AUTH | {"acks": True}) as client:
            for _ in range(300):
                await s.courier.publish(KEY, "link", Connected("+15550100", "Ada", False))
                await asyncio.sleep(0.002)
            await client.heard("event", 400)
            await client.heard("upgrade")
            assert [event["seq"] for event in client.events] == list(range(1, 401))
            assert [event["replayed"] for event in client.events][:100] == [True] * 100
            async with asyncio.timeout(5):
                while len(s.notes.settled_) < 400:
                    await asyncio.sleep(0.01)
