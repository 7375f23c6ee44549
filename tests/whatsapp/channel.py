"""One client's connection: CONNECT proxy, TLS, websocket, frames, Noise. What comes out of it is nodes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import struct

from tests.whatsapp.nodes import Node, decode, encode
from tests.whatsapp.noise import Authority, Cipher, Handshake

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


PAUSE = 0.3
"""Seconds between the last node and the end of its stream."""

LINGER = 2.0
"""Seconds that a client has to hang up once the stream has ended."""


class ClosedError(Exception):
    """The client went away, or asked for something that is not WhatsApp's websocket."""


class Channel:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._receive: Cipher | None = None
        self._send: Cipher | None = None
        self.client_key = b""
        """The client's static Noise key: its device's identity for the server."""

    async def _head(self) -> tuple[str, dict[str, str]]:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            raise ClosedError from error
        first, *lines = head.split("\r\n")
        return first, {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }

    async def open(self, context: ssl.SSLContext, authority: Authority, chain: bytes) -> bytes:
        """Everything up to the client's payload, which is returned."""
        first, _ = await self._head()
        if not first.startswith("CONNECT "):
            raise ClosedError
        self._writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await self._writer.start_tls(context)
        except (OSError, ssl.SSLError) as error:
            raise ClosedError from error
        first, headers = await self._head()
        if "sec-websocket-key" not in headers or " /ws/chat" not in first:
            self._writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            raise ClosedError
        accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest())  # noqa: S324 -- the websocket protocol's own
        self._writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        handshake = Handshake(authority, chain, await self._raw(4))
        self._write(handshake.answer(await self._frame()))
        self.client_key, payload = handshake.finish(await self._frame())
        self._receive, self._send = handshake.ciphers()
        return payload

    async def _message(self) -> bytes:
        """One websocket message's data; control frames are answered on the way."""
        while True:
            try:
                first, second = await self._reader.readexactly(2)
                size = second & 127
                if size == 126:
                    (size,) = struct.unpack("!H", await self._reader.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
                mask = await self._reader.readexactly(4)
                data = await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, OSError) as error:
                raise ClosedError from error
            stretched = (mask * (size // 4 + 1))[:size]
            plain = (int.from_bytes(data, "big") ^ int.from_bytes(stretched, "big")).to_bytes(size, "big")
            opcode = first & 15
            if opcode == 8:
                raise ClosedError
            if opcode == 9:
                self._writer.write(bytes([0x8A, len(plain)]) + plain)
            elif opcode in (0, 2):
                return plain

    async def _raw(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += await self._message()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _frame(self) -> bytes:
        return await self._raw(int.from_bytes(await self._raw(3), "big"))

    def _write(self, frame: bytes) -> None:
        data = len(frame).to_bytes(3, "big") + frame
        head = bytes([0x82, len(data)]) if len(data) < 126 else b"\x82\x7e" + struct.pack("!H", len(data))
        if len(data) > 0xFFFF:
            head = b"\x82\x7f" + struct.pack("!Q", len(data))
        if not self._writer.is_closing():
            self._writer.write(head + data)

    async def receive(self) -> Node:
        assert self._receive is not None, "not open"
        return decode(self._receive.open(await self._frame()))

    def send(self, node: Node) -> None:
        assert self._send is not None, "not open"
        self._write(self._send.seal(encode(node)))

    def close(self) -> None:
        """As a server that ends a stream: soon, for the library drops what it has not yet handled when it closes."""
        asyncio.get_running_loop().call_later(PAUSE, self._close)

    def _close(self) -> None:
        if not self._writer.is_closing():
            self._writer.write(b"\x88\x02\x03\xe8")
            asyncio.get_running_loop().call_later(LINGER, self.abort)

    def abort(self) -> None:
        """As a network that fails."""
        self._writer.transport.abort()
