"""A port: how many connections, from how many of one address, and how long a request's head may take.

aiohttp bounds a head's size but not its time, and counts no connections; so each connection has a guard before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import msgspec
import structlog
from aiohttp import StreamReader, web

from roundtrip.api.http_handler import MAX_FIELD, MAX_LINE, HttpHandler
from roundtrip.api.problems import CONTENT_TYPE
from roundtrip.limits.addresses import Proxies, who
from roundtrip.limits.connections import Acceptor, bound
from roundtrip.limits.rates import Places
from roundtrip.runtime import Reserve

log = structlog.get_logger(__name__)

BACKLOG: Final = 1024

LINGER: Final = 2.0
"""Seconds for which the rest of a refused body is read, so that the refusal is not lost with a reset."""

SAY_AGAIN: Final = 10.0
"""Seconds between two log lines about requests that are malformed."""

_END_OF_HEAD: Final = b"\r\n\r\n"

MAX_HEAD: Final = 65_536
"""Bytes of a request's head in all: the parser bounds each line and their number, which is a megabyte and a half."""


def _at_once(status: str, code: str, title: str, detail: str, *headers: str) -> bytes:
    """A whole answer that closes the connection, for where no request was parsed."""
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


_FULL: Final = _at_once(
    "429 Too Many Requests", "rate_limited", "Rate limited", "Too many connections; close one.", "Retry-After: 5"
)
_HEAD_TOO_LARGE: Final = _at_once(
    "431 Request Header Fields Too Large",
    "head_too_large",
    "Head too large",
    f"A request's head may have {MAX_HEAD} bytes.",
)


class PortRules(msgspec.Struct, frozen=True):
    """Connections in all and from one address; seconds that a request's head may take; descriptors kept back, which
    serve connections when there are no others (`serve_reserve`), or refuse them."""

    connections: int = 20_000
    per_address: int = 10_000
    head_seconds: float = 10.0
    reserve: int = 1
    serve_reserve: bool = False


class Port:
    """What the connections of one listener share. `refused(limit)` counts each refusal, `malformed(reason)` each
    request that is none."""

    def __init__(
        self,
        rules: PortRules,
        proxies: Proxies | None = None,
        refused: Callable[[str], None] = lambda _limit: None,
        malformed: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.rules = rules
        self.refused = refused
        self._proxies = proxies or Proxies()
        self._malformed = malformed
        self._all = Places(rules.connections)
        self._addresses = Places(rules.per_address)
        self._say_after = 0.0
        self._unsaid = 0

    @property
    def open(self) -> int:
        return self._all.held("")

    def full(self, starting: int) -> bool:
        """Whether no place is left, with so many connections on their way."""
        if self.open + starting < self.rules.connections:
            return False
        self.refused("connections")
        return True

    def enter(self, address: str) -> bool:
        """Whether one more connection from this address fits. Proxies of ours speak for many, and count as nobody."""
        if not self._all.enter(""):
            self.refused("connections")
            return False
        if not self._proxies.trusts(address) and not self._addresses.enter(who(address)):
            self._all.leave("")
            self.refused("connections_per_address")
            return False
        return True

    def leave(self, address: str) -> None:
        self._all.leave("")
        if not self._proxies.trusts(address):
            self._addresses.leave(who(address))

    def malformed(self, reason: str) -> None:
        """A request is none: counted each time, logged now and then, for whoever sends one sends thousands."""
        self._malformed(reason)
        self._unsaid += 1
        now = asyncio.get_running_loop().time()
        if now >= self._say_after:
            log.info("request_malformed", reason=reason, count=self._unsaid)
            self._say_after = now + SAY_AGAIN
            self._unsaid = 0


class Connection(asyncio.Protocol):
    """Stands before the handler of a connection, and hands everything on.

    A head's deadline runs from the connection's first moment, or from a later head's first byte, until the handler has
    parsed a request: what the bytes look like is the parser's to say. A later head that began in the very packet that
    ended a body is not seen; such a connection is like an idle one.
    """

    __slots__ = (
        "_address",
        "_body",
        "_entered",
        "_handler",
        "_head",
        "_parsed",
        "_port",
        "_tail",
        "_timer",
        "_transport",
    )

    def __init__(self, handler: HttpHandler, port: Port) -> None:
        self._handler: HttpHandler | None = handler
        self._port = port
        self._address = ""
        self._entered = False
        """It has a place of the port's."""
        self._parsed = 0
        self._head = 0
        """Bytes of a head that is not whole yet."""
        self._body: StreamReader | None = None
        """What follows the request that was parsed last."""
        self._tail = b""
        """The last bytes before those that come now."""
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
        self._entered = True
        self._run_deadline()
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
            self._end_head(handler)
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
                self._run_deadline()  # a next head has begun behind this one
        elif not in_body:
            self._head += len(data)
            if self._timer is None and data.strip(b"\r\n"):
                self._run_deadline()

    def eof_received(self) -> None:
        if self._handler is not None:
            self._handler.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_deadline()
        handler, self._handler = self._handler, None
        if self._entered:
            self._port.leave(self._address)
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

    def _run_deadline(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._port.rules.head_seconds, self._late)

    def _stop_deadline(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_head(self, handler: HttpHandler) -> None:
        """More came than a head may have, and no request was parsed."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._port.malformed("head_too_large")
            if not handler.busy:  # or it would come in the middle of an answer
                transport.write(_HEAD_TOO_LARGE)
            transport.write_eof()  # what still comes is read and dropped: a reset would take the answer back
            self._stop_deadline()
            self._timer = asyncio.get_running_loop().call_later(LINGER, transport.abort)
        self._handler = None
        handler.connection_lost(None)

    def _late(self) -> None:
        """No whole request came: whoever opens connections and says nothing must not hold them."""
        self._timer = None
        if self._handler is not None and self._handler.busy:
            self._run_deadline()  # an earlier request is being answered: look again
            return
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
        server, port = self._runner.server, self._port
        if server is None:
            raise RuntimeError("the runner was not set up")
        http = server
        self._server = Acceptor(
            await bound(self._host, self._number, self._backlog),
            lambda: Connection(HttpHandler(http, port.malformed), port),
            reserve=Reserve(port.rules.reserve),
            serve_reserve=port.rules.serve_reserve,
            refusal=_FULL,
            refused=lambda: port.refused("descriptors"),
            full=port.full,
        )


async def listen(app: web.Application, host: str, number: int, port: Port, shutdown_timeout: float) -> web.AppRunner:
    """Serve an application. `shutdown_timeout` is in seconds. Raises `OSError` when the address cannot be bound."""
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
        await GuardedSite(runner, host, number, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
