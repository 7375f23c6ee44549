"""The service with the real library: a life with a killed worker, a frozen one, and a restart of the program."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.links.payloads import Snapshot
from roundtrip.links.record import LinkState
from roundtrip.links.service import LinkService
from roundtrip.links.store import LinkStore
from roundtrip.telemetry.tracing import OFF
from tests.support.links import KEY, FakePublisher, RecordingMetrics, settings
from tests.whatsapp.stand_in import StandIn, stand_in

PHONE = "447441395830"


class Program:
    """A link service with the real driver and the real clock."""

    def __init__(self, data_dir: Path, whatsapp: StandIn, **changes: float) -> None:
        self.publisher = FakePublisher()
        self.metrics = RecordingMetrics()
        self.store = LinkStore(data_dir)
        driver = NeonizeDriver(
            whatsapp.proxy_url,
            worker_command=whatsapp.worker_command,
            environment={"PATH": os.environ["PATH"], **whatsapp.environment},
        )
        self.exits: list[str] = []
        driver.observe(OFF, lambda cause: None if cause == "stopped" else self.exits.append(cause))
        self.service = LinkService(driver, self.publisher, self.store, settings(data_dir, **changes), self.metrics)

    async def until(self, condition: Callable[[Snapshot], object], within: float = 30.0) -> Snapshot:
        async with asyncio.timeout(within):
            while not condition(snapshot := self.service.snapshot(KEY)):
                await asyncio.sleep(0.02)
        return snapshot

    @property
    def pid(self) -> int | None:
        return self.service.links()[0].worker_pid


@asynccontextmanager
async def program(data_dir: Path, whatsapp: StandIn, **changes: float) -> AsyncIterator[Program]:
    running = Program(data_dir, whatsapp, **changes)
    try:
        await running.service.open()
        await running.service.restore()
        yield running
    finally:
        await running.service.close()


@pytest.mark.slow
@pytest.mark.waits
async def test_the_link_service_with_the_real_library(tmp_path: Path) -> None:
    async with stand_in() as whatsapp:
        async with program(tmp_path, whatsapp, truth_interval=0.5, truth_misses=1, retry_first=0.1) as one:
            await one.service.start(KEY)
            shown = await one.until(lambda s: s.qr)
            assert shown.qr is not None
            await whatsapp.scan(shown.qr, PHONE, "Ada")
            linked = await one.until(lambda s: s.state is LinkState.CONNECTED)
            assert (linked.phone_number, linked.display_name) == (f"+{PHONE}", "Ada")
            (store,) = one.store.sessions.glob("*.db")
            assert stat.S_IMODE(store.stat().st_mode) == 0o600
            assert PHONE not in store.name

            for blow in (signal.SIGKILL, signal.SIGSTOP):
                before, exits = one.pid, len(one.exits)
                assert before is not None
                os.kill(before, blow)
                async with asyncio.timeout(60):
                    while len(one.exits) == exits or one.pid in (None, before):
                        await asyncio.sleep(0.02)
                async with asyncio.timeout(60):  # believed to be connected all along: the new worker has to be in too
                    while not one.service._links[KEY].lifecycle.damper.online:
                        await asyncio.sleep(0.02)
                await one.until(lambda s: s.state is LinkState.CONNECTED)  # a slow machine outlasts the grace period
            assert one.exits == ["killed", "unresponsive"]
            assert one.publisher.types()[:4] == ["Connecting", "Qr", "Paired", "Connected"]

        async with program(tmp_path, whatsapp) as two:
            back = await two.until(lambda s: s.state is LinkState.CONNECTED)
            assert (back.link_id, back.phone_number) == (linked.link_id, linked.phone_number)
            assert two.publisher.types() == ["Connected"]
            ended = await two.service.logout(KEY)
            assert (ended.state, ended.reason_code) == (LinkState.LOGGED_OUT, "requested")
            assert list(two.store.sessions.iterdir()) == []
