"""Serves an application on a TCP port, with a guard before each connection.

aiohttp bounds the size of a request's lines but neither the time of its head nor that of all heads together, and it
counts no connections. The guard does, and passes everything else on to the HTTP handler.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Final, cast

import msgspec
from aiohttp import StreamReader, web

from roundtrip.api.http_handler import MAX_FIELD, MAX_LINE, HttpHandler
from roundtrip.api.problems import CONTENT_TYPE
from roundtrip.limits.connections import Acceptor, ConnectionLimits, bind
from roundtrip.limits.loop_turns import LoopTurns
from roundtrip.runtime import Reserve
from roundtrip.settings import PREFIX

BACKLOG: Final = 4096
"""Connections that the kernel completes before they are accepted: what comes beyond is dropped, and tried again by its
client after a second. Linux bounds it by `net.core.somaxconn`, 4096 too."""

REQUESTS_PER_TURN: Final = 16
"""Requests of all connections that begin in one turn of the event loop: some 200 µs each."""

UNPRIVILEGED: Final = 1024
"""The first port that every user may listen on."""

LINGER: Final = 2.0
"""Seconds for which the rest of a refused body is read, so that the refusal is not lost with a reset."""

_END_OF_HEAD: Final = b"\r\n\r\n"

MAX_HEAD: Final = 65_536
"""Bytes of a request's head in all: the parser bounds each line and their number, which is a megabyte and a half."""


