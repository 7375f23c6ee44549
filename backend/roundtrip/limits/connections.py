"""Accepts connections, and says it when there is no descriptor for one.

An event loop's own server does not: uvloop closes what it cannot accept without a word, asyncio leaves it hanging.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from roundtrip.runtime import Reserve

log = structlog.get_logger(__name__)

AT_ONCE: Final = 64
"""Connections that are accepted before the loop does something else."""

PAUSE: Final = 0.5
"""Seconds without accepting, where not even a refusal can be sent."""

SAY_AGAIN: Final = 10.0
"""Seconds between two log lines of the same kind."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor(asyncio.AbstractServer):
    """A server over sockets that listen already.

    `refused` counts each connection that there was no descriptor for; it gets `refusal` as its answer. With
    `serve_reserve` the reserve is not for refusals but for serving: that of the admin listener.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make: Callable[[], asyncio.Protocol],
        *,
        reserve: Reserve,
        serve_reserve: bool,
        refusal: bytes,
        refused: Callable[[], None],
        full: Callable[[int], bool] = lambda _starting: False,
    ) -> None:
        """`full` is asked with the connections that are on their way; whoever comes then is refused before anything is
        made for them. It counts that itself."""
        self.sockets = tuple(sockets)
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._reserve = reserve
        self._serve_reserve = serve_reserve
        self._refusal = refusal
        self._refused = refused
        self._full = full
        self._coming = 0
        """Accepted, and not yet known to whoever counts connections."""
        self._starting: set[asyncio.Task[object]] = set()
        self._resume: dict[int, asyncio.TimerHandle] = {}
        self._say_after = 0.0
        self._unsaid = 0
        self._closed = False
        for listener in self.sockets:
            self._listen(listener)

    # what aiohttp's site asks of a server

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for timer in self._resume.values():
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
        """It serves from the start."""

    async def serve_forever(self) -> None:
        raise NotImplementedError("a site serves until it is stopped")

    # accepting

    def _listen(self, listener: socket.socket) -> None:
        self._resume.pop(listener.fileno(), None)
        self._loop.add_reader(listener, self._ready, listener)

    def _ready(self, listener: socket.socket) -> None:
        self._reserve.refill()
        for _ in range(AT_ONCE):
            try:
                connection = listener.accept()[0]
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # gone while it waited
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    log.error("accept_failed", reason=error.strerror)
                elif not _somebody_waits(listener):
                    return  # the kernel looks for a descriptor first, and then for a connection
                elif self._without_descriptor(listener):
                    continue
                self._pause(listener)
                return
            if self._full(self._coming):
                self._refuse(connection)
            else:
                self._start(connection)

    def _without_descriptor(self, listener: socket.socket) -> bool:
        """Take a connection with a descriptor of the reserve: to serve it, or to refuse it. False if that fails."""
        serve = self._serve_reserve and len(self._reserve) > 0
        if not serve:
            self._say()
        if not self._reserve.give():
            return False
        try:
            connection = listener.accept()[0]
        except OSError:  # somebody else was quicker, with the descriptor or with the connection
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
        with suppress(OSError):  # gone already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task: asyncio.Task[object] = self._loop.create_task(
            self._loop.connect_accepted_socket(self._made, connection), name="accept"
        )
        self._coming += 1
        self._starting.add(task)
        task.add_done_callback(self._started)

    def _made(self) -> asyncio.Protocol:
        self._coming -= 1
        return self._make()

    def _started(self, task: asyncio.Task[object]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("connection_not_started", error=type(error).__name__)

    def _pause(self, listener: socket.socket) -> None:
        """A connection that cannot be taken stays ready for ever: look away for a moment."""
        self._loop.remove_reader(listener)
        self._resume[listener.fileno()] = self._loop.call_later(PAUSE, self._listen, listener)

    def _say(self) -> None:
        self._refused()
        self._unsaid += 1
        now = self._loop.time()
        if now >= self._say_after:
            log.error("connection_without_descriptor", count=self._unsaid)
            self._say_after = now + SAY_AGAIN
            self._unsaid = 0


def _somebody_waits(listener: socket.socket) -> bool:
    looking = select.poll()
    looking.register(listener, select.POLLIN)
    return bool(looking.poll(0))


async def bound(host: str, number: int, backlog: int) -> list[socket.socket]:
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
