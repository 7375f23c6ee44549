"""The canary's alert fires for real: a proxy that drops upgrades, seen by Prometheus and told by Alertmanager."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.stack.observers import observing
from tests.support.nginx import UPGRADES, nginx
from tests.support.ports import free_port
from tests.support.program import Program, running

pytestmark = [pytest.mark.slow, pytest.mark.waits, pytest.mark.timeout(120)]

ALERT = "RoundtripCanaryFailing"


async def test_a_proxy_that_drops_upgrades_pages_and_one_that_passes_them_ends_it(tmp_path: Path) -> None:
    port, admin_port = free_port(), free_port()

    def backend(canary_url: str) -> AbstractAsyncContextManager[Program]:
        where = {"port": port, "admin_port": admin_port, "canary_url": canary_url}
        return running(tmp_path / "data", canary_interval=0.5, **where)  # type: ignore[arg-type]  # settings

    async with (
        nginx(tmp_path, [f"127.0.0.1:{port}"], "", UPGRADES) as (drops, passes),
        observing(tmp_path, {"roundtrip": f"127.0.0.1:{admin_port}"}) as (prometheus, webhook),
    ):
        async with backend(drops):
            await until(lambda: webhook.told(ALERT, "firing"))
            assert ALERT in await prometheus.firing()
        async with backend(passes):  # as after a repair of the proxy
            await until(lambda: webhook.told(ALERT, "resolved"))


async def until(condition: Callable[[], bool], within: float = 40) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
