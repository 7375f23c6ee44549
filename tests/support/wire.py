"""One TCP connection written and read by hand: cheap enough for thousands, and rude where a test wants it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

POLLING = "/socket.io/?EIO=4&transport=polling"
WEBSOCKET = "/socket.io/?EIO=4&transport=websocket"


def frame(text: str | bytes, opcode: int = 1) -> bytes:
    """A whole client frame; masked with zeros, which is a mask like any other."""
    payload = text.encode() if isinstance(text, str) else text
    length = len(payload)
    head = bytes([0x80 | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 1 << 16:
        head += b"\xfe" + struct.pack(">H", length)
    else:
        head += b"\xff" + struct.pack(">Q", length)
    return head + b"\0\0\0\0" + payload


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """A whole HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Wire:
    """Raises `ConnectionError` or `asyncio.IncompleteReadError` when the other side ends it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._at = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.sent = 0
        """Bytes written."""

    async def open(self) -> Wire:
        self.reader, self.writer = await asyncio.open_connection(*self._at, limit=1 << 20)
        return self

    async def send(self, data: bytes) -> None:
        self.sent += len(data)
        self.writer.write(data)
        await self.writer.drain()

    def deaf(self) -> None:
        """Read nothing any more, so that the other side's answers stay with it."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a write transport here is a whole one

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """One request; status and body."""
        await self.send(request(method, path, body))
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)

    async def websocket(self, path: str = WEBSOCKET) -> int:
        """Ask for a websocket; the status, 101 when it stands."""
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", key)
        await self.send(request("GET", path, b"", *upgrade))
        head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])

    async def message(self) -> bytes:
        """The payload of the next frame; empty for a control frame."""
        first, length = await self.reader.readexactly(2)
        if length == 126:
            [length] = struct.unpack(">H", await self.reader.readexactly(2))
        elif length == 127:
            [length] = struct.unpack(">Q", await self.reader.readexactly(8))
        payload = await self.reader.readexactly(length)
        return payload if first & 0x0F < 8 else b""

    async def until(self, start: bytes) -> bytes:
        """Read messages until one begins so."""
        while not (message := await self.message()).startswith(start):
            pass
        return message

    async def sid(self) -> str:
        """A polling handshake; the Engine.IO sid."""
        status, body = await self.ask("GET", POLLING)
        if status != 200:
            raise ConnectionError(f"{status}: {body[:200]!r}")
        return str(json.loads(body[1:])["sid"])

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """End with a TCP reset."""
        raw: Any = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
