"""Events reach the sockets of their key on whichever node these are, in order, and nobody there is a miss as on one
node. Several nodes on one real PostgreSQL, with fake clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roundtrip.events import Connecting, Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.postgres.database import Database
from roundtrip.outbox.records import MissReason, Mode, Outcome
from tests.cluster.in_process import CONNECTED, KEY, Node, nodes
from tests.outbox.contract.base import until
from tests.support.drafts import assert_balanced
from tests.support.postgres import server, value
from tests.support.tcp_proxy import tcp_proxy

CONNECTING = Connecting()
QR = Qr("secret", 1, 6, "2023-11-14T22:13:20.000Z")


@pytest.fixture
async def two(database: str, tmp_path: Path) -> AsyncIterator[list[Node]]:
    async with nodes(database, tmp_path, "a", "b") as started:
        yield started


async def test_an_event_reaches_a_socket_of_another_node(two: list[Node]) -> None:
    a, b = two
    client = await b.join()
    event = await a.publish()
    await until(lambda: client.seqs == [1])
    assert client.frames[0] | {"replayed": False, "attempt": 1} == client.frames[0]
    async with asyncio.timeout(5):
        while (await a.entry(event)).outcome is not Outcome.ACKED:
            await asyncio.sleep(0.01)
    (attempt,) = (await a.entry(event)).attempts
    assert (attempt.node, attempt.mode, attempt.reason) == ("b", Mode.LIVE, None)
    assert a.notes.missed_ == []


async def test_events_are_live_in_order_and_emitted_once(two: list[Node]) -> None:
    a, b = two
    client = await b.join()
    await asyncio.gather(*(a.publish() for _ in range(300)))
    await until(lambda: len(client.seqs) >= 300)
    assert client.seqs == list(range(1, 301))
    assert not any(frame["replayed"] for frame in client.frames)


async def test_nobody_anywhere_is_one_miss_of_the_events_node(two: list[Node]) -> None:
    a, b = two
    event = await a.publish()
    await until(lambda: len(a.notes.missed_) == 1)
    assert a.notes.missed_[0].reason is MissReason.NEVER_CONNECTED
    (attempt,) = (await b.entry(event)).attempts
    assert (attempt.node, attempt.reason) == ("a", MissReason.NEVER_CONNECTED)
    assert b.notes.missed_ == []


@pytest.mark.parametrize("here", [True, False], ids=["one node", "two nodes"])
@pytest.mark.parametrize(
    ("connected", "has_link", "reason"),
    [
        (BotKey("user", "other"), False, MissReason.KEY_MISMATCH),
        (BotKey("user", "user"), True, MissReason.KEY_MISMATCH),
        (BotKey("user", "other"), True, MissReason.OTHER_BOT_CONNECTED),
        (BotKey("somebody", "bot"), True, MissReason.NEVER_CONNECTED),
    ],
)
async def test_why_nobody_was_there(
    two: list[Node], here: bool, connected: BotKey, has_link: bool, reason: MissReason
) -> None:
    a, b = two
    a.registry.has_link = lambda _key: has_link
    await (a if here else b).join(connected)
    await a.publish()
    await until(lambda: len(a.notes.missed_) == 1)
    miss = a.notes.missed_[0]
    assert miss.reason is reason
    assert miss.keys == ((connected.bot_id,) if connected.user_id == KEY.user_id else ())


async def test_who_left_another_node_has_just_disconnected(two: list[Node], database: str) -> None:
    a, b = two
    b.leave(await b.join())
    async with asyncio.timeout(5):
        while not await value(database, "SELECT count(*) FROM departures"):
            await asyncio.sleep(0.01)
    await a.publish()
    await until(lambda: len(a.notes.missed_) == 1)
    assert a.notes.missed_[0].reason is MissReason.JUST_DISCONNECTED
    await value(database, "UPDATE departures SET left_at = left_at - interval '31 seconds'")
    await a.publish()
    await until(lambda: len(a.notes.missed_) == 2)
    assert a.notes.missed_[1].reason is MissReason.DISCONNECTED


async def test_who_was_on_a_node_that_died_has_just_disconnected(database: str, tmp_path: Path) -> None:
    """Its presence ends with its lease, whether anybody has removed its row or not."""
    async with nodes(database, tmp_path, "a", "b", lease=2.0) as (a, b):
        await b.join()
        holding = b.store._holding
        assert holding is not None
        holding.cancel()  # as if killed
        await a.publish()
        assert a.notes.missed_ == []  # it holds its lease still
        async with asyncio.timeout(5):
            while await value(database, "SELECT count(*) FROM nodes WHERE lease_until > clock_timestamp()") > 1:
                await asyncio.sleep(0.02)
        event = await a.publish()
        await until(lambda: len(a.notes.missed_) == 1)
        assert (await a.entry(event)).attempts[-1].reason is MissReason.JUST_DISCONNECTED


async def test_sockets_of_one_key_on_two_nodes_each_get_everything(two: list[Node]) -> None:
    a, b = two
    clients = [await a.join(), await b.join(), await b.join()]
    await until(lambda: shared(a) and shared(b))
    for _ in range(20):
        await a.publish()
        await b.publish()
    await until(lambda: all(len(client.seqs) >= 40 for client in clients))
    for client in clients:
        assert client.seqs == list(range(1, 41))


async def test_an_event_that_two_nodes_confirm_is_counted_once(two: list[Node]) -> None:
    a, b = two
    one, two_ = await a.join(), await b.join()
    await until(lambda: shared(a) and shared(b))
    for _ in range(30):
        await a.publish()
        await asyncio.sleep(0.002)
    await until(lambda: len(one.seqs) == 30 and len(two_.seqs) == 30)
    await until(lambda: len(a.notes.settled_) + len(b.notes.settled_) >= 30)
    await asyncio.sleep(0.3)
    assert len(a.notes.settled_) + len(b.notes.settled_) == 30
    await until(lambda: a.courier.in_flight() == b.courier.in_flight() == 0)
    for node in two:
        await node.outbox.check()
    await until(lambda: sum(a.outbox.totals().resolved.values()) == 30)
    assert sum(a.outbox.totals().pending.values()) == 0


async def test_nothing_is_resolved_that_was_not_created(two: list[Node]) -> None:
    """B ends what A created before it has read so."""
    a, b = two
    await b.join()
    b.outbox._writer._sweep._next = float("inf")
    await a.publish()
    await until(lambda: sum(b.outbox.totals().resolved.values()) == 1)
    totals = b.outbox.totals()
    assert_balanced(totals)
    assert min(totals.pending.values()) == 0


def shared(node: Node) -> bool:
    channel = node.courier._inflight.keys.get(KEY)
    return channel is not None and channel.shared


async def test_a_confirmation_on_one_node_ends_what_another_waits_for(two: list[Node]) -> None:
    """B's client never acknowledges: it is not waited for once A's has, and nothing is a miss."""
    a, b = two
    await a.join()
    silent = await b.join(acking=False)
    await until(lambda: shared(a) and shared(b))
    await a.publish()
    await until(lambda: silent.seqs == [1])
    await until(lambda: b.courier.in_flight() == 0, within=2)
    assert b.notes.missed_ == []
    assert b.notes.settled_ == []


async def test_before_a_timeout_counts_the_store_is_asked(database: str, tmp_path: Path) -> None:
    """Even if nobody told."""
    async with nodes(database, tmp_path, "a", "b", ack_timeout=0.5) as (a, b):
        silent = await b.join(acking=False)
        event = await a.publish()
        await until(lambda: silent.seqs == [1])
        channel = b.courier._inflight.of(KEY)
        channel.shared = True
        await value(database, "UPDATE events SET outcome = 1, body = NULL, resolved_at = created_at")
        await until(lambda: b.courier.in_flight() == 0)
        await asyncio.sleep(0.7)
        assert silent.seqs == [1]
        assert b.notes.missed_ == []
        assert (await a.entry(event)).outcome is Outcome.ACKED


async def test_attempts_of_several_nodes_stand_beside_each_other(database: str, tmp_path: Path) -> None:
    async with nodes(database, tmp_path, "a", "b", ack_timeout=0.3) as (a, b):
        event = await a.publish()  # nobody: A's miss
        await until(lambda: len(a.notes.missed_) == 1)
        silent = await b.join(acking=False)
        await until(lambda: len(b.notes.missed_) >= 1)  # B's timeout
        b.leave(silent)
        await b.outbox.check()
        await a.join()
        async with asyncio.timeout(5):
            while (await a.entry(event)).outcome is not Outcome.ACKED:
                await asyncio.sleep(0.01)
        attempts = (await b.entry(event)).attempts
        assert [(attempts[0].node, attempts[0].reason), (attempts[1].node, attempts[1].reason)] == [
            ("a", MissReason.NEVER_CONNECTED),
            ("b", MissReason.ACK_TIMEOUT),
        ]
        assert (attempts[-1].node, attempts[-1].reason) == ("a", None)
        assert attempts[-1].ack_at is not None


async def test_a_superseded_event_ends_on_the_node_that_sent_it(two: list[Node]) -> None:
    a, b = two
    silent = await b.join(acking=False)
    await a.publish(QR)
    await until(lambda: silent.seqs == [1])
    await a.publish(QR)
    await until(lambda: silent.seqs == [1, 2])
    await until(lambda: b.courier.in_flight() == 1)
    assert [delivery.outcome for delivery in b.notes.settled_] == [Outcome.SUPERSEDED]


async def test_a_signal_that_is_lost_costs_time_and_no_event(two: list[Node]) -> None:
    a, b = two
    client = await b.join()
    polled: list[int] = []
    assert b.store.router is not None
    b.store.router.on_polled = polled.append
    a.store.signals.send = lambda *_: None  # type: ignore[method-assign]  # lost
    await value_of(a, "CREATE RULE lost AS ON INSERT TO announcements DO INSTEAD NOTHING")
    await a.publish()
    await asyncio.sleep(0.2)
    assert client.seqs == []
    await until(lambda: client.seqs == [1], within=8)
    assert polled == [1]


async def value_of(node: Node, sql: str) -> None:
    connection = await node.store._database.connect()
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def test_what_a_dead_node_did_not_tell_comes_before_what_the_next_one_stores(two: list[Node]) -> None:
    a, b = two
    client = await b.join()
    a.store.signals.send = lambda *_: None  # type: ignore[method-assign]  # lost
    await value_of(a, "CREATE RULE lost AS ON INSERT TO announcements DO INSTEAD NOTHING")
    await asyncio.gather(*(a.publish() for _ in range(3)))
    await b.publish()
    await until(lambda: len(client.seqs) == 4)
    assert client.seqs == [1, 2, 3, 4]


async def test_a_node_that_joins_is_overlooked_by_no_event(database: str, tmp_path: Path) -> None:
    """A alone looks nothing up. B joins while A stores one event after the other: B's client gets every one."""
    async with nodes(database, tmp_path, "a") as (a,):
        stored: list[int] = []
        stop = asyncio.Event()

        async def publish() -> None:
            while not stop.is_set():
                stored.append((await a.publish()).seq)

        publishing = [asyncio.create_task(publish()) for _ in range(3)]
        await until(lambda: len(stored) > 20)
        async with nodes(database, tmp_path, "b") as (b,):
            client = await b.join()
            await until(lambda: len(client.seqs) > 100)
            stop.set()
            await asyncio.gather(*publishing)
            await until(lambda: len(client.seqs) >= max(stored))
            assert client.seqs == list(range(1, max(stored) + 1))


