"""The canary's page: a Socket.IO client for one round, over a websocket.

Not `socketio.AsyncClient`: it cannot be given up. Of each round in which a server fell silent, it kept a client and a
task for ever (its `disconnect` waits for the answer that does not come); and it says "Connection error" for a port that
nobody listens on and for a proxy that drops upgrades alike. It would cost 0.65 ms of processor time a round, this 0.44.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

_CLOSE_TIMEOUT: Final = 1.0
"""Seconds that a page which got its event takes to close."""

_MAX_MESSAGES: Final = 1000
"""A page that was sent so many without the one that it waits for is not on the right server."""


class Stage(enum.StrEnum):
    """What a round is doing, in this order. It fails in one of them."""

    CONNECT = "connect"
    """A TCP connection, and TLS."""
    UPGRADE = "upgrade"
    """The HTTP answer that makes it a websocket: a listener that hangs and a proxy that drops upgrades fail here."""
    HANDSHAKE = "handshake"
    """Engine.IO's OPEN, and Socket.IO's CONNECT with the credential."""
    STORE = "store"
    """The event's commit in the outbox."""
    DELIVERY = "delivery"
    """From the commit until the page has it."""
    ACK = "ack"
    """From the page's acknowledgement until the courier has it."""


class CanaryError(Exception):
    """A round failed; the message is for the log and holds nothing that others sent."""


class ElsewhereError(CanaryError):
    """The connection led to another node, as it may behind a proxy."""


class Page:
    """A connected page."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket

    async def acknowledge(self, event_id: str) -> None:
        """Read until this event has come, and acknowledge it, and all before it."""
        for _ in range(_MAX_MESSAGES):
            message = await self.message()
            if not message.startswith("2"):
                continue  # the snapshot, or an answer
            ack_id, bracket, rest = message[1:].partition("[")
            if not ack_id.isdigit():
                continue
            await self._websocket.send_str(f"43{ack_id}[]")
            if _event_id(bracket + rest) == event_id:
                return
        raise CanaryError("other messages came instead of the event")

    async def open(self, auth: Mapping[str, str | bool]) -> None:
        """The two handshakes. Raises `ElsewhereError` where another node refused."""
        packet = await self._packet()
        if not packet.startswith("0"):
            raise CanaryError("the first packet is not Engine.IO's OPEN")
        await self._websocket.send_str(f"40{msgspec.json.encode(auth).decode()}")
        answer = await self.message()
        if answer.startswith("4"):
            code = _refusal(answer[1:])
            raise ElsewhereError(code) if code == ELSEWHERE else CanaryError(f"refused: {code}")
        if not answer.startswith("0"):
            raise CanaryError("the answer is not Socket.IO's CONNECT")

    async def message(self) -> str:
        """The next Socket.IO packet. A PING on the way is answered."""
        while True:
            packet = await self._packet()
            if packet.startswith("2"):
                await self._websocket.send_str(f"3{packet[1:]}")
            elif packet.startswith("4"):
                return packet[1:]
            elif packet.startswith("1"):
                raise CanaryError("the server closed the connection")

    async def close(self) -> None:
        """Say goodbye as a page does that is closed."""
        await self._websocket.send_str("41")
        await self._websocket.close()

    async def _packet(self) -> str:
        received = await self._websocket.receive()
        if received.type is not aiohttp.WSMsgType.TEXT:
            raise CanaryError(f"the connection ended ({received.type.name.lower()})")
        text: str = received.data
        return text


ELSEWHERE: Final = "canary_elsewhere"
"""The code by which a node refuses another one's canary."""


@asynccontextmanager
async def opened(address: URL, auth: Mapping[str, str | bool], reached: Callable[[Stage], None]) -> AsyncIterator[Page]:
    """A page that is connected to the Socket.IO server at `address`; closed without waiting where it failed.

    `reached` is called with each stage that begins. Raises `CanaryError`, `aiohttp.ClientError`, `OSError`.
    """

    async def connected(*_: object) -> None:
        reached(Stage.UPGRADE)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(connected)
    url = address / "socket.io" / "" % {"EIO": "4", "transport": "websocket"}
    reached(Stage.CONNECT)
    # Its own session, so that nothing of a round outlives it; `limit` 1: a page has one connection
    connector = aiohttp.TCPConnector(limit=1, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None)  # the round has a deadline
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trace_configs=[trace]) as session:
        closing = aiohttp.ClientWSTimeout(ws_close=_CLOSE_TIMEOUT)
        try:
            websocket = await session.ws_connect(url, timeout=closing, max_msg_size=1 << 20)
        except aiohttp.WSServerHandshakeError as error:
            raise CanaryError(f"no websocket: the answer has the status {error.status}") from None
        reached(Stage.HANDSHAKE)
        page = Page(websocket)
        await page.open(auth)
        yield page
        with suppress(Exception):  # it is over, whatever the server makes of the goodbye
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await page.close()


def _event_id(packet: str) -> str | None:
    """The id in a packet `["name",{"id":…}]`."""
    try:
        _, event = msgspec.json.decode(packet, type=tuple[str, dict[str, Any]])
    except msgspec.DecodeError:
        return None
    found = event.get("id")
    return found if isinstance(found, str) else None


def _refusal(packet: str) -> str:
    """The code in a CONNECT_ERROR. A proxy's or another server's own words are not passed on."""
    try:
        code = msgspec.json.decode(packet)["data"]["code"]
    except (msgspec.DecodeError, LookupError, TypeError):
        return "unknown"
    return code if isinstance(code, str) and code.isidentifier() and len(code) <= 40 else "unknown"
