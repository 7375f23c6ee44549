"""One client's connection: CONNECT proxy, TLS, websocket, frames, Noise. What comes out of it is nodes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
import ssl
import struct
from collections.abc import Callable

from tests.whatsapp.nodes import Node, decode, encode
from tests.whatsapp.noise import Authority, Cipher, Handshake
from tests.whatsapp.troubles import How, Stage, Troubles, swallow

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
        self.frozen = False
        self.stages: list[Stage] = []
        """The stages that were reached."""

    async def _head(self) -> tuple[str, dict[str, str]]:
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            raise ClosedError from error
        first, *lines = head.split("\r\n")
        return first, {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }

    async def proxy(self, context: ssl.SSLContext, troubles: Troubles) -> str:
        """Up to TLS, as the proxy and the server behind it. The host that the client wants."""
        await self._gate(troubles, Stage.TCP, b"")
        first, _ = await self._head()
        if not first.startswith("CONNECT "):
            raise ClosedError
        await self._gate(
            troubles, Stage.PROXY, b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n"
        )
        self._writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._gate(troubles, Stage.TLS, b"\x15\x03\x03\x00\x02\x02\x28", b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            await self._writer.start_tls(context)
        except (OSError, ssl.SSLError) as error:
            raise ClosedError from error
        return first.split(" ")[1].partition(":")[0]

    async def serve_file(self, fetch: Callable[[str], bytes | None]) -> None:
        """One request of a media server: GET, or DELETE of a file that was fetched."""
        first, _ = await self._head()
        found = fetch(first.split(" ")[1].partition("?")[0]) if first.startswith("GET ") else b""
        status = b"404 Not Found" if found is None else b"200 OK"
        body = found or b""
        head = b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
        self._writer.write(head + body)
        with contextlib.suppress(OSError):
            await self._writer.drain()
        raise ClosedError

    async def open(self, authority: Authority, chain: bytes, troubles: Troubles) -> bytes:
        """From the websocket's request up to the client's payload, which is returned."""
        first, headers = await self._head()
        if "sec-websocket-key" not in headers or " /ws/chat" not in first:
            self._writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            raise ClosedError
        switch = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        )
        refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        await self._gate(troubles, Stage.WEBSOCKET, refusal, switch + b"bm8=\r\n\r\n")
        accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest())  # noqa: S324 -- the websocket protocol's own
        self._writer.write(switch + accept + b"\r\n\r\n")
        handshake = Handshake(authority, chain, await self._raw(4))
        hello = await self._frame()
        await self._gate(troubles, Stage.NOISE, b"\x88\x02\x03\xf3", b"\x82\x33\x00\x00\x30" + secrets.token_bytes(48))
        self._write(handshake.answer(hello))
        self.client_key, payload = handshake.finish(await self._frame())
        self._receive, self._send = handshake.ciphers()
        return payload

    async def _gate(self, troubles: Troubles, stage: Stage, refusal: bytes, lie: bytes = b"") -> None:
        """Pass a stage, or end there. Raises `ClosedError`."""
        self.stages.append(stage)
        how = troubles.at(stage)
        if how is None:
            return
        if how is not How.HANG:
            self._writer.write(refusal if how is How.REFUSE else lie)
            with contextlib.suppress(OSError):
                await self._writer.drain()
        if how is not How.REFUSE:
            with contextlib.suppress(OSError):
                await swallow(self._reader)
        raise ClosedError

    def freeze(self) -> None:
        """As a network that has forgotten the connection: nothing passes any more, and neither end is told."""
        self.frozen = True
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # every socket's transport can

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
        if len(data) < 126:
            head = bytes([0x82, len(data)])
        elif len(data) <= 0xFFFF:
            head = b"\x82\x7e" + struct.pack("!H", len(data))
        else:
            head = b"\x82\x7f" + struct.pack("!Q", len(data))
        if not self._writer.is_closing() and not self.frozen:
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
        if not self._writer.is_closing() and not self.frozen:
            self._writer.write(b"\x88\x02\x03\xe8")
            asyncio.get_running_loop().call_later(LINGER, self.abort)

    def abort(self) -> None:
        """As a network that fails."""
        self._writer.transport.abort()
