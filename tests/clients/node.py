"""The built JavaScript client in a Node process that a test drives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.clients.build import built
from tests.support.node_client import NodeClient
from tests.support.programs import require


class Client(NodeClient):
    """What it said so far is in `said`: states, asked tokens, handled events, answers to commands."""

    @property
    def states(self) -> list[dict[str, Any]]:
        return [line for line in self.said if line["on"] == "state"]

    @property
    def handled(self) -> list[dict[str, Any]]:
        return [line["event"] for line in self.said if line["on"] == "event"]

    async def state(self, holds: Callable[[dict[str, Any]], Any], within: float = 20) -> dict[str, Any]:
        """Wait until the newest state fulfils a condition."""
        await self.wait(lambda _: self.states and holds(self.states[-1]), within)
        return self.states[-1]

    async def status(self, wanted: str, within: float = 20) -> dict[str, Any]:
        return await self.state(lambda state: state["status"] == wanted, within)

    async def call(self, name: str, *args: Any) -> dict[str, Any]:
        """Call a method of the client; its answer."""
        before = sum(line["on"] == "answer" for line in self.said)
        await self.do(call=name, args=args)
        return (await self.heard("answer", before + 1))[-1]


@asynccontextmanager
async def client(url: str, bot: str = "bot", **options: Any) -> AsyncIterator[Client]:
    """Start one. `options` are those of runner.mjs."""
    settings = json.dumps({"module": (built() / "dist" / "index.js").as_uri(), "url": url, "botId": bot, **options})
    process = await asyncio.create_subprocess_exec(
        require("node", "apt-get install nodejs npm"),
        str(Path(__file__).with_name("runner.mjs")),
        settings,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    running = Client(process)
    try:
        yield running
    finally:
        await running.close()
