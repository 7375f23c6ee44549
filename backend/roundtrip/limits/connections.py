"""TCP connections of one listener: how many there may be, and accepting them even where descriptors run out.

An event loop's own server handles the latter badly: uvloop silently closes what it cannot accept, asyncio leaves it
hanging. Here such a connection is counted, logged, and refused or served with a descriptor held in reserve.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from roundtrip.limits.addresses import Proxies, address_group
from roundtrip.limits.rates import Slots
from roundtrip.runtime import Reserve
from roundtrip.settings import Settings

log = structlog.get_logger(__name__)

ACCEPT_BATCH: Final = 64
"""Connections that are accepted before the loop runs anything else."""

ACCEPT_PAUSE: Final = 0.5
"""Seconds without accepting, where not even a refusal can be sent."""

LOG_INTERVAL: Final = 10.0
"""Seconds between two log lines of the same kind."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class LogThrottle:
    """Decides when an event that may come in floods is logged again."""

    __slots__ = ("_next_at", "_unlogged")

    def __init__(self) -> None:
        self._next_at = 0.0
        self._unlogged = 0

    def due(self, now: float) -> int:
        """Count one event at `now`, seconds on the loop's clock: how many to log now, 0 while it is too early."""
        self._unlogged += 1
        if now < self._next_at:
            return 0
        count, self._unlogged = self._unlogged, 0
        self._next_at = now + LOG_INTERVAL
        return count


class ConnectionRules(msgspec.Struct, frozen=True):
    """Connections in all and from one address; seconds that a request's head may take; descriptors held in reserve,
    which serve connections when there are no others (`serve_reserve`), or refuse them."""

    connections: int = 20_000
    per_address: int = 10_000
    head_seconds: float = 10.0
    reserve: int = 1
    serve_reserve: bool = False

    @classmethod
    def of(cls, settings: Settings, connections: int) -> ConnectionRules:
        """The public listener's, with as many connections as there are descriptors for."""
        return cls(connections, settings.max_connections_per_address, settings.header_timeout)


