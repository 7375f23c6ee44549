"""The whole stack that can be had without an engine: backend, collector, Prometheus, Alertmanager, and real clients."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.dashboards.boards import ROOT, panel
from tests.stack import collector as collectors
from tests.stack.observers import Prometheus, Sample, Webhook, observing
from tests.stack.sink import Sink, listening
from tests.support.program import Api, Program, running
from tests.support.py_client import PyClient, py_client


class House:
    """Everything that runs, and what a proof asks of it."""

    def __init__(
        self,
        program: Program,
        prometheus: Prometheus,
        webhook: Webhook,
        sink: Sink,
        session: aiohttp.ClientSession,
    ) -> None:
        self.program = program
        self.prometheus = prometheus
        self.webhook = webhook
        self.sink = sink
        self._session = session
        self._users = 0

    # people

    def newcomer(self) -> Api:
        """A user whom nobody has seen before."""
        self._users += 1
        return Api(self.program, self._session, f"user-{self._users}")

    @asynccontextmanager
    async def page(self, who: Api, *, acks: bool = True, polling: bool = False) -> AsyncIterator[PyClient]:
        """A page of theirs; `acks` False is an older one that never acknowledges."""
        promise: dict[str, Any] = {"acks": True} if acks else {}
        kind = ["polling"] if polling else ["websocket"]
        async with py_client(self.program.url, who.user, acking=acks, transports=kind, **promise) as client:
            yield client
        # The stock client forgets its session where the server closes the socket
        if client.io.eio.http is not None:
            await client.io.eio.http.close()

    # faults

    async def switch(self, name: str, *, on: bool, parameter: float | None = None) -> None:
        body = {} if parameter is None else {"parameter": parameter}
        method = "PUT" if on else "DELETE"
        url = f"{self.program.admin_url}/debug/faults/{name}"
        async with self._session.request(method, url, json=body if on else None) as response:
            assert response.status == 200, await response.text()

    # what is seen

    async def until(self, what: str, condition: Callable[[], Awaitable[Any]], within: float = 30) -> Any:
        """Ask until the answer is not empty; the answer. Raises `AssertionError` with `what`."""
        deadline = time.monotonic() + within
        while not (answer := await condition()):
            assert time.monotonic() < deadline, f"after {within} s: {what}"
            await asyncio.sleep(0.2)
        return answer

    async def shows(self, board: str, title: str, wanted: Callable[[list[Sample]], bool], target: int = 0) -> None:
        """Wait until a panel's own query says what is wanted."""
        shown: list[Sample] = []

        async def look() -> bool:
            shown[:] = await self.prometheus.panel(panel(board, title), target)
            return wanted(shown)

        try:
            await self.until(title, look, 20)
        except AssertionError:
            raise AssertionError(f"{board}: {title} shows {shown}") from None

    async def missed_so_far(self) -> Counter[tuple[str, str]]:
        """The program's own count of misses by type and reason."""
        async with self._session.get(f"{self.program.admin_url}/metrics") as response:
            text = await response.text()
        samples = re.findall(r"^roundtrip_missed_emits_total\{([^}]*)\} ([\d.e+]+)", text, re.MULTILINE)
        counts: Counter[tuple[str, str]] = Counter()
        for labels, value in samples:
            held = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            counts[held["type"], held["reason"]] += int(float(value))
        return +counts

    async def fires(self, alert: str, within: float = 40) -> None:
        """Wait until an alert fires and its message has arrived, then open its runbook as a person does."""

        async def firing() -> bool:
            return alert in await self.prometheus.firing() and self.webhook.told(alert, "firing")

        await self.until(f"{alert} fires and arrives; firing: {await self.prometheus.firing()}", firing, within)
        assert runbook(self.webhook.annotation(alert, "runbook_url")) == f"Runbook / {alert}"
        dashboard = self.webhook.annotation(alert, "dashboard_url")
        of = re.findall(r"var-instance=([^&]+)&from=1", dashboard)
        assert of in ([urlsplit(self.program.admin_url).netloc], ["$__all"]), dashboard

    async def resolves(self, alert: str, within: float = 60) -> None:
        async def resolved() -> bool:
            return alert not in await self.prometheus.firing() and self.webhook.told(alert, "resolved")

        await self.until(f"{alert} resolves", resolved, within)

    async def explained(self, metric: str, since: float, cause: Callable[[Span], bool]) -> list[Span]:
        """Wait until an exemplar of a metric leads to a trace, among those that the collector let through, with a span
        that names the cause; the trace."""

        async def look() -> list[Span]:
            for trace_id in await self.prometheus.exemplars(metric, since, time.time() + 1):
                spans = [span for span in self.sink.spans() if span.trace_id.hex() == trace_id]
                if any(cause(span) for span in spans):
                    return spans
            return []

        found: list[Span] = await self.until(f"an exemplar of {metric} leads to its cause", look, 20)
        return found


def runbook(address: str) -> str:
    """The title of the page that Grafana shows at an alert's address."""
    page = json.loads((ROOT / "grafana" / "runbooks" / f"{address.rpartition('/')[2]}.json").read_text())
    return str(page["title"])


async def missed(*people: Api) -> Counter[tuple[str, str]]:
    """Attempts that missed, by type and reason, as the ledgers of these people have them."""
    found: Counter[tuple[str, str]] = Counter()
    for who in people:
        for event in await who.ledger():
            found.update((event["type"], a["reason"]) for a in event["attempts"] if a["result"] == "missed")
    return found


def says(span: Span, **attributes: str) -> bool:
    """Whether a span has these attributes; underscores stand for dots."""
    held = {one.key: one.value.string_value for one in span.attributes}
    return all(held.get(name.replace("_", ".")) == value for name, value in attributes.items())


@asynccontextmanager
async def house(folder: Path, **settings: Any) -> AsyncIterator[House]:
    """Start all of it, stop all of it."""
    async with AsyncExitStack() as stack:
        sink = stack.enter_context(listening())
        await asyncio.to_thread(collectors.build)
        collector = stack.enter_context(collectors.running(sink.url, folder / "collector.log"))
        program = await stack.enter_async_context(
            running(
                folder / "data",
                simulated_speed=5,
                ack_timeout=1,
                canary_interval=1,
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.otlp,
                OTEL_TRACES_SAMPLER="parentbased_always_on",
                **settings,
            )
        )
        targets = {
            "roundtrip": urlsplit(program.admin_url).netloc,
            "otel-collector": f"127.0.0.1:{collector.metrics_port}",
        }
        prometheus, webhook = await stack.enter_async_context(observing(folder, targets))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        it = House(program, prometheus, webhook, sink, session)
        # What happens before the first scrape is no increase
        await it.until("Prometheus has seen all", lambda: prometheus.query("count(up == 1) == 4"))
        yield it
