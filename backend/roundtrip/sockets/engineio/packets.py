"""Replaces `asyncio.Queue` as the queue of a socket's packets (python-engineio 4.15.1).

Why: an `asyncio.Queue` takes 3 KB while it is empty, as it is for every client with a websocket.

Could be deleted when upstream makes the queue for polling clients only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any


class PacketQueue:
    """An unbounded queue with one reader: a socket is polled by one request at a time."""

    __slots__ = ("__weakref__", "_packets", "_reader")

    def __init__(self) -> None:
        self._packets: deque[Any] | None = None
        self._reader: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        return not self._packets

    def qsize(self) -> int:
        return len(self._packets or ())

    def put_nowait(self, packet: Any) -> None:
        if self._packets is None:
            self._packets = deque()
        self._packets.append(packet)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def put(self, packet: Any) -> None:
        self.put_nowait(packet)

    def get_nowait(self) -> Any:
        """Raises `asyncio.QueueEmpty`."""
        if not self._packets:
            raise asyncio.QueueEmpty
        packet = self._packets.popleft()
        if not self._packets:
            self._packets = None
        return packet

    async def get(self) -> Any:
        """The next packet, as soon as there is one."""
        while not self._packets:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self.get_nowait()