class ConnectionLimits:
    """Counts the connections of one listener. `refused(limit)` is called for each refusal, `malformed(reason)` for each
    request that is not well-formed HTTP."""

    def __init__(
        self,
        rules: ConnectionRules,
        proxies: Proxies | None = None,
        refused: Callable[[str], None] = lambda _limit: None,
        malformed: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self.rules = rules
        self.refused = refused
        self._proxies = proxies or Proxies()
        self._malformed = malformed
        self._total = Slots(rules.connections)
        self._by_address = Slots(rules.per_address)
        self._throttle = LogThrottle()

    @property
    def open(self) -> int:
        return self._total.held("")

    def full(self, starting: int) -> bool:
        """Whether no connection more fits, with `starting` on their way; counts the refusal."""
        if self.open + starting < self.rules.connections:
            return False
        self.refused("connections")
        return True

    def acquire(self, address: str) -> bool:
        """Whether one more connection from this address fits. A trusted proxy has many clients: only the total bounds
        its connections."""
        if not self._total.acquire(""):
            self.refused("connections")
            return False
        if not self._proxies.trusts(address) and not self._by_address.acquire(address_group(address)):
            self._total.release("")
            self.refused("connections_per_address")
            return False
        return True

    def release(self, address: str) -> None:
        self._total.release("")
        if not self._proxies.trusts(address):
            self._by_address.release(address_group(address))

    def malformed(self, reason: str) -> None:
        """Count a malformed request; logged now and then only, for they come by the thousand."""
        self._malformed(reason)
        if count := self._throttle.due(asyncio.get_running_loop().time()):
            log.info("request_malformed", reason=reason, count=count)


class Acceptor(asyncio.AbstractServer):
    """A server over listening sockets.

    `refused` counts each connection that there was no descriptor for; its client is sent `refusal`. With
    `serve_reserve` the reserve serves connections instead of refusing them: the admin listener's.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocol_factory: Callable[[], asyncio.Protocol],
        *,
        reserve: Reserve,
        serve_reserve: bool,
        refusal: bytes,
        refused: Callable[[], None],
        full: Callable[[int], bool] = lambda _starting: False,
    ) -> None:
        """`full(starting)` is called before anything is made for a connection, with the number of those being set up;
        True refuses it. It counts that itself."""
        self.sockets = tuple(sockets)
        self._loop = asyncio.get_running_loop()
        self._protocol_factory = protocol_factory
        self._reserve = reserve
        self._serve_reserve = serve_reserve
        self._refusal = refusal
        self._refused = refused
        self._full = full
        self._accepted = 0
        """Accepted, and not yet counted by `ConnectionLimits`."""
        self._starting: set[asyncio.Task[object]] = set()
        self._paused: dict[int, asyncio.TimerHandle] = {}
        self._throttle = LogThrottle()
        self._closed = False
        for listener in self.sockets:
            self._listen(listener)

    # the part of a server's interface that aiohttp's site uses

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for timer in self._paused.values():
            timer.cancel()
        for listener in self.sockets:
            self._loop.remove_reader(listener)
            listener.close()
        self._reserve.close()

    async def wait_closed(self) -> None:
        if self._starting:
            await asyncio.wait(self._starting)

    def is_serving(self) -> bool:
        return not self._closed

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    async def start_serving(self) -> None:
        """Serves from the start."""

    async def serve_forever(self) -> None:
        raise NotImplementedError("a site serves until it is stopped")

    # accepting

    def _listen(self, listener: socket.socket) -> None:
        self._paused.pop(listener.fileno(), None)
        self._loop.add_reader(listener, self._on_readable, listener)

    def _on_readable(self, listener: socket.socket) -> None:
        self._reserve.refill()
        for _ in range(ACCEPT_BATCH):
            try:
                connection = listener.accept()[0]
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # the client went while it waited
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    log.error("accept_failed", reason=error.strerror)
                elif not _has_waiting(listener):
                    return  # the kernel takes a descriptor first, and looks for a connection then
                elif self._without_descriptor(listener):
                    continue
                self._pause(listener)
                return
            if self._full(self._accepted):
                self._refuse(connection)
            else:
                self._start(connection)

    def _without_descriptor(self, listener: socket.socket) -> bool:
        """Take a connection with a descriptor of the reserve: to serve it, or to refuse it. False if that fails."""
        serve = self._serve_reserve and len(self._reserve) > 0
        if not serve:
            self._count_refusal()
        if not self._reserve.release():
            return False
        try:
            connection = listener.accept()[0]
        except OSError:  # another thread took the descriptor, or the client went
            return False
        if serve:
            self._start(connection)
            return True
        self._refuse(connection)
        self._reserve.refill()
        return True

    def _refuse(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.setblocking(False)
            connection.send(self._refusal)
            connection.shutdown(socket.SHUT_WR)

    def _start(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):  # disconnected already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task: asyncio.Task[object] = self._loop.create_task(
            self._loop.connect_accepted_socket(self._make_protocol, connection), name="accept"
        )
        self._accepted += 1
        self._starting.add(task)
        task.add_done_callback(self._on_started)

    def _make_protocol(self) -> asyncio.Protocol:
        self._accepted -= 1
        return self._protocol_factory()

    def _on_started(self, task: asyncio.Task[object]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("connection_not_started", error=type(error).__name__)

    def _pause(self, listener: socket.socket) -> None:
        """A connection that cannot be accepted keeps the listener readable: stop watching it for a moment."""
        self._loop.remove_reader(listener)
        self._paused[listener.fileno()] = self._loop.call_later(ACCEPT_PAUSE, self._listen, listener)

    def _count_refusal(self) -> None:
        self._refused()
        if count := self._throttle.due(self._loop.time()):
            log.error("connection_without_descriptor", count=count)


def _has_waiting(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


async def bind(host: str, number: int, backlog: int) -> list[socket.socket]:
    """Listening sockets of every address that `host` stands for. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            listener = socket.create_server(address, family=family, backlog=backlog)
            sockets.append(listener)
            listener.setblocking(False)
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    return sockets
