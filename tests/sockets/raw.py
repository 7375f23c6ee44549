"""Clients that speak the protocol by hand, as no stock client would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from tests.support.sockets import Stage

WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"
POLLING = "/socket.io/?EIO=4&transport=polling"


def connect(user: str = "user", bot: str = "bot", **auth: Any) -> str:
    """The Socket.IO CONNECT packet of a handshake."""
    return "40" + json.dumps({"userId": user, "botId": bot, **auth}, separators=(",", ":"))


class RawSocket:
    """A websocket. It answers no PING and no event by itself."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, opened: dict[str, Any]) -> None:
        self.ws = ws
        self.sid: str = opened["sid"]

    async def send(self, *packets: str) -> None:
        for packet in packets:
            await self.ws.send_str(packet)

    async def until(self, start: str, within: float = 10) -> str:
        """The next message that starts like this; those before it are dropped."""
        async with asyncio.timeout(within):
            while True:
                message = await self.ws.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise ConnectionError(f"the websocket ended with {self.ws.close_code}")
                if message.data.startswith(start):
                    return str(message.data)

    async def ended(self, within: float = 10) -> list[str]:
        """What still comes until the server closes the websocket."""
        rest: list[str] = []
        async with asyncio.timeout(within):
            while (message := await self.ws.receive()).type is aiohttp.WSMsgType.TEXT:
                rest.append(message.data)
        return rest


@asynccontextmanager
async def raw_socket(url: str, *packets: str) -> AsyncIterator[RawSocket]:
    """Open a websocket and send these packets."""
    async with aiohttp.ClientSession() as session, session.ws_connect(url + WEBSOCKET) as ws:
        client = RawSocket(ws, json.loads((await ws.receive_str())[1:]))
        await client.send(*packets)
        yield client


class RawPolling:
    """A session of HTTP long polling."""

    def __init__(self, session: aiohttp.ClientSession, url: str, sid: str) -> None:
        self.session = session
        self.sid = sid
        self.url = f"{url}{POLLING}&sid={sid}"
        self._kept: list[str] = []

    async def get(self) -> tuple[int, list[str]]:
        async with self.session.get(self.url) as response:
            text = await response.text()
            return response.status, text.split("\x1e") if response.status == 200 else []

    async def post(self, *packets: str) -> int:
        async with self.session.post(self.url, data="\x1e".join(packets)) as response:
            await response.read()
            return response.status

    async def until(self, start: str, within: float = 10) -> str:
        """Poll until a packet that starts like this comes."""
        async with asyncio.timeout(within):
            while True:
                while self._kept:
                    if (packet := self._kept.pop(0)).startswith(start):
                        return packet
                status, packets = await self.get()
                if status != 200:
                    raise ConnectionError(f"the session ended with {status}")
                self._kept += packets


@asynccontextmanager
async def raw_polling(url: str, *packets: str) -> AsyncIterator[RawPolling]:
    """Open a session and post these packets."""
    async with aiohttp.ClientSession() as session:
        async with session.get(url + POLLING) as response:
            opened = json.loads((await response.text())[1:])
        client = RawPolling(session, url, opened["sid"])
        if packets:
            assert await client.post(*packets) == 200
        yield client


async def raw_handshake(
    s: Stage, auth: Any, query: str = ""
) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse, str]:
    """A websocket that has sent a CONNECT packet with this `auth`; returns it with the answer."""
    session = aiohttp.ClientSession()
    ws = await session.ws_connect(URL(f"{s.url}/socket.io/?EIO=4&transport=websocket&{query}", encoded=True))
    await ws.receive_str()
    await ws.send_str("40" + ("" if auth is None else json.dumps(auth)))
    return session, ws, await ws.receive_str()