def _raw_response(status: str, code: str, title: str, detail: str, *headers: str) -> bytes:
    """A whole problem response that closes the connection, for where no request was parsed."""
    problem = {
        "type": f"urn:roundtrip:problem:{code}",
        "title": title,
        "status": int(status[:3]),
        "detail": detail,
        "code": code,
    }
    body = msgspec.json.encode(problem)
    head = [f"HTTP/1.1 {status}", f"Content-Type: {CONTENT_TYPE}", *headers, "Connection: close"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


_TOO_MANY: Final = _raw_response(
    "429 Too Many Requests", "rate_limited", "Rate limited", "Too many connections; close one.", "Retry-After: 5"
)
_HEAD_TOO_LARGE: Final = _raw_response(
    "431 Request Header Fields Too Large",
    "head_too_large",
    "Head too large",
    f"A request's head may have {MAX_HEAD} bytes.",
)


class ConnectionGuard(asyncio.Protocol):
    """Takes a slot for a connection, bounds each request's head in time and size, and passes everything to the handler.

    A head's deadline runs from the connection's first moment, or from a later head's first byte, until the handler has
    parsed a request: only the parser can tell where a head ends. A later head that began in the very packet that ended
    a body is not noticed; such a connection is treated as idle.
    """

    __slots__ = (
        "_address",
        "_body",
        "_handler",
        "_has_slot",
        "_head",
        "_limits",
        "_parsed",
        "_tail",
        "_timer",
        "_transport",
    )

    def __init__(self, handler: HttpHandler, limits: ConnectionLimits) -> None:
        self._handler: HttpHandler | None = handler
        self._limits = limits
        self._address = ""
        self._has_slot = False
        self._parsed = 0
        self._head = 0
        """Bytes of an incomplete head so far."""
        self._body: StreamReader | None = None
        """The body of the request that was parsed last, None without one."""
        self._tail = b""
        """The last bytes received before the current ones."""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._limits.acquire(self._address):
            self._handler = None
            self._transport.write(_TOO_MANY)
            self._transport.close()
            return
        self._has_slot = True
        self._start_deadline()
        if self._handler is not None:
            self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        handler = self._handler
        if handler is None:
            return
        if handler.upgraded:
            self._stop_deadline()
            self._body = None
            handler.data_received(data)
            return
        in_body = self._body is not None and not self._body.is_eof()
        if self._head > MAX_HEAD:
            self._refuse_head(handler)
            return
        handler.data_received(data)
        ending = (self._tail + data)[-4:]
        self._tail = ending[-3:]
        if handler.parsed != self._parsed:
            self._parsed = handler.parsed
            self._head = 0
            self._stop_deadline()
            body = handler.newest_body
            self._body = body
            if body is None and ending != _END_OF_HEAD and not handler.upgraded:
                self._start_deadline()  # the next head has begun behind this one
        elif not in_body:
            self._head += len(data)
            if self._timer is None and data.strip(b"\r\n"):
                self._start_deadline()

    def eof_received(self) -> None:
        if self._handler is not None:
            self._handler.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_deadline()
        handler, self._handler = self._handler, None
        if self._has_slot:
            self._limits.release(self._address)
        if handler is not None:
            handler.connection_lost(error)
        self._body = None
        self._transport = None

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def _start_deadline(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._limits.rules.head_seconds, self._on_deadline)

    def _stop_deadline(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_head(self, handler: HttpHandler) -> None:
        """More bytes came than a head may have, and no request was parsed."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._limits.malformed("head_too_large")
            if not handler.busy:  # or it would end up within another response
                transport.write(_HEAD_TOO_LARGE)
            transport.write_eof()  # what still comes is read and dropped: a reset would discard the response
            self._stop_deadline()
            self._timer = asyncio.get_running_loop().call_later(LINGER, transport.abort)
        self._handler = None
        handler.connection_lost(None)

    def _on_deadline(self) -> None:
        """No whole request came in time: an idle client must not hold the connection."""
        self._timer = None
        if self._handler is not None and self._handler.busy:
            self._start_deadline()  # an earlier request is still being answered: check again later
            return
        self._limits.refused("slow_request")
        if self._transport is not None:
            self._transport.abort()


class GuardedSite(web.BaseSite):
    """Like `web.TCPSite`, with a guard before each connection."""

    __slots__ = ("_host", "_limits", "_port")

    def __init__(self, runner: web.AppRunner, host: str, port: int, limits: ConnectionLimits) -> None:
        """`port` 0 is a free one."""
        super().__init__(runner, backlog=BACKLOG)
        self._host = host
        self._port = port
        self._limits = limits

    @property
    def name(self) -> str:
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Raises `OSError` when the address cannot be bound."""
        await super().start()
        server, limits = self._runner.server, self._limits
        if server is None:
            raise RuntimeError("the runner was not set up")
        http, turns = server, LoopTurns(REQUESTS_PER_TURN)
        self._server = Acceptor(
            await bind(self._host, self._port, self._backlog),
            lambda: ConnectionGuard(HttpHandler(http, limits.malformed, turns), limits),
            reserve=Reserve(limits.rules.reserve),
            serve_reserve=limits.rules.serve_reserve,
            refusal=_TOO_MANY,
            refused=lambda: limits.refused("descriptors"),
            full=limits.full,
        )


async def listen(
    app: web.Application,
    host: str,
    port: int,
    limits: ConnectionLimits,
    shutdown_timeout: float = 1.0,
    settings: str = "",
) -> web.AppRunner:
    """Serve an application. `shutdown_timeout` is in seconds. Raises `OSError` when the address cannot be bound; its
    message names the settings, whose names begin with `settings`."""
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=shutdown_timeout,
        max_line_size=MAX_LINE,
        max_field_size=MAX_FIELD,
        lingering_time=LINGER,
    )
    await runner.setup()
    try:
        await GuardedSite(runner, host, port, limits).start()
    except OSError as error:
        await runner.cleanup()
        raise OSError(explain(error, host, port, settings)) from error
    return runner


def explain(error: OSError, host: str, port: int, settings: str) -> str:
    """Why an address cannot be bound, and which setting changes that. `settings` is `ADMIN_` or nothing."""
    port_setting, host_setting = f"{PREFIX}{settings}PORT", f"{PREFIX}{settings}HOST"
    cures = {
        errno.EADDRINUSE: f"the port is in use: end the program that has it, or set {port_setting} to another one",
        errno.EACCES: f"this user may not use the port: set {port_setting} to {UNPRIVILEGED} or more",
        errno.EADDRNOTAVAIL: f"no address of this machine: set {host_setting} to one",
    }
    cure = cures.get(error.errno or 0, f"{error.strerror or error}: set {host_setting} and {port_setting}")
    return f"cannot listen on {host}:{port}: {cure}"


def url_of(runner: web.AppRunner) -> str:
    """The URL of a listener, with the port that it was given."""
    host, port = runner.addresses[0][:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
