"""The outages, for real: each is made, and a real Prometheus and Alertmanager tell of it. What makes each alert fire.

Rules run thirty times faster, see `observers`; what they compare with the program's own seconds (the age of a batch) is
not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from socketio.exceptions import ConnectionError as ConnectionRefused

from tests.dashboards.boards import ROOT
from tests.stack.observers import WATCHDOG, Prometheus, Webhook, observing
from tests.stack.test_faults_proof import FAULTS
from tests.stack.test_outages_of_a_minute import FIRED_HERE as FIRED_WITHIN_A_MINUTE
from tests.support.ports import free_ports
from tests.support.program import Api, Program, running
from tests.support.py_client import py_client

pytestmark = [pytest.mark.slow, pytest.mark.waits(85), pytest.mark.timeout(300)]


class Scene:
    """A program on ports that stay, and what watches it."""

    def __init__(self, start: Callable[[], Any], prometheus: Prometheus, webhook: Webhook) -> None:
        self.start = start
        self.prometheus = prometheus
        self.webhook = webhook

    async def fires(self, alert: str, within: float = 40) -> None:
        await until(f"{alert} fires", lambda: self._told(alert, "firing"), within)

    async def resolves(self, alert: str, within: float = 60) -> None:
        await until(f"{alert} resolves", lambda: self._told(alert, "resolved"), within)

    async def _told(self, alert: str, status: str) -> bool:
        return self.webhook.told(alert, status)


async def until(what: str, condition: Callable[[], Awaitable[object]], within: float = 40) -> None:
    deadline = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < deadline, f"after {within} s: {what}"
        await asyncio.sleep(0.1)


async def links_stay_down(it: Scene, program: Program, session: aiohttp.ClientSession) -> list[str]:
    people = [Api(program, session, f"user-{number}") for number in range(4)]
    for who in people:
        await who.link()
        await who.state("qr")
        await who.simulate("scan")
        await who.state("connected")
    for who in people[:3]:
        await who.simulate("disconnect")
    await people[3].simulate("outdated")
    await it.fires("RoundtripLinksDown")
    await it.fires("RoundtripClientOutdated")
    return ["RoundtripLinksDown", "RoundtripClientOutdated"]


async def every_handshake_is_refused(it: Scene, program: Program, _session: aiohttp.ClientSession) -> list[str]:
    alert = "RoundtripHandshakesRefused"

    async def refused() -> bool:
        for _ in range(6):
            with pytest.raises(ConnectionRefused):
                async with py_client(program.url, "user", ""):
                    pass
        return it.webhook.told(alert, "firing")

    await until(f"{alert} fires", refused)
    return [alert]


async def the_outbox_hangs(it: Scene, program: Program, session: aiohttp.ClientSession) -> list[str]:
    url = f"{program.admin_url}/debug/faults/slow_outbox"
    async with session.put(url, json={"parameter": 14}) as response:
        assert response.status == 200
    waiting = asyncio.ensure_future(Api(program, session, "late").link())
    await it.fires("RoundtripOutboxStuck")
    await it.fires("RoundtripNotReady")
    async with session.delete(url):
        await waiting
    return ["RoundtripOutboxStuck", "RoundtripNotReady"]


async def the_loop_stands_still(it: Scene, program: Program, _session: aiohttp.ClientSession) -> list[str]:
    async def stand_still() -> bool:
        os.kill(program.pid, signal.SIGSTOP)
        await asyncio.sleep(0.6)
        os.kill(program.pid, signal.SIGCONT)
        await asyncio.sleep(1)
        return all(it.webhook.told(alert, "firing") for alert in alerts)

    alerts = ["RoundtripEventLoopStalls", "RoundtripEventLoopBlocked"]
    await until("the stalls are told", stand_still, 60)
    return alerts


OUTAGES: Final = (every_handshake_is_refused, the_outbox_hangs, the_loop_stands_still, links_stay_down)


async def crash_loop(it: Scene) -> list[str]:
    """The program is killed as soon as it is up, and then stays away."""

    async def crash() -> bool:
        async with it.start() as program:
            await asyncio.sleep(1.5)  # scraped at least once
            program.kill()
        return it.webhook.told("RoundtripCrashLoop", "firing")

    await until("the crash loop is told", crash, 60)
    await it.fires("RoundtripBackendDown")
    return ["RoundtripCrashLoop", "RoundtripBackendDown"]


async def alerts_are_not_taken(it: Scene) -> list[str]:
    """The receiver answers 500: only Prometheus itself can say so."""
    it.webhook.refuses = True

    async def seen() -> bool:
        return "RoundtripAlertsNotSent" in await it.prometheus.firing()

    await until("RoundtripAlertsNotSent fires", seen, 60)
    it.webhook.refuses = False
    return ["RoundtripAlertsNotSent"]


async def test_each_outage_fires_its_alert(tmp_path: Path) -> None:
    port, admin_port, nobody = free_ports(3)
    settings: dict[str, Any] = {"port": port, "admin_port": admin_port, "simulated_speed": 10, "canary_interval": 0}
    settings |= {"disconnect_grace": 0.1, "handshakes_per_address": 100_000, "handshakes_per_user": 100_000}

    def start() -> Any:
        return running(tmp_path / "data", **settings)

    absent = dict.fromkeys(("otel-collector", "tempo"), f"127.0.0.1:{nobody}")
    async with AsyncExitStack() as stack:
        targets = {"roundtrip": f"127.0.0.1:{admin_port}", **absent}
        prometheus, webhook = await stack.enter_async_context(observing(tmp_path, targets))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        it = Scene(start, prometheus, webhook)
        fired = {WATCHDOG, "RoundtripCollectorFailing", "RoundtripObserverDown"}  # nobody is there, from the start on
        async with start() as program:
            for outage in OUTAGES:
                fired |= set(await outage(it, program, session))
        fired |= set(await crash_loop(it))
        async with start():
            await it.resolves("RoundtripBackendDown")
        fired |= set(await alerts_are_not_taken(it))
        for alert in fired - {"RoundtripAlertsNotSent"}:
            await it.fires(alert)
    assert fired == {alert for alert, where in FOR_REAL.items() if where == "here"}


BY_FAULT: Final = f"a fault of test_faults_proof.py: {', '.join(FAULTS)}"

FOR_REAL: Final = {
    WATCHDOG: "here",
    **dict.fromkeys(
        (
            "RoundtripKeyMismatch",
            "RoundtripMissedEmits",
            "RoundtripAcksMissing",
            "RoundtripReceiptsMissing",
            "RoundtripSocketChurn",
            "RoundtripOutboxSlow",
            "RoundtripOutboxFailing",
            "RoundtripLinkFlapping",
            "RoundtripHostDies",
            "RoundtripFaultActive",
            "RoundtripDeliveryBurnFast",
        ),
        BY_FAULT,
    ),
    **dict.fromkeys(
        (
            "RoundtripLinksDown",
            "RoundtripClientOutdated",
            "RoundtripHandshakesRefused",
            "RoundtripOutboxStuck",
            "RoundtripNotReady",
            "RoundtripEventLoopStalls",
            "RoundtripEventLoopBlocked",
            "RoundtripCrashLoop",
            "RoundtripBackendDown",
            "RoundtripAlertsNotSent",
            "RoundtripCollectorFailing",
            "RoundtripObserverDown",
        ),
        "here",
    ),
    **dict.fromkeys(FIRED_WITHIN_A_MINUTE, "test_outages_of_a_minute.py"),
    "RoundtripCanaryFailing": "test_canary_alert.py",
}
"""What makes an alert fire for real, where a test does."""

NOT_FOR_REAL: Final = {
    "RoundtripUnmappedSockets": "needs an error in the program: stale_cleanup maps as many, but the wrong ones",
    "RoundtripLedgerOutOfBalance": "needs an error in the program: the sums come from one transaction",
    "RoundtripTaskDied": "needs an error in the program: no input makes a task die",
    "RoundtripDeliveryBurnSlow": "its windows are days, of which a thirtieth is an hour still; promtool has them",
    "RoundtripStoreDown": "a database that goes; tests/cluster/test_program.py moves its metric",
    "RoundtripNodeLeaseOld": "minutes of late renewals; tests/cluster/test_node_metrics.py moves its metric",
    "RoundtripNodeLost": "minutes without a node; tests/cluster/test_two_nodes.py moves its metrics",
    "RoundtripTakeoversFlapping": "half an hour of it, promtool has it",
}
"""Alerts that no test makes fire for real, with the reason."""


def test_every_alert_is_made_to_fire_for_real_or_says_why_not() -> None:
    groups = yaml.safe_load((ROOT / "prometheus" / "alerts.yaml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert sorted([*FOR_REAL, *NOT_FOR_REAL]) == sorted(alerts)
