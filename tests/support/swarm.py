"""Many stock JavaScript clients in one child process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import require

_SCRIPT = Path(__file__).with_name("swarm.mjs")


class Swarm:
    """Client number n is the user `user-n` with the bot `bot`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def report(self) -> list[dict[str, Any]]:
        """What each client has: ids, duplicates, connects, disorder, changed, connected."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()
        report: list[dict[str, Any]] = json.loads(await self.process.stdout.readline())
        return report

    async def until(
        self, condition: Callable[[list[dict[str, Any]]], bool], within: float = 30
    ) -> list[dict[str, Any]]:
        """Ask until a report fulfils the condition; that report."""
        async with asyncio.timeout(within):
            while not condition(report := await self.report()):
                await asyncio.sleep(0.05)
        return report

    async def connected(self, within: float = 30) -> None:
        await self.until(lambda report: all(client["connected"] for client in report), within)


@asynccontextmanager
async def swarm(url: str, clients: int, ack: str = "yes", **options: Any) -> AsyncIterator[Swarm]:
    """Further options are those of swarm.mjs."""
    node = require("node", "apt-get install nodejs npm, then make install")
    settings = json.dumps({"url": url, "clients": clients, "ack": ack, **options})
    process = await asyncio.create_subprocess_exec(
        node,
        str(_SCRIPT),
        settings,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        yield Swarm(process)
    finally:
        process.kill()
        await process.wait()
