"""Prometheus and Alertmanager over a running backend, with the repository's own rules, only faster.

Waiting five minutes for each alert would take an hour, so every duration of the rules and of Alertmanager's routes is
divided by `SPEED` on the way into the test: windows, `for:` and intervals alike. Nothing else is changed.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web

from tests.dashboards.boards import ROOT, Panel, substituted
from tests.support.ports import free_ports
from tests.support.programs import require

SPEED: Final = 30
WINDOW: Final = 300 / SPEED
"""Seconds that the rules' five minutes take here."""

_UNIT: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\[|offset |for: |interval: |group_wait: )(\d+)([smhd])\b")
_SECONDS_AGO = re.compile(r"(time\(\) - )(\d+)")

WATCHDOG: Final = "RoundtripWatchdog"
"""Fires always, and is told to its own receiver."""

Sample = tuple[Mapping[str, str], float]


def faster(text: str) -> str:
    """A configuration with every duration divided by `SPEED`."""
    text = _DURATION.sub(lambda found: f"{found[1]}{int(found[2]) * _UNIT[found[3]] // SPEED}ms", text)
    return _SECONDS_AGO.sub(lambda found: f"{found[1]}{int(found[2]) / SPEED:g}", text)


class Prometheus:
    """The HTTP API of a running Prometheus. Values are floats, labels plain mappings."""

    def __init__(self, url: str, session: aiohttp.ClientSession, folder: Path, pid: int) -> None:
        """`folder` has its configuration and rules."""
        self.url = url
        self._session = session
        self.folder = folder
        self._pid = pid

    def reload(self) -> None:
        """Let it read its configuration and rules again."""
        os.kill(self._pid, signal.SIGHUP)

    async def _get(self, path: str, **params: str) -> Any:
        async with self._session.get(f"{self.url}/api/v1/{path}", params=params) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expr: str) -> list[Sample]:
        """An instant query's vector."""
        data = await self._get("query", query=expr)
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    async def panel(self, panel: Panel, target: int = 0) -> list[Sample]:
        """What a panel's own query says now, its variables filled in."""
        return await self.query(substituted(panel.queries[target], rate_interval=f"{WINDOW:.0f}s", range_seconds=1800))

    async def firing(self) -> set[str]:
        alerts = (await self._get("alerts"))["alerts"]
        firing = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
        return firing - {WATCHDOG}

    async def exemplars(self, expr: str, since: float, until: float) -> list[str]:
        """Trace ids of the exemplars of a query's series, newest first. Times are seconds since the epoch."""
        data = await self._get("query_exemplars", query=expr, start=str(since), end=str(until))
        found = [exemplar for series in data for exemplar in series["exemplars"]]
        return [
            exemplar["labels"]["trace_id"] for exemplar in sorted(found, key=lambda one: one["timestamp"], reverse=True)
        ]


class Webhook:
    """What Alertmanager sent: alerts by name, with the states in which each was told."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.url = ""
        self.refuses = False
        """Answer 500, as a receiver that is broken does."""

    async def take(self, request: web.Request) -> web.Response:
        if self.refuses:
            return web.Response(status=500)
        self.messages.append(await request.json())
        return web.Response()

    def told(self, alert: str, status: str) -> bool:
        """Whether this alert arrived as `firing` or `resolved`."""
        return any(
            one["labels"]["alertname"] == alert and one["status"] == status
            for message in self.messages
            for one in message["alerts"]
        )

    def annotation(self, alert: str, name: str) -> str:
        return next(
            str(one["annotations"][name])
            for message in self.messages
            for one in message["alerts"]
            if one["labels"]["alertname"] == alert
        )


@contextmanager
def _process(log: Path, *command: str | Path) -> Iterator[int]:
    """Run a command; its process id."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(timeout=20)


@asynccontextmanager
async def _webhook() -> AsyncIterator[Webhook]:
    webhook = Webhook()
    app = web.Application()
    app.router.add_post("/alerts", webhook.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, site).start()
    webhook.url = f"http://127.0.0.1:{site.getsockname()[1]}/alerts"
    try:
        yield webhook
    finally:
        await runner.cleanup()


@asynccontextmanager
async def observing(folder: Path, targets: Mapping[str, str]) -> AsyncIterator[tuple[Prometheus, Webhook]]:
    """Prometheus and Alertmanager over `targets`: host and port by job."""
    prometheus = require("prometheus", "apt-get install prometheus")
    alertmanager = require("prometheus-alertmanager", "apt-get install prometheus-alertmanager")
    prom_port, alert_port = free_ports(2)
    prom_url = f"http://127.0.0.1:{prom_port}"
    async with _webhook() as webhook, aiohttp.ClientSession() as session:
        itself = {"prometheus": f"127.0.0.1:{prom_port}", "alertmanager": f"127.0.0.1:{alert_port}"}
        _configure(folder, {**targets, **itself}, f"127.0.0.1:{alert_port}", webhook.url)
        with ExitStack() as stack:
            stack.enter_context(
                _process(
                    folder / "alertmanager.log",
                    alertmanager,
                    f"--config.file={folder}/alertmanager.yml",
                    f"--storage.path={folder}/alerts",
                    f"--web.listen-address=127.0.0.1:{alert_port}",
                    "--cluster.listen-address=",
                )
            )
            pid = stack.enter_context(
                _process(
                    folder / "prometheus.log",
                    prometheus,
                    f"--config.file={folder}/prometheus.yml",
                    f"--storage.tsdb.path={folder}/tsdb",
                    f"--web.listen-address=127.0.0.1:{prom_port}",
                    f"--web.external-url={prom_url}",
                    "--enable-feature=exemplar-storage",
                )
            )
            for name, url in (("alertmanager", f"http://127.0.0.1:{alert_port}"), ("prometheus", prom_url)):
                await _until_ready(session, f"{url}/-/ready", folder / f"{name}.log")
            yield Prometheus(prom_url, session, folder, pid), webhook


def _configure(folder: Path, targets: Mapping[str, str], alertmanager: str, webhook: str) -> None:
    """The repository's files with this test's addresses, faster."""
    config = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    for job in config["scrape_configs"]:
        job.pop("authorization", None)
        job["static_configs"][0]["targets"] = [targets[job["job_name"]]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        (folder / name).write_text(faster((ROOT / "prometheus" / name).read_text()))
    text = (ROOT / "prometheus" / "alertmanager.yml").read_text()
    (folder / "alertmanager.yml").write_text(faster(re.sub(r"url: \S+", f"url: {webhook}", text)))


async def _until_ready(session: aiohttp.ClientSession, url: str, log: Path) -> None:
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{url} is not ready: {await asyncio.to_thread(log.read_text)}") from None