async def test_while_alone_nothing_is_announced(database: str, tmp_path: Path) -> None:
    """As long as no socket has ever left."""
    async with nodes(database, tmp_path, "a") as (a,):
        announced: list[object] = []
        assert a.store.router is not None
        a.store.router.announce = lambda *args: announced.append(args)  # type: ignore[method-assign]  # counted
        await a.join()
        await a.publish()
        await a.publish(key=BotKey("nobody", "bot"))
        await until(lambda: len(a.notes.missed_) == 1)
        assert announced == []


async def test_an_emitter_that_looks_under_the_wrong_key_finds_nobody(two: list[Node]) -> None:
    a, b = two
    await b.join()
    a.faults.switch_on("key_mismatch")
    await a.publish()
    await until(lambda: len(a.notes.missed_) == 1)
    assert a.notes.missed_[0].reason is MissReason.KEY_MISMATCH


async def test_what_an_unseen_state_supersedes_depends_on_sockets_of_all_nodes(two: list[Node]) -> None:
    a, b = two
    b_client = await b.join(acking=False)
    for payload in (CONNECTING, CONNECTED, CONNECTING, CONNECTED):
        await a.publish(payload)
    await until(lambda: b_client.seqs == [1, 2, 3, 4])
    b.leave(b_client)
    other = BotKey("nobody", "bot")
    await a.publish(CONNECTING, other)
    await until(lambda: len(a.notes.missed_) >= 1)
    last = await a.publish(CONNECTED, other)
    await until(lambda: len(a.notes.missed_) >= 2)
    assert [event.seq for event in await b.outbox.pending(other, 0, 9)] == [last.seq]


