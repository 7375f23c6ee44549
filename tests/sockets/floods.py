"""Raw floods of the socket port, without a token where none is needed, at the price of bytes only."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from tests.sockets.raw import POLLING, connect

Flood = Callable[[str, float], Awaitable[None]]
"""Sends to the server at this address until this moment of the monotonic clock."""

GONE = (OSError, asyncio.IncompleteReadError, aiohttp.ClientError)


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """A client's final frame, with a mask of zeros."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0xFE, length)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, length)
    return head + b"\0\0\0\0" + payload


async def open_websocket(url: str, query: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A websocket on a small receive buffer; what the server sends is read by whoever wants to."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=4096)
    writer.write(
        f"GET /socket.io/?EIO=4&transport=websocket{query} HTTP/1.1\r\nHost: localhost\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    if b" 101 " not in await reader.readuntil(b"\r\n\r\n"):
        writer.transport.abort()
        await asyncio.sleep(0.05)  # the limit of handshakes
        raise ConnectionRefusedError
    return reader, writer


async def never_reading(url: str, until: float, *packets: bytes, pieces: bytes) -> None:
    """Send `packets`, then `pieces` again and again, and come back whenever the server closes."""
    while time.monotonic() < until:
        with suppress(*GONE):
            _, writer = await open_websocket(url)
            try:
                for packet in packets:
                    writer.write(packet)
                while time.monotonic() < until:
                    writer.write(pieces)
                    await asyncio.wait_for(writer.drain(), max(0.01, until - time.monotonic()))
            except TimeoutError:
                pass
            finally:
                writer.transport.abort()


async def posting(url: str, until: float, *packets: str, body: str) -> None:
    """A polling client that never polls, with a new session whenever the server ends one."""
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            with suppress(*GONE):
                async with session.get(url + POLLING) as response:
                    if response.status != 200:  # the limit of handshakes
                        await asyncio.sleep(0.05)
                        continue
                    address = f"{url}{POLLING}&sid={json.loads((await response.text())[1:])['sid']}"
                if packets:
                    await (await session.post(address, data="\x1e".join(packets))).read()
                status = 200
                while status == 200 and time.monotonic() < until:
                    async with session.post(address, data=body) as response:
                        await response.read()
                        status = response.status


async def probing(url: str, until: float) -> None:
    """Twenty websockets that all claim to be the upgrade of one session."""
    async with aiohttp.ClientSession() as session:
        async with session.get(url + POLLING) as response:
            sid = json.loads((await response.text())[1:])["sid"]

        async def probe() -> None:
            while time.monotonic() < until:
                with suppress(*GONE):
                    _, writer = await open_websocket(url, f"&sid={sid}")
                    writer.write(frame(b"2probe"))
                    await asyncio.sleep(0.05)
                    writer.transport.abort()

        await asyncio.gather(*(probe() for _ in range(20)))


def many(flood: Flood, count: int) -> Flood:
    async def all_of(url: str, until: float) -> None:
        await asyncio.gather(*(flood(url, until) for _ in range(count)))

    return all_of


STATUS = b'420["status"]'

FLOODS: dict[str, Flood] = {
    "posts of UPGRADE packets": many(lambda u, t: posting(u, t, body="\x1e".join(["5"] * 32_700)), 4),
    "posts of PONGs": many(lambda u, t: posting(u, t, connect(), body="\x1e".join(["3"] * 32_700)), 4),
    "posts of acks": many(lambda u, t: posting(u, t, connect(), body="\x1e".join(["431[]"] * 10_000)), 4),
    "posts of requests": many(lambda u, t: posting(u, t, connect(), body="\x1e".join([STATUS.decode()] * 4_000)), 4),
    "namespaces with long names": many(
        lambda u, t: never_reading(u, t, pieces=frame(b"40/" + b"a" * 60_000 + b",")), 10
    ),
    "connects": many(lambda u, t: never_reading(u, t, pieces=frame(b'40{"userId":"u"}') * 1_000), 10),
    "requests": many(lambda u, t: never_reading(u, t, frame(connect().encode()), pieces=frame(STATUS) * 1_000), 10),
    "PONGs": many(lambda u, t: never_reading(u, t, pieces=frame(b"3") * 10_000), 10),
    "acks": many(lambda u, t: never_reading(u, t, frame(connect().encode()), pieces=frame(b"431[]") * 10_000), 10),
    "websocket PINGs": many(lambda u, t: never_reading(u, t, pieces=frame(b"x" * 125, 9) * 500), 10),
    "attachments": many(
        lambda u, t: never_reading(
            u,
            t,
            frame(connect().encode()),
            frame(b'45999999999-["status",{"_placeholder":true,"num":0}]'),
            pieces=frame(b"x" * 60_000, 2),
        ),
        10,
    ),
    "attachments of 8": many(
        lambda u, t: never_reading(
            u, t, frame(connect().encode()), frame(b'458-["status"]'), pieces=frame(b"x" * 60_000, 2)
        ),
        10,
    ),
    "probes": probing,
}
"""By what is sent."""


@dataclass
class Measured:
    """`grown` is the most resident memory during the flood over what it was before, in MB; `waits` are seconds that a
    bystander's requests took meanwhile."""

    grown: float = 0.0
    waits: list[float] = field(default_factory=list)

    @property
    def wait(self) -> float:
        """What nine of ten requests stayed below."""
        return sorted(self.waits)[int(len(self.waits) * 0.9)]


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


async def measure(url: str, pid: int, flood: Flood, seconds: float) -> Measured:
    """Flood the server while somebody else asks it for `/healthz`."""
    measured = Measured()
    before = resident(pid)
    until = time.monotonic() + seconds
    flooding = asyncio.ensure_future(flood(url, until))
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        while time.monotonic() < until:
            started = time.monotonic()
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            measured.waits.append(time.monotonic() - started)
            measured.grown = max(measured.grown, resident(pid) - before)
            await asyncio.sleep(0.02)
        await flooding
    finally:
        flooding.cancel()
        writer.transport.abort()
    return measured
