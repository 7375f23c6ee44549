"""One session inside its worker: the library's events in, reports out, the driver's commands executed."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import enum
import os
import time
from collections.abc import Callable
from typing import Any, Final

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import footprint, pipe
from roundtrip.drivers.neonize.library_events import (
    READERS,
    TERMINAL,
    CodeSequence,
    LibraryLog,
    codes_ttl,
    error_report,
    phone_number,
)

NAME_TIMEOUT: Final = 3.0
"""Seconds to wait for the account's name after the first Connected; WhatsApp sends it a little later."""
NAME_POLL: Final = 0.1
STOP_TIMEOUT: Final = 3.0
LOGOUT_TIMEOUT: Final = 8.0
"""Seconds for a logout: for the connection, when there is none yet, and for WhatsApp's reply together."""
REPORT_DELAY: Final = 1.0
CLOCK_TOLERANCE: Final = 1.0
"""Seconds by which this clock and the library's may differ on when the last code ends."""
PING_TIMEOUT: Final = 180.0
"""Seconds without an answered ping after which whatsmeow (`KeepAliveMaxFailTime`) reconnects without an event."""


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
    """Events, codes and timers go through one queue, so that reports are in the order in which their causes came."""

    def __init__(self, output: pipe.MessageWriter, commands: int, begin: pipe.Begin, client: Any, library: Any) -> None:
        self._output = output
        self._commands = commands
        self._begin = begin
        self._client = client
        self._library = library
        self._queue: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._paired = begin.paired
        self._connected_before = False
        self._connection = Connection.UNREGISTERED
        self._authenticated = asyncio.Event()
        """Set while ONLINE or DEGRADED."""
        self._alive_check: asyncio.Task[bool] | None = None

    async def run(self) -> None:
        """Connect and serve. Never returns: the process ends here or in `_report`."""
        self._subscribe()
        proxy = self._library.ProxySettings(self._begin.proxy) if self._begin.proxy else None
        connection = await self._client.connect(proxy)
        connection.add_done_callback(lambda task: self._enqueue(self._on_connection_ended, task))
        self._heartbeats = asyncio.create_task(self._send_heartbeats())
        self._reading = asyncio.create_task(self._read_commands())
        for task in (self._heartbeats, self._reading):
            task.add_done_callback(lambda _: os._exit(1))  # without either, the driver cannot use this worker
        while True:
            step = await self._queue.get()
            try:
                result = step()
                if asyncio.iscoroutine(result):
                    await result
            except Exception as error:  # noqa: BLE001 -- one event that cannot be read must not end the session; it is counted
                self._output.write(pipe.HandledError(type(error).__name__))

    def _report(self, report: d.Report) -> None:
        self._output.write(report)
        if isinstance(report, TERMINAL):
            os._exit(0)

    def _enqueue(self, step: Callable[..., Any], *args: Any) -> None:
        self._queue.put_nowait(lambda: step(*args))

    def _set_connection(self, connection: Connection) -> None:
        self._connection = connection
        if connection in (Connection.ONLINE, Connection.DEGRADED):
            self._authenticated.set()
        else:
            self._authenticated.clear()

    async def _send_heartbeats(self) -> None:
        """From the event loop alone: the library may hold its locks for as long as the network lets it."""
        while True:
            self._output.write(pipe.Heartbeat())
            await asyncio.sleep(self._begin.heartbeat)

    # the library's events

    def _subscribe(self) -> None:
        """One handler per event, which only enqueues: the library drops what a handler raises."""
        client = self._client

        async def on_qr(_client: Any, data: bytes) -> None:
            self._enqueue(self._on_code, data.decode())

        client.qr(on_qr)
        loop = asyncio.get_running_loop()

        def on_login_status(_uuid: int, status: int) -> None:
            """From a thread of the library's: what became of its QR channel."""
            loop.call_soon_threadsafe(self._enqueue, self._on_login_status, ctypes.string_at(status))

        # private, but the only source; with a version without it, this worker's own clock decides
        client._NewAClient__onLoginStatus = on_login_status

        def on_lost(error: str) -> None:
            loop.call_soon_threadsafe(self._enqueue, self._on_lost, error)

        self._log = LibraryLog(on_lost)
        self._codes = CodeSequence(self._log)
        self._library.read_log(self._log.feed, pairing=not self._paired)
        for name in (*READERS, "Connected"):

            async def on_event(_client: Any, message: Any, name: str = name) -> None:
                self._enqueue(self._on_event, name, message)

            client.event(self._library.EVENTS[name])(on_event)

    def _registered(self) -> None:
        if self._connection is Connection.UNREGISTERED:
            self._set_connection(Connection.OFFLINE)

    async def _on_event(self, name: str, message: Any) -> None:
        self._registered()
        if name == "Connected":
            await self._on_connected()
            return
        report = READERS[name](message)
        match report:
            case d.PairSucceeded():
                self._paired = True
            case d.Offline():
                self._set_connection(Connection.OFFLINE)
                if not self._paired:
                    # while codes are shown, the library does not reconnect
                    report = d.Unreachable("the connection was lost before a phone was paired")
            case d.KeepAliveLost():
                if self._authenticated.is_set() and time.time() - message.LastSuccess > PING_TIMEOUT:
                    self._set_connection(Connection.OFFLINE)
                    self._report(d.Offline())
                    return
                if self._connection is not Connection.ONLINE:
                    return  # the event is repeated for each further ping that goes unanswered
                self._set_connection(Connection.DEGRADED)
            case d.KeepAliveRestored():
                if self._connection is not Connection.DEGRADED:
                    return
                self._set_connection(Connection.ONLINE)
        self._report(report)

    async def _on_connected(self) -> None:
        first, self._connected_before = not self._connected_before, True
        self._paired = True
        self._set_connection(Connection.ONLINE)
        me = await self._client.get_me()
        remaining = NAME_TIMEOUT if first else 0.0
        while not me.PushName and not me.BussinessName and remaining > 0 and self._queue.empty():
            remaining -= NAME_POLL
            await asyncio.sleep(NAME_POLL)
            me = await self._client.get_me()
        if first:
            self._releasing = asyncio.create_task(footprint.release_memory_repeatedly())
        self._report(d.Online(phone_number(me.JID.User), me.PushName or me.BussinessName))

    def _on_lost(self, error: str) -> None:
        """The one reconnect after a 515 failed, and the library makes no other: a fresh process may try again."""
        self._set_connection(Connection.OFFLINE)
        self._report(error_report(error, self._log.refusal))

    def _on_connection_ended(self, task: asyncio.Task[None]) -> None:
        """The library gave up: the first dial failed, or a refusal that it cannot read."""
        error = None if task.cancelled() else task.exception()
        self._report(error_report(str(error), self._log.refusal))

    # pairing

    def _on_code(self, code: str) -> None:
        self._registered()
        loop = asyncio.get_running_loop()
        index, total, ttl = self._codes.next(loop.time())
        if index == 1:
            lifetime = min(self._begin.code_life, codes_ttl(total) + CLOCK_TOLERANCE)
            loop.call_later(lifetime, self._enqueue, self._on_codes_used_up)
            if self._begin.phone_number is not None:
                # as a task: the reply comes from the network, and events must not wait for it
                lifetime = min(self._begin.code_life, codes_ttl(total))  # the library disconnects with the last code
                self._pairing = asyncio.create_task(self._request_pairing_code(self._begin.phone_number, lifetime))
        if self._begin.phone_number is None:
            self._report(d.QrShown(code, index, total, ttl))

    def _on_login_status(self, status: bytes) -> None:
        """The only sign of some failures before a phone has paired; no event comes."""
        if self._paired:
            return
        if status == b"timeout":
            # The codes ran out, or the connection broke. The log distinguishes them; without a line of it, the clock.
            now = asyncio.get_running_loop().time()
            if self._log.ran_out or self._codes.used_up(now + CLOCK_TOLERANCE):
                self._on_codes_used_up()
            else:
                self._report(d.Unreachable("the connection was lost before a phone was paired"))
        elif status == b"error":
            self._report(d.ConnectFailed("pair_error"))

    async def _request_pairing_code(self, phone: str, lifetime: float) -> None:
        started = asyncio.get_running_loop().time()
        try:
            code = await self._library.pair_phone(self._client, phone.removeprefix("+"))
        except Exception as error:  # noqa: BLE001 -- whatever it is, there is no code; its text may hold the number
            self._output.write(pipe.HandledError(type(error).__name__))
            self._enqueue(self._report, d.ConnectFailed("pairing_code_refused"))
            return
        spent = asyncio.get_running_loop().time() - started
        self._enqueue(self._report, d.PairingCodeShown(code, max(0.0, lifetime - spent)))

    def _on_codes_used_up(self) -> None:
        if not self._paired:
            self._report(d.CodesUsedUp())

    # the driver's commands

    async def _read_commands(self) -> None:
        """Not through the queue: a query must be answered while a step waits for the network."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=pipe.LIMIT)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._commands, "rb"))
        messages = pipe.from_driver(reader)
        while (command := await messages.next()) is not None:
            match command:
                case pipe.AliveQuery(number):
                    self._answer_alive(number)
                case pipe.Stop():
                    await self._stop()
                case pipe.LogOut():
                    await self._log_out()
                case _:
                    self._output.write(pipe.HandledError(type(command).__name__))
        os._exit(0)

    def _answer_alive(self, number: int) -> None:
        """The library is asked only while authenticated, and by one call at a time: a call waits for the library's
        lock, which it holds while it dials, and takes a thread meanwhile."""
        if not self._authenticated.is_set():
            self._output.write(pipe.AliveReply(number, None if self._connection is Connection.UNREGISTERED else False))
            return
        if self._alive_check is None or self._alive_check.done():
            self._alive_check = asyncio.create_task(self._check_alive())
        self._alive_check.add_done_callback(lambda task: self._reply_alive(number, task))

    def _reply_alive(self, number: int, task: asyncio.Task[bool]) -> None:
        failed = task.cancelled() or task.exception() is not None
        self._output.write(pipe.AliveReply(number, None if failed else task.result()))

    async def _check_alive(self) -> bool:
        # is_logged_in stays true after a plain disconnect, but not after an error of the stream; it needs no lock
        logged_in = bool(await self._client.is_logged_in)
        return logged_in and bool(await self._client.is_connected) and self._authenticated.is_set()

    async def _stop(self) -> None:
        if self._paired and self._connection is not Connection.UNREGISTERED:  # else it can only be ended
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.stop(), STOP_TIMEOUT)
        os._exit(0)

    async def _log_out(self) -> None:
        removed = False
        if self._paired:
            try:
                async with asyncio.timeout(LOGOUT_TIMEOUT):
                    await self._authenticated.wait()
                    await self._client.logout()
                    removed = True
            except TimeoutError:
                pass
            except Exception:  # noqa: BLE001  # perhaps the phone was quicker: then its report follows, and ends this
                await asyncio.sleep(REPORT_DELAY)
        self._output.write(pipe.LoggedOut(removed))
        await self._stop()
