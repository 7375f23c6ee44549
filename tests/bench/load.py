"""A lean load generator: many stock-protocol websockets that acknowledge every event, in one process.

`python -m tests.bench.load URL SOCKETS [reply]` connects SOCKETS sockets, each under its own key, prints `ready`, and
answers until its standard input closes; then it prints its figures as JSON. `reply` is `ack` (declared and given),
`quiet` (neither) or `polite` (given, not declared).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import uvloop

_UPGRADE = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)


def _masked(payload: bytes) -> bytes:
    """A client's text frame; the mask is zero, so masking changes nothing."""
    assert len(payload) < 126
    return bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload


_PONG = _masked(b"3")


class Client(asyncio.Protocol):
    """One socket: handshake, CONNECT, then an answer to each packet."""

    def __init__(self, host: str, user: str, reply: str, ready: asyncio.Future[None]) -> None:
        self._host = host
        self._user = user
        self._reply = reply
        self._ready = ready
        self._buffer = b""
        self._upgraded = False
        self.events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_UPGRADE.format(host=self._host, key="x3JJHMbDL1EzLkh9GBhXDw==").encode())

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        if not self._upgraded:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._buffer = data
                return
            if b" 101 " not in head[:20]:
                raise ConnectionError(head.decode(errors="replace"))
            self._upgraded = True
            data = rest
        out: list[bytes] = []
        at, size = 0, len(data)
        while size - at >= 2:
            length = data[at + 1]
            start = at + 2
            if length == 126:
                length = int.from_bytes(data[at + 2 : at + 4], "big")
                start = at + 4
            if size < start or size - start < length:
                break
            self._packet(data, start, start + length, out)
            at = start + length
        self._buffer = data[at:]
        if out:
            self._transport.write(b"".join(out))

    def _packet(self, data: bytes, start: int, end: int, out: list[bytes]) -> None:
        kind = data[start : start + 2]
        if kind == b"42":
            bracket = data.index(b"[", start, end)
            if bracket > start + 2:
                self.events += 1
                if self._reply != "quiet":
                    out.append(_masked(b"43" + data[start + 2 : bracket] + b"[]"))
        elif kind[:1] == b"2":
            out.append(_PONG)
        elif kind[:1] == b"0":
            auth = {"userId": self._user, "botId": "bot", "acks": self._reply == "ack"}
            out.append(_masked(b"40" + json.dumps(auth).encode()))
        elif kind == b"40" and not self._ready.done():
            self._ready.set_result(None)


def _same(client: Client) -> Client:
    return client


async def main(url: str, count: int, reply: str) -> None:
    loop = asyncio.get_running_loop()
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    clients: list[Client] = []
    for start in range(0, count, 100):
        ready: list[asyncio.Future[None]] = []
        for number in range(start, min(start + 100, count)):
            ready.append(loop.create_future())
            client = Client(address.netloc, f"user-{number}", reply, ready[-1])
            clients.append(client)
            await loop.create_connection(partial(_same, client), address.hostname, address.port)
        async with asyncio.timeout(30):
            await asyncio.gather(*ready)
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps({"events": sum(client.events for client in clients), "cpu": sum(os.times()[:2])}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "ack"))
