"""Whatever clients and nodes do, at random: every client sees every event of its key in order at least once, and each
event ends exactly once. Three nodes on one real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from tests.cluster.in_process import Client, Node, nodes
from tests.outbox.contract.base import until
from tests.support.drafts import assert_balanced

STEPS = 120


class Person:
    """A client that reconnects anywhere. Its old socket may stay for a while, and answers no more."""

    def __init__(self, key: BotKey) -> None:
        self.key = key
        self.sockets: list[Client] = []
        self.stored: list[int] = []
        self.owner = 0
        """Which node stores the key's events."""

    def reconnect(self, node: Node, chance: random.Random) -> None:
        for socket in self.sockets:
            socket.acking = False
        if chance.random() < 0.7:
            self.leave()
        self.sockets.append(node.connect(self.key))

    def leave(self) -> None:
        for socket in self.sockets:
            socket.node.leave(socket)

    @property
    def seen(self) -> set[int]:
        return {seq for socket in self.sockets for seq in socket.seqs}


class World:
    """What happens, at random."""

    def __init__(self, all_nodes: list[Node], seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311  # not a secret
        self.nodes = all_nodes
        self.people = [Person(BotKey(f"user{number}", "bot")) for number in range(6)]
        self._storing: set[asyncio.Task[None]] = set()

    async def _publish(self, person: Person) -> None:
        person.stored.append((await self.nodes[person.owner].publish(key=person.key)).seq)

    async def step(self) -> None:
        chance, person = self.chance, self.chance.choice(self.people)
        act = chance.random()
        if act < 0.15:
            person.owner = chance.randrange(len(self.nodes))
        elif act < 0.4:
            person.reconnect(chance.choice(self.nodes), chance)
        elif act < 0.45:
            person.leave()
        else:
            storing = [asyncio.create_task(self._publish(person)) for _ in range(chance.choice([1, 1, 1, 5]))]
            self._storing.update(storing)
            if chance.random() < 0.5:
                await asyncio.gather(*storing)
        await asyncio.sleep(chance.choice([0, 0, 0, 0.001, 0.005, 0.02]))

    async def calm(self) -> None:
        """Everybody is connected once, and has seen everything."""
        for person in self.people:
            person.leave()
            person.reconnect(self.chance.choice(self.nodes), self.chance)
        await asyncio.gather(*self._storing)
        await until(lambda: all(set(person.stored) <= person.seen for person in self.people), within=20)
        await until(self._resolved, within=10)
        await until(lambda: all(node.courier.in_flight() == 0 for node in self.nodes), within=10)

    async def _resolved(self) -> bool:
        for node in self.nodes:
            await node.outbox.check()
        stored = sum(len(person.stored) for person in self.people)
        return all(sum(node.outbox.totals().resolved.values()) == stored for node in self.nodes)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(seed, marks=SLOW) for seed in range(3, 8))])
async def test_every_event_is_seen_in_order_and_ends_once(database: str, tmp_path: Path, seed: int) -> None:
    async with nodes(database, tmp_path, "a", "b", "c", ack_timeout=1.0) as all_nodes:
        world = World(all_nodes, seed)
        for _ in range(STEPS):
            await world.step()
        await world.calm()
        for person in world.people:
            assert sorted(person.stored) == list(range(1, len(person.stored) + 1))
            for socket in person.sockets:  # at least once, in order: what is new to a socket is newer than all before
                new = list(dict.fromkeys(socket.seqs))
                assert new == sorted(new), (person.key, socket.sid, socket.seqs)
        stored = sum(len(person.stored) for person in world.people)
        for node in all_nodes:
            totals = node.outbox.totals()
            assert_balanced(totals)
            assert totals.created[EventType.CONNECTED] == stored
            assert totals.resolved[EventType.CONNECTED, Outcome.ACKED] == stored
            assert node.notes.failed_ == 0
        await until(lambda: sum(len(node.notes.settled_) for node in all_nodes) >= stored)
        # Two nodes that confirm an event within one commit, not knowing of each other, may both count it.
        assert sum(len(node.notes.settled_) for node in all_nodes) <= stored * 1.05
