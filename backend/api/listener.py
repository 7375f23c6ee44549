"""The public port: how many connections, from how many of one address, and how long a request's head may take.

aiohttp bounds a head's size but not its time, and counts no connections; so each connection has a guard before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from aiohttp import web

from backend.limits import Places
from backend.proxies import Proxies

BACKLOG: Final = 1024

MAX_LINE: Final = 16_384
"""Bytes of a request's first line, and of one header: a long id is refused by name, not by the parser."""

LINGER: Final = 2.0
"""Seconds for which the rest of a refused body is read, so that the refusal is not lost with a reset."""

_END_OF_HEAD: Final = b"\r\n\r\n"

_REFUSAL: Final = (
    b'{"type":"urn:roundtrip:problem:rate_limited","title":"Rate limited","status":429,'
    b'"detail":"Too many connections; close one.","code":"rate_limited"}'
)
_FULL: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_REFUSAL), _REFUSAL)
)


class PortRules(msgspec.Struct, frozen=True):
    """Connections in all and from one address; seconds until a new connection's first request must be there."""

    connections: int = 20_000
    per_address: int = 10_000
    head_seconds: float = 10.0


class Port:
    """What the connections of one listener share. `refused(limit)` counts each refusal."""

    def __init__(
        self, rules: PortRules, proxies: Proxies | None = None, refused: Callable[[str], None] = lambda _limit: None
    ) -> None:
        self.rules = rules
        self.refused = refused
        self._proxies = proxies or Proxies()
        self._all = Places(rules.connections)
        self._addresses = Places(rules.per_address)

    @property
    def open(self) -> int:
        return self._all.held("")

    def enter(self, address: str) -> bool:
        """Whether one more connection from this address fits. Proxies of ours speak for many, and count as nobody."""
        if not self._all.enter(""):
            self.refused("connections")
            return False
        if not self._proxies.trusts(address) and not self._addresses.enter(address):
            self._all.leave("")
            self.refused("connections_per_address")
            return False
        return True

    def leave(self, address: str) -> None:
        self._all.leave("")
        if not self._proxies.trusts(address):
            self._addresses.leave(address)


class Connection(asyncio.Protocol):
    """Stands before aiohttp's own handler of a connection, and hands everything on."""

    __slots__ = ("_address", "_handler", "_port", "_tail", "_timer", "_transport")

    def __init__(self, handler: asyncio.Protocol, port: Port) -> None:
        self._handler: asyncio.Protocol | None = handler
        self._port = port
        self._address = ""
        self._tail = b""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._port.enter(self._address):
            self._handler = None
            self._transport.write(_FULL)
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._port.rules.head_seconds, self._late)
        if self._handler is not None:
            self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            seen = self._tail + data
            if _END_OF_HEAD in seen:
                self._timer.cancel()
                self._timer = None
                self._tail = b""
            else:
                self._tail = seen[-3:]
        if self._handler is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._handler is None else self._handler.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._handler is not None:
            self._port.leave(self._address)
            self._handler.connection_lost(error)
        self._transport = None

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def _late(self) -> None:
        """No whole request came: whoever opens connections and says nothing must not hold them."""
        self._timer = None
        self._port.refused("slow_request")
        if self._transport is not None:
            self._transport.abort()


class GuardedSite(web.BaseSite):
    """Like `web.TCPSite`, with a guard before each connection."""

    __slots__ = ("_host", "_number", "_port")

    def __init__(self, runner: web.AppRunner, host: str, number: int, port: Port) -> None:
        """`number` is the TCP port's, 0 for a free one."""
        super().__init__(runner, backlog=BACKLOG)
        self._host = host
        self._number = number
        self._port = port

    @property
    def name(self) -> str:
        return f"http://{self._host}:{self._number}"

    async def start(self) -> None:
        """Raises `OSError` when the address cannot be bound."""
        await super().start()
        server = cast("Callable[[], Any]", self._runner.server)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(server(), self._port), self._host, self._number, backlog=self._backlog
        )


async def listen(app: web.Application, host: str, number: int, port: Port, shutdown_timeout: float) -> web.AppRunner:
    """Serve an application. `shutdown_timeout` is in seconds. Raises `OSError` when the address cannot be bound."""
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=shutdown_timeout,
        max_line_size=MAX_LINE,
        max_field_size=MAX_LINE,
        lingering_time=LINGER,
    )
    await runner.setup()
    try:
        await GuardedSite(runner, host, number, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
