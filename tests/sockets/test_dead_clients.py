"""Clients that die silently, come and go, or crowd one key: nothing is lost, and nothing grows."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from tests.support.program import ROOT
from tests.support.programs import require
from tests.support.py_client import eventually, py_client
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


def test_a_half_open_connection_is_noticed_and_its_event_arrives_later() -> None:
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    unshare = require("unshare", "apt-get install util-linux")
    require("ip", "apt-get install iproute2")
    done = subprocess.run(
        [unshare, "--net", sys.executable, "-m", "tests.sockets.half_open"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [said] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said["disconnects"] == ["ping timeout"]
    assert said["reasons"][0] == "ack_timeout"
    assert said["mapped_while_away"] == 0
    assert (said["same_event"], said["replayed"], said["outcome"]) == (True, True, "acked")


async def test_a_client_that_reconnects_fifty_times_misses_nothing_and_leaves_nothing() -> None:
    async with stage() as s:
        got: set[int] = set()
        for number in range(50):
            async with py_client(s.url) as client:
                await s.courier.publish(KEY, "link", CONNECTED)
                await client.until(lambda client=client, number=number: number + 1 in client.seqs)  # type: ignore[misc]  # bound late
                got |= set(client.seqs)
        assert got == set(range(1, 51))
        async with py_client(s.url):  # the last one may have left before it said that it had the event
            await eventually(lambda: not s.outbox.totals().pending)
        await eventually(lambda: len(s.registry) == 0)
        totals = s.registry.view().totals
        assert (totals.mapped_keys, totals.users, totals.remembered_keys) == (0, 0, 1)
        await eventually(lambda: not s.server.engine.eio.sockets and not s.server.engine.connections)
        assert s.courier.in_flight() == 0
        assert not s.server.engine.environ


async def test_sixteen_tabs_of_one_key_all_get_each_event_once() -> None:
    async with stage() as s:
        async with asyncio.TaskGroup() as group:
            tabs = [group.create_task(_tab(s.url)) for _ in range(16)]
            await eventually(lambda: sum(peer.live for peer in s.registry.all()) == 16)
            for _ in range(20):
                await s.courier.publish(KEY, "link", CONNECTED)
        assert [tab.result() for tab in tabs] == [list(range(1, 21))] * 16
        assert {delivery.sockets for delivery in s.notes.settled_} == {16}


async def _tab(url: str) -> list[int]:
    async with py_client(url, acks=True) as client:
        await client.count(20)
        return client.seqs
