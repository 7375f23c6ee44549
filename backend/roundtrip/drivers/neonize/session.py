"""One session inside its worker: the library's events in, reports out, the driver's commands executed.

A session ends by itself after a report that nothing can follow, or on a command; `host.py` runs it, and ends the
library's part of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Callable
from typing import Any, Final

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.library_events import (
    READERS,
    TERMINAL,
    LibraryLog,
    error_report,
    phone_number,
)
from roundtrip.drivers.neonize.pairing import Pairing

NAME_TIMEOUT: Final = 3.0
"""Seconds to wait for the account's name after the first Connected; WhatsApp sends it a little later."""
NAME_POLL: Final = 0.1
LOGOUT_TIMEOUT: Final = 8.0
"""Seconds for a logout: for the connection, when there is none yet, and for WhatsApp's reply together."""
REPORT_DELAY: Final = 1.0
PING_TIMEOUT: Final = 180.0
"""Seconds without an answered ping after which whatsmeow (`KeepAliveMaxFailTime`) reconnects without an event."""
LATE_LOSS: Final = 5.0
"""Seconds in which the library may tell a loss after the connection that followed it: a goroutine tells each."""
LATE_LOSS_CHECK: Final = 1.0
"""Seconds that it has to say whether it is connected, then."""

HAND_OVER_LIMIT: Final = 5.0
"""Seconds that the library is kept from logging in after a pairing, until the pairing itself was reported."""
REGISTER_POLL: Final = 0.005


class Connection(enum.Enum):
    """The library's connection to WhatsApp, as its events describe it."""

    UNREGISTERED = enum.auto()
    """No event yet: the Go side may not know this session, and a call into it would end the process."""
    OFFLINE = enum.auto()
    """None, or one that is not authenticated yet."""
    ONLINE = enum.auto()
    """Connected came for the connection that stands."""
    DEGRADED = enum.auto()
    """As ONLINE, with pings unanswered."""


