"""The outages that take a minute of the program's own time to be told: all of them at once, on one program."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.stack.collector import Collector
from tests.stack.collector import running as collecting
from tests.stack.observers import Prometheus, Webhook, observing
from tests.support.ports import free_ports
from tests.support.program import Api, Program, running
from tests.support.py_client import py_client

pytestmark = [pytest.mark.slow, pytest.mark.waits(90), pytest.mark.timeout(200)]

LIMIT: Final = 1 << 20
"""Bytes of the outbox: the least that the setting allows."""

FIRED_HERE: Final = (
    "RoundtripPendingWithSocket",
    "RoundtripOutboxFull",
    "RoundtripWorkerCrashes",
    "RoundtripTelemetryDropped",
    "RoundtripCollectorLosing",
    "RoundtripRulesFailing",
)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    """One that is over its memory limit from the start, and refuses all that it is sent."""
    over = "yaml:processors::memory_limiter::limit_mib: 1"
    with collecting("http://127.0.0.1:9", tmp_path / "collector.log", over) as it:
        yield it


async def someone_confirms_nothing(stack: AsyncExitStack, program: Program, session: aiohttp.ClientSession) -> None:
    """A page that promised to acknowledge, and does not."""
    await stack.enter_async_context(py_client(program.url, "silent", acking=False, acks=True))
    await Api(program, session, "silent").link()


async def workers_die(program: Program, session: aiohttp.ClientSession) -> None:
    who = Api(program, session, "dying")
    await who.link()
    await who.state("qr")
    await who.simulate("scan")
    await who.state("connected")
    url = f"{program.admin_url}/debug/faults/host_death"
    async with session.put(url, json={"parameter": 0.5}) as response:
        assert response.status == 200


async def the_outbox_fills(program: Program, session: aiohttp.ClientSession) -> None:
    number = 0
    while (await Api(program, session, "x").metrics())["roundtrip_outbox_size_bytes"] < 0.85 * LIMIT:
        people = [Api(program, session, f"user-{number + n}-{'x' * 100}") for n in range(20)]
        number += 20
        await asyncio.gather(*(who.link() for who in people))
        await asyncio.gather(*(who.call("DELETE", "/api/bots/bot/link") for who in people))
        assert number < 4000
    print(f"{number} links fill {LIMIT} bytes")


async def rules_break(prometheus: Prometheus) -> None:
    with (prometheus.folder / "alerts.yaml").open("a") as rules:
        rules.write("    - alert: Broken\n      expr: sum(\n")
    prometheus.reload()


async def spans_are_made(program: Program, session: aiohttp.ClientSession) -> AsyncIterator[None]:
    """Something to export, now and then."""
    while True:
        await Api(program, session, "silent").link()
        yield


async def test_each_outage_fires_its_alert(tmp_path: Path, collector: Collector) -> None:
    (admin_port,) = free_ports(1)
    targets = {"roundtrip": f"127.0.0.1:{admin_port}", "otel-collector": f"127.0.0.1:{collector.metrics_port}"}
    settings: dict[str, Any] = {"admin_port": admin_port, "simulated_speed": 10, "outbox_max_bytes": LIMIT}
    settings |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp, "OTEL_EXPORTER_OTLP_TIMEOUT": 0.5}
    async with AsyncExitStack() as stack:
        program = await stack.enter_async_context(running(tmp_path / "data", **settings))
        prometheus, webhook = await stack.enter_async_context(observing(tmp_path, targets))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await someone_confirms_nothing(stack, program, session)
        await workers_die(program, session)
        await the_outbox_fills(program, session)
        spans = spans_are_made(program, session)
        await all_told(webhook, FIRED_HERE[:5], 120, spans)
        await rules_break(prometheus)
        await all_told(webhook, FIRED_HERE, 30, spans)


async def all_told(webhook: Webhook, alerts: tuple[str, ...], within: float, meanwhile: AsyncIterator[None]) -> None:
    began = time.monotonic()
    while missing := [alert for alert in alerts if not webhook.told(alert, "firing")]:
        assert time.monotonic() < began + within, f"after {within} s did not fire: {', '.join(missing)}"
        await anext(meanwhile)
        await asyncio.sleep(0.5)
    print(f"{', '.join(alerts)} after {time.monotonic() - began:.0f} s")
