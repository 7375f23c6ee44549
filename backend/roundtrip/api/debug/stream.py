"""Server-sent events for open consoles: the whole state first, then what changed, once a second, and each miss at once.

With nobody listening nothing is encoded. A listener that does not read is dropped: its browser connects again and gets
the state anew. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from roundtrip.api.problems import Problem

MOST_LISTENERS: Final = 32

QUEUE: Final = 64
"""Messages that wait for a listener until it is dropped."""

AT_ONCE: Final = 20
"""Misses a second that are told at once; of more, the sums follow with the second's message."""

LONGEST: Final = 3600.0
"""Seconds of one stream: then the browser asks again, and who it is is checked again."""

_encode = msgspec.json.Encoder().encode


class Hub:
    """Who listens. Lives on the event loop."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self._sent: dict[str, bytes] = {}
        self._misses_left = AT_ONCE
        self.dropped = 0
        """Listeners that did not read."""

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: asyncio.Queue[bytes | None]) -> None:
        """Give every message to this queue, until it is full or None comes."""
        self._listeners.add(listener)

    def tick(self, sections: Mapping[str, Any]) -> None:
        """Send those sections of the state that changed since the last tick. To be called once a second."""
        self._misses_left = AT_ONCE
        changed: dict[str, msgspec.Raw] = {}
        for name, value in sections.items():
            encoded = _encode(value)
            if self._sent.get(name) != encoded:
                self._sent[name] = encoded
                changed[name] = msgspec.Raw(encoded)
        self._send(message("tick", changed))

    def miss(self, note: Any) -> None:
        if self._listeners and self._misses_left:
            self._misses_left -= 1
            self._send(message("miss", note))

    def close(self) -> None:
        """End every stream."""
        for queue in self._listeners:
            _put(queue, None)

    async def serve(self, request: web.Request, state: Callable[[], Any]) -> web.StreamResponse:
        """Answer one request until its client goes. Raises `Problem` when too many listen."""
        if len(self._listeners) >= MOST_LISTENERS:
            raise Problem("unavailable", f"{MOST_LISTENERS} consoles are open already; close one.", 503, retry_after=5)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)
        self.add(queue)
        try:
            async with asyncio.timeout(LONGEST):
                await response.write(b"retry: 1000\n\n" + message("state", state()))
                while (data := await queue.get()) is not None:
                    await response.write(data)
        except (TimeoutError, ConnectionResetError):
            pass
        finally:
            self._listeners.discard(queue)
        return response

    def _send(self, data: bytes) -> None:
        for queue in list(self._listeners):
            if queue.full():
                self.dropped += 1
                self._listeners.discard(queue)
                _put(queue, None)
            else:
                queue.put_nowait(data)


def message(event: str, data: Any) -> bytes:
    """JSON has no line break outside its texts, and escapes those within."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), _encode(data))


def _put(queue: asyncio.Queue[bytes | None], item: bytes | None) -> None:
    """As the last one: what waits is dropped if there is no room."""
    while queue.full():
        queue.get_nowait()
    queue.put_nowait(item)