class WorkerSession:
    """Events, codes and timers go through one queue, so that reports are in the order in which their causes came.

    `write` takes what is for the driver: reports, and `HandledError` and `AliveReply` of the protocol.
    """

    def __init__(
        self, write: Callable[[Any], None], begin: pipe.Open, client: Any, library: Any, proxy: str | None = None
    ) -> None:
        self.write = write
        self._begin = begin
        self._client = client
        self._library = library
        self._proxy = proxy
        self._queue: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self.paired = begin.paired
        self._login_due = False
        """WhatsApp asked for the login that follows a pairing."""
        self._connected_before = False
        self._connection = Connection.UNREGISTERED
        self._authenticated = asyncio.Event()
        """Set while ONLINE or DEGRADED."""
        self._loss_due = 0.0
        """Until then, the loss before the newest Connected may be told; 0 when it was."""
        self._alive_check: asyncio.Task[bool] | None = None
        self._call: asyncio.Task[None] | None = None
        """The library's own call, which lasts as long as the session."""
        self.over = False
        self.handed_over = False
        """Whether it is over since it has paired: the login is another worker's."""

    async def run(self) -> None:
        """Connect, and serve until the session is over."""
        self._subscribe()
        proxy = self._library.ProxySettings(self._proxy) if self._proxy else None
        self._call = await self._client.connect(proxy)
        self._call.add_done_callback(lambda task: self.enqueue(self._on_connection_ended, task))
        while not self.over:
            step = await self._queue.get()
            try:
                result = step()
                if asyncio.iscoroutine(result):
                    await result
            except Exception as error:  # noqa: BLE001 -- one event that cannot be read must not end the session; it is counted
                self.write(pipe.HandledError(type(error).__name__))

    async def registered(self) -> None:
        """Return once the library has entered this session in its tables for good: it is up, or has failed."""
        while (  # noqa: ASYNC110  the library's thread sets it
            not self.over
            and (self._call is None or not self._call.done())
            and not self._library.is_running(self._client)
        ):
            await asyncio.sleep(REGISTER_POLL)

    async def end_library(self) -> None:
        """End the library's session. Waits for as long as the library dials, which may be minutes."""
        if self._call is None:
            return
        with contextlib.suppress(Exception):
            await self._client.stop()
        await asyncio.wait({self._call})
        with contextlib.suppress(Exception):
            await self._client.stop()  # the first may have come before the library knew the session

    def finish(self) -> None:
        """It is over: no report follows. `run` returns."""
        self.over = True
        self._queue.put_nowait(lambda: None)

    def report(self, report: d.Report) -> None:
        """Write a report, unless the session is over; one that nothing can follow ends it."""
        if self.over:
            return
        self.write(report)
        if isinstance(report, TERMINAL):
            self.finish()

    def enqueue(self, step: Callable[..., Any], *args: Any) -> None:
        """Run a step after those that came before."""
        self._queue.put_nowait(lambda: step(*args))

    def _set_connection(self, connection: Connection) -> None:
        self._connection = connection
        if connection in (Connection.ONLINE, Connection.DEGRADED):
            self._authenticated.set()
        else:
            self._authenticated.clear()

    # the library's events

    def _subscribe(self) -> None:
        """One handler per event, which only enqueues: the library drops what a handler raises."""
        client = self._client
        loop = asyncio.get_running_loop()

        def on_lost(error: str) -> None:
            loop.call_soon_threadsafe(self.enqueue, self._on_lost, error)

        def on_login_due() -> None:
            """Called in the library's thread, which waits here: where another worker logs in, this one must not."""
            if self._begin.hand_over:
                loop.call_soon_threadsafe(self.enqueue, self._on_login_due)
                time.sleep(HAND_OVER_LIMIT)  # the process ends meanwhile

        self._log = LibraryLog(on_lost, on_login_due)
        Pairing(self, self._begin, client, self._library, self._log).subscribe()
        self._library.read_log(self._log.feed, pairing=not self.paired)
        for name in (*READERS, "Connected"):

            async def on_event(_client: Any, message: Any, name: str = name) -> None:
                self.enqueue(self._on_event, name, message)

            client.event(self._library.EVENTS[name])(on_event)

    def registered_by_event(self) -> None:
        """The library reported something, so it knows the session."""
        if self._connection is Connection.UNREGISTERED:
            self._set_connection(Connection.OFFLINE)

    async def _on_event(self, name: str, message: Any) -> None:
        self.registered_by_event()
        if name == "Connected":
            await self._on_connected()
            return
        report = READERS[name](message)
        match report:
            case d.PairSucceeded():
                self.paired = True
                self.report(report)
                self._hand_over(when=self._login_due)
                return
            case d.Offline():
                if not await self._is_over_already():
                    self._on_disconnected()
                return
            case d.KeepAliveLost():
                if self._authenticated.is_set() and time.time() - message.LastSuccess > PING_TIMEOUT:
                    self._set_connection(Connection.OFFLINE)
                    self.report(d.Offline())
                    return
                if self._connection is not Connection.ONLINE:
                    return  # the event is repeated for each further ping that goes unanswered
                self._set_connection(Connection.DEGRADED)
            case d.KeepAliveRestored():
                if self._connection is not Connection.DEGRADED:
                    return
                self._set_connection(Connection.ONLINE)
        self.report(report)

    def _on_disconnected(self) -> None:
        self._set_connection(Connection.OFFLINE)
        # while codes are shown, the library does not reconnect
        lost = d.Unreachable("the connection was lost before a phone was paired")
        self.report(d.Offline() if self.paired else lost)

    async def _is_over_already(self) -> bool:
        """Whether a loss was told late: the connection after it had been told before."""
        loop = asyncio.get_running_loop()
        due, self._loss_due = self._loss_due, 0.0
        if loop.time() >= due:
            return False
        try:
            async with asyncio.timeout(LATE_LOSS_CHECK):
                return bool(await self._client.is_connected)
        except TimeoutError:
            return False  # it dials

    def _on_login_due(self) -> None:
        self._login_due = True
        self._hand_over(when=self.paired)

    def _hand_over(self, *, when: bool) -> None:
        if when and self._begin.hand_over:
            self.handed_over = True
            self.finish()

    async def _on_connected(self) -> None:
        first, self._connected_before = not self._connected_before, True
        self.paired = True
        if self._authenticated.is_set():
            self._loss_due = asyncio.get_running_loop().time() + LATE_LOSS
        self._set_connection(Connection.ONLINE)
        if self._begin.hand_over:  # it logged in all the same: the next worker does so again
            self._hand_over(when=True)
            return
        me = await self._client.get_me()
        remaining = NAME_TIMEOUT if first else 0.0
        while not me.PushName and not me.BussinessName and remaining > 0 and self._queue.empty():
            remaining -= NAME_POLL
            await asyncio.sleep(NAME_POLL)
            me = await self._client.get_me()
        self.report(d.Online(phone_number(me.JID.User), me.PushName or me.BussinessName))

    def _on_lost(self, error: str) -> None:
        """The one reconnect after a 515 failed, and the library makes no other: a fresh process may try again."""
        self._set_connection(Connection.OFFLINE)
        self.report(error_report(error, self._log.refusal))

    def _on_connection_ended(self, task: asyncio.Task[None]) -> None:
        """The library gave up: the first dial failed, or a refusal that it cannot read."""
        error = None if task.cancelled() else task.exception()
        self.report(error_report(str(error), self._log.refusal))

    # the driver's commands

    def answer_alive(self, number: int) -> None:
        """The library is asked only while authenticated, and by one call at a time: a call waits for the library's
        lock, which it holds while it dials, and takes a thread meanwhile."""
        if not self._authenticated.is_set():
            self.write(pipe.AliveReply(number, False))
            return
        if self._alive_check is None or self._alive_check.done():
            self._alive_check = asyncio.create_task(self._check_alive())
        self._alive_check.add_done_callback(lambda task: self._reply_alive(number, task))

    def _reply_alive(self, number: int, task: asyncio.Task[bool]) -> None:
        failed = task.cancelled() or task.exception() is not None
        self.write(pipe.AliveReply(number, None if failed else task.result()))

    async def _check_alive(self) -> bool:
        # is_logged_in stays true after a plain disconnect, but not after an error of the stream; it needs no lock
        logged_in = bool(await self._client.is_logged_in)
        return logged_in and bool(await self._client.is_connected) and self._authenticated.is_set()

    async def log_out(self) -> None:
        """Remove the device from the account, in some seconds at the most, and end."""
        removed = False
        if self.paired:
            try:
                async with asyncio.timeout(LOGOUT_TIMEOUT):
                    await self._authenticated.wait()
                    await self._client.logout()
                    removed = True
            except TimeoutError:
                pass
            except Exception:  # noqa: BLE001  # perhaps the phone was quicker: then its report follows, and ends this
                await asyncio.sleep(REPORT_DELAY)
        if not self.over:
            self.write(pipe.LoggedOut(self._begin.seat, removed))
            self.finish()
