"""Signals between nodes, over a real PostgreSQL: few, coalesced, and never missed without a look afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import pytest

from roundtrip.cluster.signals import MOST_WAITING, Signals, channel_of
from roundtrip.outbox.postgres.database import Database
from tests.outbox.contract.base import until
from tests.support.tcp_proxy import TcpProxy, tcp_proxy

Start = Callable[..., Awaitable[Signals]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[Signals] = []

    async def start_(url: str, node: str, **options: float) -> Signals:
        signals = Signals(Database(url, answer_timeout=0.5), node, **options)
        started.append(signals)
        await signals.start()
        return signals

    yield start_
    for signals in started:
        await signals.close()


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(urlsplit(database).port or 0) as proxy:
        yield proxy


def behind(database: str, proxy: TcpProxy) -> str:
    return urlsplit(database)._replace(netloc=f"roundtrip@127.0.0.1:{proxy.port}").geturl()


async def test_a_signal_reaches_its_node_and_topic_alone(database: str, start: Start) -> None:
    one, two, three = [await start(database, node) for node in ("one", "two", 'th"ree ' * 40)]
    heard: list[tuple[str, str]] = []
    for signals in (one, two, three):
        for topic in ("events", "links"):
            signals.on(topic, lambda node=signals.node_id, topic=topic: heard.append((node, topic)))  # type: ignore[misc]  # defaults bind
    one.send([two.node_id, three.node_id], "events")
    await until(lambda: len(heard) == 2)
    two.send(["one", "nobody"], "links")
    await until(lambda: len(heard) == 3)
    assert sorted(heard) == sorted([("two", "events"), (three.node_id, "events"), ("one", "links")])


async def test_signals_of_one_moment_are_one(database: str, start: Start) -> None:
    one, two = await start(database, "one", pause=0.1), await start(database, "two")
    heard: list[None] = []
    sent: list[int] = []
    one.on_sent = sent.append
    two.on("events", lambda: heard.append(None))
    at = time.monotonic()
    for _ in range(50):
        one.send(["two"], "events")
        await asyncio.sleep(0.002)
    pauses = (time.monotonic() - at) / 0.1
    one.send(["two"], "links")
    await until(lambda: sum(sent) >= 2 and not one._waiting)
    assert 1 <= len(heard) <= pauses + 3, "one at once, one a pause, one at the end"
    assert sum(sent) <= pauses + 4


async def test_one_to_oneself_needs_no_store(database: str, proxy: TcpProxy, start: Start) -> None:
    one = await start(behind(database, proxy), "one")
    heard: list[None] = []
    one.on("links", lambda: heard.append(None))
    proxy.silent = True
    one.send(["one"], "links")
    await until(lambda: len(heard) == 1)


async def test_after_a_reconnect_everybody_looks(database: str, proxy: TcpProxy, start: Start) -> None:
    """And what was to be sent meanwhile is sent."""
    one, two = await start(behind(database, proxy), "one"), await start(database, "two")
    looks: list[str] = []
    heard: list[None] = []
    one.on("events", lambda: looks.append("events"))
    one.on("links", lambda: looks.append("links"))
    two.on("events", lambda: heard.append(None))
    proxy.refusing = True
    proxy.cut()
    await until(lambda: not one.connected)
    one.send(["two"], "events")
    two.send(["one"], "events")
    await asyncio.sleep(0.2)
    assert looks == []
    proxy.refusing = False
    await until(lambda: one.connected and len(heard) == 1)
    assert sorted(looks) == ["events", "links"]
    two.send(["one"], "links")
    await until(lambda: len(looks) == 3)


async def test_a_network_that_goes_silent_is_noticed(database: str, proxy: TcpProxy, start: Start) -> None:
    one = await start(behind(database, proxy), "one", heartbeat=0.1)
    looks: list[None] = []
    one.on("events", lambda: looks.append(None))
    proxy.silent = True
    await until(lambda: not one.connected)
    proxy.silent = False
    await until(lambda: len(looks) == 1)
    assert one.reconnects == 1


async def test_a_callback_that_fails_harms_no_other(database: str, start: Start) -> None:
    one, two = await start(database, "one"), await start(database, "two")
    heard: list[None] = []

    def fail() -> None:
        raise RuntimeError

    two.on("events", fail)
    two.on("events", lambda: heard.append(None))
    for count in (1, 2):
        one.send(["two"], "events")
        await until(lambda count=count: len(heard) == count)  # type: ignore[misc]  # a default binds


async def test_what_waits_for_the_store_is_bounded(database: str, proxy: TcpProxy, start: Start) -> None:
    one = await start(behind(database, proxy), "one")
    proxy.refusing = True
    proxy.cut()
    await until(lambda: not one.connected)
    for number in range(MOST_WAITING + 100):
        one.send([str(number)], "events")
    assert len(one._waiting) <= MOST_WAITING


def test_a_channel_is_an_identifier_whatever_the_node_is_called() -> None:
    names = {channel_of(name) for name in ("a", "A", "x" * 500, 'q"; DROP', "")}
    assert len(names) == 5
    assert all(len(name) < 63 and name.replace("_", "").isalnum() for name in names)