async def test_after_a_cut_everybody_is_told_of_again(database: str, tmp_path: Path) -> None:
    """B's connections are cut, and what it had written is gone: it writes everything again."""
    port = int(database.rpartition(":")[2].partition("/")[0])
    async with (
        tcp_proxy(port) as proxy,
        nodes(database, tmp_path, "a") as (a,),
        nodes(database.replace(str(port), str(proxy.port)), tmp_path, "b") as (b,),
    ):
        client = await b.join()
        await value(database, "DELETE FROM presence")
        proxy.cut()
        async with asyncio.timeout(5):
            while not await value(database, "SELECT count(*) FROM presence"):
                await asyncio.sleep(0.01)
        await a.publish()
        await until(lambda: client.seqs == [1])
        assert a.notes.missed_ == []


async def test_a_node_that_lost_its_lease_comes_back_with_its_sockets(database: str, tmp_path: Path) -> None:
    """What was stored meanwhile is sent late, and in order."""
    async with nodes(database, tmp_path, "a", "b", lease=2.0) as (a, b):
        client = await b.join()
        await a.publish(key=BotKey("nobody", "bot"))
        await until(lambda: len(a.notes.missed_) == 1)
        renew, b.store.lease._database = b.store.lease._database, Database("postgresql://127.0.0.1:1/none")
        b.store.lease._drop()
        async with asyncio.timeout(5):
            while await value(database, "SELECT count(*) FROM nodes WHERE lease_until > clock_timestamp()") > 1:
                await asyncio.sleep(0.02)
        await a.publish()
        await until(lambda: len(a.notes.missed_) == 2)
        assert a.notes.missed_[1].reason is MissReason.JUST_DISCONNECTED
        b.store.lease._database = renew
        await until(lambda: b.store.lease.held)
        await until(lambda: client.seqs == [1], within=10)
        await a.publish()
        await until(lambda: client.seqs == [1, 2], within=10)


async def test_without_the_store_a_replay_fails_soon_and_sockets_stay(tmp_path: Path) -> None:
    with server() as own:
        async with nodes(own.url, tmp_path, "a", lease=60.0) as (a,):
            stays = await a.join()
            own.stop()
            await until(lambda: not a.outbox.up, within=10)
            late = a.connect(BotKey("late", "bot"))
            assert late.replaying is not None
            with pytest.raises(OutboxError):
                await asyncio.wait_for(late.replaying, 8)
            assert stays.live
            own.start()
            a.leave(late)
            async with asyncio.timeout(15):
                while not a.outbox.up:
                    await asyncio.sleep(0.02)
            again = await a.join(BotKey("late", "bot"))
            await a.publish()
            await until(lambda: stays.seqs == [1])
            assert again.seqs == []


async def test_whose_page_is_open_is_known_on_every_node(two: list[Node]) -> None:
    a, b = two
    await b.join()
    presence = a.store._presence
    assert presence is not None
    await until(lambda: presence.watched(KEY), within=8)
    assert not presence.watched(BotKey("nobody", "bot"))
