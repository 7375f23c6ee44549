"""Engine.IO by hand: one connection that sends what a test says, over either transport, and notes what came back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

SEPARATOR = "\x1e"
"""Between the packets of one polling body."""

QUERY = "/socket.io/?EIO=4&transport="


class Packet(NamedTuple):
    """`at` is monotonic seconds, `text` the packet as it went over the wire."""

    at: float
    text: str


class RawClient:
    """One Engine.IO connection. It reads all the time; it answers PINGs only while `answering`."""

    def __init__(self, url: str, *, answering: bool = True) -> None:
        self.url = url
        self.answering = answering
        self.reading = True
        """False makes a polling client ask no more."""
        self.heard: list[Packet] = []
        self.sent: list[Packet] = []
        self.statuses: list[int] = []
        """Of each POST."""
        self.closed: str | None = None
        """Why the connection is over, as far as this side saw it."""
        self.eio_sid = ""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120))
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._order = asyncio.Lock()
        self._paused = self._polling = False

    @property
    def transport(self) -> str:
        return "polling" if self._ws is None else "websocket"

    async def open(self, transport: str) -> None:
        """`polling` or `websocket`: until the server's OPEN is there."""
        if transport == "websocket":
            self._ws = await self._session.ws_connect(f"{self.url}{QUERY}websocket", max_msg_size=0)
            first = await self._ws.receive_str(timeout=10)
        else:
            async with self._session.get(f"{self.url}{QUERY}polling") as response:
                response.raise_for_status()
                first = await response.text()
        self.eio_sid = json.loads(first[1:])["sid"]
        self._reader = asyncio.ensure_future(self._read())

    async def upgrade(self) -> None:
        """Move a polling connection to a websocket, as a stock client does."""
        ws = await self._session.ws_connect(f"{self.url}{QUERY}websocket&sid={self.eio_sid}", max_msg_size=0)
        await ws.send_str("2probe")
        assert await ws.receive_str(timeout=10) == "3probe"
        self._paused = True
        await self.until(lambda: self.closed or not self._polling)
        async with self._order:
            await ws.send_str("5")
            self._ws = ws

    # out

    async def send(self, *packets: str) -> None:
        """Write these packets, in one body where the transport is polling. A closed connection takes them silently."""
        async with self._order:
            now = time.monotonic()
            self.sent += [Packet(now, text) for text in packets]
            try:
                if self._ws is not None:
                    for text in packets:
                        await self._ws.send_str(text)
                else:
                    await self._post(SEPARATOR.join(packets))
            except (aiohttp.ClientError, ConnectionError) as error:
                self._over(type(error).__name__)

    async def _post(self, body: str) -> None:
        async with self._session.post(f"{self.url}{QUERY}polling&sid={self.eio_sid}", data=body.encode()) as response:
            await response.read()
            self.statuses.append(response.status)

    async def join(self, within: float = 20, **auth: Any) -> str:
        """CONNECT to the namespace; the answer, `40…` or `44…`, or why the connection ended instead."""
        before = len(self.heard)
        await self.send("40" + json.dumps(auth))
        answer: str = await self.until(lambda: self.closed or self._answer(before), within)
        return answer

    def _answer(self, start: int) -> str | None:
        return next((p.text for p in self.heard[start:] if p.text.startswith(("40", "44"))), None)

    # back

    async def _read(self) -> None:
        try:
            await self._read_polling()
            if self._ws is not None:
                await self._read_websocket(self._ws)
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            self._over(type(error).__name__)

    async def _read_polling(self) -> None:
        while self._ws is None and self.closed is None:
            self._polling = self.reading and not self._paused
            if not self._polling:
                self._news.set()
                await asyncio.sleep(0.01)
                continue
            async with self._session.get(f"{self.url}{QUERY}polling&sid={self.eio_sid}") as response:
                body = await response.text()
                if response.status != 200:
                    self._over(f"polling {response.status}")
                    return
            for text in body.split(SEPARATOR):
                await self._take(text)

    async def _read_websocket(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._take(message.data)
        self._over(f"websocket {ws.close_code}")

    async def _take(self, text: str) -> None:
        self.heard.append(Packet(time.monotonic(), text))
        self._news.set()
        if text == "2" and self.answering:
            await self.send("3")
        elif text == "1":
            self._over("close packet")

    def _over(self, why: str) -> None:
        self.closed = self.closed or why
        self._news.set()

    async def until(self, condition: Callable[[], Any], within: float = 20) -> Any:
        """Wait until the condition holds, looking again with each packet and at the end; what it gave."""
        async with asyncio.timeout(within):
            while not (result := condition()):
                self._news.clear()
                await self._news.wait()
        return result

    def events(self, name: str = "whatsapp_connection_event") -> list[tuple[float, int, dict[str, Any]]]:
        """When each event of that name came, its ack id (0 for none) and its payload."""
        found = []
        for at, text in self.heard:
            if text.startswith("42"):
                number, bracket, rest = text[2:].partition("[")
                said = json.loads(bracket + rest)
                if said[0] == name:
                    found.append((at, int(number or 0), said[1]))
        return found

    # the end

    def abort(self) -> None:
        """Drop the connection without a word."""
        response = getattr(self._ws, "_response", None)
        if response is not None and response.connection is not None:
            response.connection.transport.abort()
        self._over("aborted")

    async def close(self) -> None:
        """End this side; a websocket says goodbye."""
        self._over("closed here")
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._ws is not None:
            await self._ws.close()
        await self._session.close()


@asynccontextmanager
async def raw_client(url: str, transport: str, *, answering: bool = True) -> AsyncIterator[RawClient]:
    client = RawClient(url, answering=answering)
    try:
        await client.open(transport)
        yield client
    finally:
        await client.close()
