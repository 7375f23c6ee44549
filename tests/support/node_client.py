"""The stock JavaScript client, as a child process that a test drives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import require

_SCRIPT = Path(__file__).with_name("client.mjs")


class NodeClient:
    """What the client said so far is in `said`, the newest last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(json.loads(line))
            self._news.set()

    async def wait(self, condition: Callable[[NodeClient], Any], within: float = 20) -> Any:
        """Wait until the condition holds, and return what it gave."""
        async with asyncio.timeout(within):
            while not (result := condition(self)):
                self._news.clear()
                await self._news.wait()
        return result

    async def heard(self, kind: str, count: int = 1, within: float = 20) -> list[dict[str, Any]]:
        """Wait for `count` lines of a kind: connect, connect_error, disconnect, event, status."""

        def enough(client: NodeClient) -> list[dict[str, Any]]:
            found = [line for line in client.said if line["on"] == kind]
            return found if len(found) >= count else []

        found: list[dict[str, Any]] = await self.wait(enough, within)
        return found

    async def event(self, type_: str, within: float = 20) -> dict[str, Any]:
        """Wait for an event of this type; the first that came."""

        def find(client: NodeClient) -> dict[str, Any] | None:
            return next((payload for payload in client.events if payload["type"] == type_), None)

        found: dict[str, Any] = await self.wait(find, within)
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        """The payloads of all events, in the order in which they came."""
        return [line["payload"] for line in self.said if line["on"] == "event"]

    async def do(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        await self.process.stdin.drain()

    async def close(self) -> None:
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                await asyncio.wait_for(self.process.wait(), 5)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        await self._reader


@asynccontextmanager
async def node_client(url: str, auth: Any = None, ack: str = "yes", **options: Any) -> AsyncIterator[NodeClient]:
    """Start a client. `ack` is yes, no or manual; further options are those of client.mjs."""
    node = require("node", "apt-get install nodejs npm, then make install")
    settings = json.dumps({"url": url, "auth": auth, "ack": ack, **options})
    process = await asyncio.create_subprocess_exec(
        node, str(_SCRIPT), settings, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    client = NodeClient(process)
    try:
        yield client
    finally:
        await client.close()
