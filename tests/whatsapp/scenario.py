"""One bad minute at WhatsApp, against the whole program: what the page is told, and what an operator sees.

```python
async with scenario(tmp_path) as it:
    await it.pair()
    it.whatsapp.fail(Stage.NOISE, How.REFUSE)
    await it.restart()
    await it.told("whatsapp_disconnected", within=10)
```
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.node_client import NodeClient, node_client
from tests.support.otlp import Receiver, receiving
from tests.support.program import Api, Program, api, running
from tests.whatsapp.stand_in import StandIn, stand_in

PHONE = "447441395830"
NUMBER = f"+{PHONE}"
NAME = "Ada Lovelace"

QUICK: dict[str, Any] = {
    "ban_cooldown": 4,
    "degraded_timeout": 3,
    "disconnect_grace": 0.5,
    "login_timeout": 3,
    "reconnect_timeout": 8,
    "refused_cap": 1,
    "refused_first": 0.5,
    "retry_cap": 1,
    "retry_first": 0.2,
    "stuck_timeout": 15,
    "truth_interval": 1,
    "unreachable_after": 3,
}
"""Settings that make a bad minute short. What the program does about it is the same."""

AUTH = {"userId": "user", "botId": "bot"}


class Scenario:
    """A stand-in, the program, and one page that stays open over the program's restarts."""

    def __init__(self, folder: Path, whatsapp: StandIn, spans: Receiver, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.whatsapp = whatsapp
        self.spans = spans
        self.settings = settings
        self.events: list[dict[str, Any]] = []
        """What the page was told so far, before and after restarts, each event once."""
        self._taken = 0
        self._stack = AsyncExitStack()
        self.program: Program
        self.api: Api
        self.page: NodeClient

    async def start(self) -> None:
        """Start the program and open the page, which is served before WhatsApp has said anything."""
        self.program = await self._stack.enter_async_context(
            running(
                self.folder,
                command=self.whatsapp.backend_command,
                ready=False,
                whatsapp_driver="neonize",
                whatsapp_proxy=self.whatsapp.proxy_url,
                OTEL_EXPORTER_OTLP_ENDPOINT=self.spans.url,
                OTEL_BSP_SCHEDULE_DELAY=200,
                **self.settings,
            )
        )
        async with asyncio.timeout(60):
            while not self.program.url:
                await asyncio.sleep(0.02)
        self.api = await self._stack.enter_async_context(api(self.program))
        self.page = await self._stack.enter_async_context(node_client(self.program.url, AUTH))
        await self.page.heard("connect", within=30)

    async def end(self) -> None:
        self._hear()
        await self._stack.aclose()

    async def restart(self, *, kill: bool = True) -> None:
        """End the program (by kill -9, unless told otherwise) and start it anew on the same data."""
        if kill:
            self.program.kill()
        else:
            self.program.terminate()
        await self.program.ended()
        await self.end()
        self._stack = AsyncExitStack()
        await self.start()

    # what happens

    async def pair(self, phone: str = PHONE) -> None:
        """Link the phone's account, up to connected."""
        await self.api.link()
        code = await self.told("whatsapp_qr", within=30)
        await self.whatsapp.scan(code["qr"], phone, NAME)
        await self.told("whatsapp_connected", within=30)

    # what the page is told

    def _hear(self) -> None:
        known = {event["id"] for event in self.events}
        self.events += [event for event in self.page.events if event["id"] not in known]

    async def told(self, *types: str, within: float = 20.0) -> dict[str, Any]:
        """The next event of one of these types, after the one that was returned last."""
        async with asyncio.timeout(within):
            while True:
                self._hear()
                for at in range(self._taken, len(self.events)):
                    if self.events[at]["type"] in types:
                        self._taken = at + 1
                        return self.events[at]
                await asyncio.sleep(0.02)

    def types(self, since: int = 0) -> list[str]:
        """Types of all that the page was told, without the prefix; `since` leaves out the first ones."""
        self._hear()
        return [event["type"].removeprefix("whatsapp_") for event in self.events[since:]]

    @property
    def count(self) -> int:
        """How much the page was told."""
        self._hear()
        return len(self.events)

    async def quiet(self, seconds: float) -> list[str]:
        """What the page is told within so many seconds."""
        start = self.count
        await asyncio.sleep(seconds)
        return self.types(start)

    # what an operator sees

    async def view(self) -> Any:
        """The link in /debug/links."""
        (link,) = (await self.api.admin("/debug/links"))["links"]
        return link

    async def metric(self, name: str) -> float:
        """The sum over all samples whose name and labels begin like this."""
        return sum(value for sample, value in (await self.api.metrics()).items() if sample.startswith(name))

    async def grows(self, name: str, above: float, within: float = 20.0) -> float:
        """Wait until a metric is above a value."""
        async with asyncio.timeout(within):
            while (value := await self.metric(name)) <= above:
                await asyncio.sleep(0.1)
        return value

    def keys(self) -> list[Path]:
        """The key files on disk."""
        return sorted((self.folder / "sessions").glob("*.db"))

    async def worker(self) -> psutil.Process:
        """The one worker that runs."""
        async with asyncio.timeout(20):
            while len(children := psutil.Process(self.program.pid).children()) != 1:
                await asyncio.sleep(0.02)
        return children[0]

    async def span(self, name: str, within: float = 20.0, **attributes: str) -> Any:
        """The first span of that name whose attributes (dots as underscores) have these values."""
        wanted = attributes.items()
        async with asyncio.timeout(within):
            while True:
                for span in self.spans.spans:
                    found = {pair.key.replace(".", "_"): pair.value.string_value for pair in span.attributes}
                    if span.name == name and wanted <= found.items():
                        return span
                await asyncio.sleep(0.1)

    async def until(self, condition: Any, within: float = 20.0) -> None:
        """Wait for something to hold, in this process."""
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.02)

    def secrets_in_log(self) -> list[str]:
        """Which secrets the program's log holds: none, in every scenario."""
        text = self.program.text()
        return [secret for secret in (PHONE, NAME, "2@") if secret in text]


@asynccontextmanager
async def scenario(folder: Path, **settings: Any) -> AsyncIterator[Scenario]:
    """A running program with a page, beside a stand-in. `settings` are ROUNDTRIP_* in lower case, over `QUICK`."""
    with receiving() as spans:
        async with stand_in() as whatsapp:
            it = Scenario(folder, whatsapp, spans, QUICK | settings)
            await it.start()
            try:
                yield it
                assert it.secrets_in_log() == []
            finally:
                await it.end()


def elapsed(since: float) -> float:
    """Seconds since a moment of the monotonic clock."""
    return time.monotonic() - since
