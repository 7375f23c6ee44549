"""Leases and fences against the real PostgreSQL, with clocks that stand still and jump.

The database's clock is a row of a table: `clock_timestamp()` is found in a schema that is searched first. Each node has
a clock of its own, which follows it, or stands still for a while as a suspended machine's does. Whatever nodes do,
and whatever they believe, no link has two owners, and no write of an earlier owner lands.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from roundtrip.cluster.claims import Claims
from roundtrip.cluster.tables import Tables
from roundtrip.identity import BotKey
from roundtrip.links.storage import StoreError
from roundtrip.outbox.postgres.database import Database
from roundtrip.outbox.postgres.lease import NodeLease
from tests.support.drafts import Clock

LEASE: Final = 10.0
NODES: Final = ("a", "b", "c")
KEYS: Final = tuple(BotKey("user", f"bot{number}") for number in range(3))
RECORD: Final = '{"key":["user","%s"],"link_id":"%s","state":"connected","since":1.0,"started_at":1.0,"paired":true}'
_CLOCK: Final = """
CREATE SCHEMA IF NOT EXISTS stepped;
CREATE TABLE IF NOT EXISTS stepped.clock (now timestamptz NOT NULL);
CREATE OR REPLACE FUNCTION stepped.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT now FROM stepped.clock';
DELETE FROM stepped.clock;
INSERT INTO stepped.clock VALUES ('2026-01-01');
"""
_EMPTY: Final = (
    "TRUNCATE nodes, links, commands, removals, key_files CASCADE; UPDATE stepped.clock SET now = '2026-01-01'"
)


class Node:
    """What one program knows and believes."""

    def __init__(self, database: Database, name: str) -> None:
        self.clock = Clock()
        self.lease = NodeLease(database, name, LEASE, self.clock)
        self.tables = Tables(database, self.lease)
        self.claims = Claims(self.tables)
        self.links: dict[BotKey, int] = {}
        """The links that it believes to have, with their fences."""
        self.had: dict[BotKey, int] = {}
        """The same, with those that it has lost since."""
        self.written = 0
        self.stands_still = False
        """Whether its clock stands still while it is suspended."""
        self.honest = True
        """Whether its clock has never stood still since it joined."""
        self.lease.on_change = self._changed

    def _changed(self, held: bool) -> None:
        if not held:
            self.links.clear()

    def take(self, key: BotKey, fence: int) -> None:
        self.links[key] = self.had[key] = fence

    @property
    def has(self) -> dict[BotKey, int]:
        """The links that it would start a session for."""
        return self.links if self.lease.held else {}

    def close(self) -> None:
        self.tables.close()
        self.lease._drop()


class Leases(RuleBasedStateMachine):
    url = ""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.database = Database(self.url)
        self.nodes: dict[str, Node] = {}
        self.fences: dict[BotKey, tuple[str | None, int]] = {}
        self.store: Any = self.run(asyncpg.connect(self.url))
        self.run(self.store.execute(_EMPTY))
        for name, key in zip(NODES, KEYS, strict=True):
            self.join(name)
            self.start(name, key)

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def row(self, key: BotKey) -> tuple[str | None, int] | None:
        found = self.run(self.store.fetchrow("SELECT owner, fence FROM links WHERE user_id = $1 AND bot_id = $2", *key))
        return None if found is None else (found[0], found[1])

    # the world

    @rule(seconds=st.sampled_from([0.5, 3.0, 7.9, 8.1, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.store.execute("UPDATE stepped.clock SET now = now + make_interval(secs => $1)", seconds))
        for node in self.nodes.values():
            if node.stands_still:
                node.honest = False
            else:
                node.clock.advance(seconds)

    @rule(name=st.sampled_from(NODES), on=st.booleans())
    def suspend(self, name: str, on: bool) -> None:
        if (node := self.nodes.get(name)) is not None:
            node.stands_still = on

    # nodes

    @rule(name=st.sampled_from(NODES))
    def join(self, name: str) -> None:
        """A program of this name starts; an earlier one that has not left goes on believing what it does."""
        if name in self.nodes:
            return
        node = Node(self.database, name)
        if self.run(node.lease._try_join()) is None:
            self.nodes[name] = node
        else:
            node.close()

    @rule(name=st.sampled_from(NODES), seconds=st.sampled_from([2.0, 3.0]))
    def is_paused(self, name: str, seconds: float) -> None:
        """For longer than its lease. The others go on, and take what it had."""
        for _ in range(5):
            self.time_passes(seconds)
            for other in NODES:
                if other != name:
                    self.renew(other)
        for other in NODES:
            if other != name:
                self.bury(other)
                self.take_over(other)

    @rule(name=st.sampled_from(NODES))
    def renew(self, name: str) -> None:
        if (node := self.nodes.get(name)) is not None:
            fence = node.lease.fence
            self.run(node.lease.renew())
            if node.lease.fence != fence:  # it joined anew: nothing of before is its own
                node.links.clear()
                node.honest = not node.stands_still

    @rule(name=st.sampled_from(NODES))
    def die(self, name: str) -> None:
        if (node := self.nodes.pop(name, None)) is not None:
            node.close()

    @rule(name=st.sampled_from(NODES))
    def leave(self, name: str) -> None:
        if (node := self.nodes.pop(name, None)) is not None:
            self.run(node.lease.leave())
            node.close()

    @rule(name=st.sampled_from(NODES))
    def bury(self, name: str) -> None:
        if (node := self.nodes.get(name)) is not None:
            self.run(node.claims.bury())

    @rule(name=st.sampled_from(NODES), key=st.sampled_from(KEYS))
    def start(self, name: str, key: BotKey) -> None:
        node = self.nodes.get(name)
        if node is None or not node.lease.held:
            return
        try:
            taken = self.run(node.claims.take(key, 1.0, 100))
        except StoreError:
            return  # its lease has ended, and it does not know yet
        if taken.claimed is not None:
            node.take(key, taken.claimed.fence)

    @rule(name=st.sampled_from(NODES), late=st.sampled_from(NODES))
    def all_write(self, name: str, late: str) -> None:
        for node in (name, late):
            for key in KEYS:
                self.write(node, key)

    @rule(name=st.sampled_from(NODES))
    def take_over(self, name: str) -> None:
        node = self.nodes.get(name)
        if node is None or not node.lease.held:
            return
        try:
            free = self.run(node.claims.free())
            claimed = self.run(node.claims.claim([one.key for one in free]))
        except StoreError:
            return
        for one in claimed:
            node.take(one.record.key, one.fence)

    @rule(name=st.sampled_from(NODES), key=st.sampled_from(KEYS), to=st.sampled_from((None, *NODES)))
    def give_away(self, name: str, key: BotKey, to: str | None) -> None:
        node = self.nodes.get(name)
        if node is None or key not in node.links:
            return
        fence, before = node.links.pop(key), self.row(key)
        try:
            given = self.run(node.claims.release(key, fence, to))
        except StoreError:
            assert self.row(key) == before
        else:
            assert given == (before == (name, fence))

    @rule(name=st.sampled_from(NODES), key=st.sampled_from(KEYS))
    def write(self, name: str, key: BotKey) -> None:
        """Of a link that it has, or had: whoever was paused in between asks nobody first."""
        node = self.nodes.get(name)
        if node is None or key not in node.had:
            return
        fence = node.had[key]
        owner = self.row(key)
        alive = self.run(self.store.fetchval("SELECT fence FROM nodes WHERE node_id = $1", name)) == node.lease.fence
        node.written += 1
        version = fence << 24 | (1 << 20) + node.written
        row = (*key, f"{key.bot_id}", "connected", True, RECORD % (key.bot_id, key.bot_id), version)
        try:
            self.run(node.tables.execute("SELECT save_links_1($1, $2, $3, $4, $5, $6, $7)", *([one] for one in row)))
        except StoreError:
            assert not (alive and owner == (name, fence)), "its owner could not write"
        else:
            assert alive
            assert owner == (name, fence)

    # what is always so

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def fences_grow_with_each_change_of_owner(self) -> None:
        rows = self.run(self.store.fetch("SELECT user_id, bot_id, owner, fence FROM links"))
        now = {BotKey(row[0], row[1]): (row[2], row[3]) for row in rows}
        for key, (owner, fence) in now.items():
            before = self.fences.get(key)
            if before is not None:
                assert fence >= before[1]
                if owner is not None and owner != before[0]:
                    assert fence > before[1]
        self.fences = now

    @precondition(lambda self: hasattr(self, "store"))
    @invariant()
    def nobody_starts_a_session_that_another_may_have(self) -> None:
        for key in KEYS:
            believers = [name for name, node in self.nodes.items() if node.honest and key in node.has]
            assert len(believers) <= 1, believers
            for name in believers:
                assert self.row(key) == (name, self.nodes[name].links[key])

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for node in self.nodes.values():
            node.close()
        self.run(self.store.close())
        self.loop.close()


@pytest.fixture
def stepped(postgres: Any) -> Any:
    """A database whose clock is a table's row."""
    name = postgres.new_database()
    postgres.query(f"ALTER DATABASE {name} SET search_path = stepped, public, pg_catalog")
    for statement in _CLOCK.strip().split(";\n"):
        postgres.query(statement.rstrip(";"), name)
    yield postgres.url_of(name)
    postgres.drop_database(name)


def test_no_link_has_two_owners_and_no_old_fence_writes(stepped: str) -> None:
    asyncio.run(Database(stepped).prepare())

    class Here(Leases):
        url = stepped

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
