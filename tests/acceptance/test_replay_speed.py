"""How fast those are served who come back: one with a thousand pending events, a thousand with five each."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from tests.acceptance.test_crash import balance, publish
from tests.bench.generator import command
from tests.support.node_client import node_client
from tests.support.program import ROOT, api, running
from tests.support.programs import require
from tests.support.publishing import COMMAND


@pytest.mark.slow
@pytest.mark.alone
async def test_a_thousand_pending_events_reach_one_client_within_a_second(tmp_path: Path) -> None:
    async with running(tmp_path, command=COMMAND) as program:
        await publish(program, ["user"], 1000)
        auth = {"userId": "user", "botId": "bot", "acks": True}
        async with node_client(program.url, auth, transports=["websocket"]) as client:
            events = await client.heard("event", 1000)
            [connect] = await client.heard("connect")
        assert [line["payload"]["seq"] for line in events] == list(range(1, 1001))
        seconds = (events[-1]["at"] - connect["at"]) / 1000
        print(f"1,000 pending events replayed in {seconds:.2f} s after the connect")
        assert seconds < 1.0


@pytest.mark.slow
@pytest.mark.alone
async def test_a_thousand_clients_with_five_pending_events_each_are_served_within_ten_seconds(tmp_path: Path) -> None:
    """The program on one core, the clients on the other."""
    cores = sorted(os.sched_getaffinity(0))
    require("cc", "apt-get install gcc libc6-dev")
    async with running(tmp_path, command=COMMAND) as program, api(program) as admin:
        os.sched_setaffinity(program.pid, {cores[0]})
        await publish(program, [f"user-{number}" for number in range(1000)], 5)
        began = time.monotonic()
        load = await asyncio.create_subprocess_exec(
            *command(program.url, 1000),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(30):
                while balance(await admin.metrics())[2]:
                    await asyncio.sleep(0.05)
            seconds = time.monotonic() - began
        finally:
            load.kill()
            await load.wait()
        print(f"1,000 clients with 5 pending events each were served {seconds:.1f} s after the load began to start")
        assert seconds < 10
