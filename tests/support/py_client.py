"""The stock Python client in the test's own process: quicker to start than the JavaScript one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import socketio


class PyClient:
    """Collects what it is sent. `acking` False makes the handler of an event never return."""

    def __init__(self, acking: bool = True) -> None:
        self.io = socketio.AsyncClient(reconnection=False)
        self.events: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.acking = acking
        self._news = asyncio.Event()
        self._stuck = asyncio.Event()
        self.io.on("whatsapp_connection_event", self._event)
        self.io.on("whatsapp_status_update", self._status)
        self.io.on("disconnect", self._gone)

    async def _event(self, payload: dict[str, Any]) -> None:
        self.events.append(payload)
        self._news.set()
        if not self.acking:
            await self._stuck.wait()

    async def _status(self, payload: dict[str, Any]) -> None:
        self.snapshots.append(payload)
        self._news.set()

    async def _gone(self, *_reason: object) -> None:
        self._news.set()

    async def until(self, condition: Callable[[], Any], within: float = 10) -> None:
        """Wait until the condition holds; looks again with each message."""
        async with asyncio.timeout(within):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def count(self, events: int, within: float = 10) -> list[dict[str, Any]]:
        """Wait for this many events."""
        await self.until(lambda: len(self.events) >= events, within)
        return self.events

    @property
    def seqs(self) -> list[int]:
        return [event["seq"] for event in self.events]


@asynccontextmanager
async def py_client(
    url: str,
    user: str = "user",
    bot: str = "bot",
    *,
    acking: bool = True,
    transports: list[str] | None = None,
    **auth: Any,
) -> AsyncIterator[PyClient]:
    """Connect, wait for the snapshot, and disconnect in the end. A socket that the program closes before that has no
    snapshot. `auth` adds fields to the handshake."""
    client = PyClient(acking)
    await client.io.connect(url, auth={"userId": user, "botId": bot, **auth}, transports=transports or ["websocket"])
    try:
        await client.until(lambda: client.snapshots or not client.io.connected)
        yield client
    finally:
        await client.io.disconnect()


async def eventually(condition: Callable[[], Any], within: float = 10) -> None:
    """Wait until a condition holds that nobody tells of."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)
