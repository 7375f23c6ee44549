"""The real library and a node that is paused for longer than its lease: another may have its accounts by then."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.support.postgres import value
from tests.whatsapp.scenario import PHONE, scenario

LEASE = 8
LEFT = "SELECT extract(epoch FROM lease_until - clock_timestamp())::float8 FROM nodes"
"""Seconds until the database gives the node's links to another."""


@pytest.mark.slow
@pytest.mark.waits(20)
async def test_the_sessions_of_a_paused_node_end_before_its_lease_does(tmp_path: Path, database: str) -> None:
    async with scenario(tmp_path, store=database, lease=LEASE, ack_timeout=60, ping_timeout=120) as it:
        await it.pair()
        account = it.whatsapp.accounts[PHONE]
        worker = await it.worker()
        await it.until(lambda: account.line is not None, within=20)
        logins = account.logins
        os.kill(it.program.pid, signal.SIGSTOP)
        try:
            await it.until(lambda: account.line is None, within=LEASE)
            left = await value(database, LEFT)
            assert left > 0.2 * LEASE - 0.5  # within 0.8 of the lease; some time for the rest
            await it.until(lambda: not worker.is_running() or worker.status() == "zombie", within=5)
            while await value(database, LEFT) > -0.5:
                await asyncio.sleep(0.1)
            assert account.logins == logins
        finally:
            os.kill(it.program.pid, signal.SIGCONT)
        await it.until(lambda: account.logins == logins + 1, within=40)  # with a lease of its own again
        assert await value(database, LEFT) > 0
        await it.api.state("connected", within=30)
        assert await it.metric('roundtrip_worker_exits_total{cause="crashed"}') == 0
