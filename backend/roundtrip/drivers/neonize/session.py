"""One session inside its worker: the library's events in, reports out, commands obeyed."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import time
from collections.abc import Callable
from typing import Any, Final

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.footprint import release_memory
from roundtrip.drivers.neonize.library_events import (
    CODES,
    READERS,
    TERMINAL,
    code_ttl,
    codes_life,
    of_error,
    phone_number,
)
from roundtrip.drivers.neonize.worker import LibraryLog

NAME_WAIT: Final = 3.0
"""Seconds to wait for the account's name after the first Connected; WhatsApp sends it a little later."""
NAME_POLL: Final = 0.1
TRIM_AFTER: Final = 2.0
"""Seconds from the first Connected until the start is over."""
TRIM_LATER: Final = (15.0, 60.0, 180.0)
"""Seconds between the next times: the phone hands over what it has of the account's past in the first minutes."""
TRIM_EVERY: Final = 900.0
"""Seconds between all further times: some of it may come any time."""
STOP_WAIT: Final = 3.0
LOGOUT_WAIT: Final = 8.0
"""Seconds for a logout: for the connection, when none stands yet, and for WhatsApp's word together."""
LATE: Final = 1.0
"""Seconds by which two clocks may differ on when the last code ends."""
PINGS_GIVEN_UP: Final = 180.0
"""Seconds without an answered ping after which whatsmeow (`KeepAliveMaxFailTime`) connects anew and says nothing."""


class Reports:
    """The way out. Blocks while the parent does not read, which is what a slow parent should do to us."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, message: Any) -> None:
        """Write one line."""
        data = memoryview(pipe.encode(message))
        while data:
            data = data[os.write(self._fd, data) :]


class WorkerSession:
    """Events, codes and commands go through one queue, so that what is reported is in the order in which it came."""

    def __init__(self, reports: Reports, commands: int, begin: pipe.Begin, client: Any, neonize: Any) -> None:
        self._reports = reports
        self._commands = commands
        self._begin = begin
        self._client = client
        self._neonize = neonize
        self._queue: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._codes = 0
        self._code_ends = 0.0
        """When the code that is shown is used up, on the loop's clock."""
        self._paired = begin.paired
        self._was_online = False
        self._authenticated = asyncio.Event()
        """Set while the connection that stands is one for which Connected came."""
        self._degraded = False
        self._registered = False
        """Whether the Go side knows this session: asking it anything earlier would end the process."""
        self._question: asyncio.Task[bool] | None = None

    def _say(self, message: Any) -> None:
        self._reports.say(message)
        if isinstance(message, TERMINAL):
            os._exit(0)

    def _later(self, step: Callable[..., Any], *args: Any) -> None:
        self._queue.put_nowait(lambda: step(*args))

    async def run(self) -> None:
        """Connect and serve. Never returns: the process ends here or in `_say`."""
        self._subscribe()
        connection = await self._client.connect(self._proxy())
        connection.add_done_callback(lambda task: self._later(self._connection_ended, task))
        self._beating = asyncio.create_task(self._beat())
        self._hearing = asyncio.create_task(self._hear())
        for task in (self._beating, self._hearing):
            task.add_done_callback(lambda _: os._exit(1))  # deaf or taken for dead: nobody could use it any more
        while True:
            step = await self._queue.get()
            try:
                result = step()
                if asyncio.iscoroutine(result):
                    await result
            except Exception as error:  # noqa: BLE001 -- one event that cannot be read must not end the session; it is counted
                self._reports.say(pipe.Trouble(type(error).__name__))

    async def _beat(self) -> None:
        """From the event loop and nothing else: the library may hold its locks for as long as the network lets it."""
        while True:
            self._reports.say(pipe.Heartbeat())
            await asyncio.sleep(self._begin.heartbeat)

    def _proxy(self) -> Any:
        return self._neonize.ProxySettings(self._begin.proxy) if self._begin.proxy else None

    def _subscribe(self) -> None:
        """One handler per event; they only put it in the queue, for what they raise would vanish."""
        client = self._client

        async def on_qr(_client: Any, data: bytes) -> None:
            self._later(self._on_code, data.decode())

        client.qr(on_qr)
        loop = asyncio.get_running_loop()

        def on_login_status(_uuid: int, status: int) -> None:
            """From a thread of the library's: what became of its QR channel."""
            loop.call_soon_threadsafe(self._later, self._on_login_status, ctypes.string_at(status))

        # private, but the one way to hear of it; a version without it falls back on this worker's own clock
        client._NewAClient__onLoginStatus = on_login_status

        def on_lost(error: str) -> None:
            loop.call_soon_threadsafe(self._later, self._on_lost, error)

        self._log = LibraryLog(on_lost)
        self._neonize.read_log(self._log.take, pairing=not self._paired)
        for name in (*READERS, "Connected"):

            async def on_event(_client: Any, message: Any, name: str = name) -> None:
                self._later(self._on_event, name, message)

            client.event(self._neonize.EVENTS[name])(on_event)

    async def _on_event(self, name: str, message: Any) -> None:
        self._registered = True
        if name == "Connected":
            await self._on_connected()
            return
        report = READERS[name](message)
        match report:
            case d.PairSucceeded():
                self._paired = True
            case d.Offline():
                self._away()
                if not self._paired and not self._was_online:
                    # while codes are shown, the library does not try again
                    report = d.Unreachable("the connection was lost before a phone was paired")
            case d.KeepAliveLost():
                if self._authenticated.is_set() and time.time() - message.LastSuccess > PINGS_GIVEN_UP:
                    self._away()  # no event says so
                    self._say(d.Offline())
                    return
                if self._degraded or not self._authenticated.is_set():
                    return  # each further ping that goes unanswered says it again
                self._degraded = True
            case d.KeepAliveRestored():
                if not self._degraded:
                    return
                self._degraded = False
        self._say(report)

    def _away(self) -> None:
        self._authenticated.clear()
        self._degraded = False

    def _on_lost(self, error: str) -> None:
        """The one reconnect after a 515 failed, and the library leaves it at that: a fresh process may try again."""
        self._away()
        self._say(of_error(error, self._log.refusal))

    def _on_code(self, code: str) -> None:
        self._registered = True
        self._codes += 1
        loop = asyncio.get_running_loop()
        total = self._total()
        ttl = code_ttl(total - self._codes + 1)
        self._code_ends = loop.time() + ttl
        if self._codes == 1:
            life = min(self._begin.code_life, codes_life(total) + LATE)
            loop.call_later(life, self._later, self._codes_used_up)
            if self._begin.phone_number is not None:
                # as a task: the answer comes from the network, and events must not wait for it
                life = min(self._begin.code_life, codes_life(total))  # the library hangs up with the last code
                self._pairing = asyncio.create_task(self._ask_for_pairing_code(self._begin.phone_number, life))
        if self._begin.phone_number is None:
            self._say(d.QrShown(code, self._codes, total, ttl))

    def _total(self) -> int:
        """How many codes there are, as far as is known."""
        return max(self._log.codes or CODES, self._codes)

    def _on_login_status(self, status: bytes) -> None:
        """The only sign of some failures before a phone has paired; no event comes."""
        if self._paired or self._was_online:
            return
        if status == b"timeout":
            # The codes ran out, or the connection broke. The log tells apart; should it be silent, the clock does.
            to_the_end = asyncio.get_running_loop().time() > self._code_ends - LATE and self._codes == self._total()
            if self._log.ran_out or to_the_end:
                self._codes_used_up()
            else:
                self._say(d.Unreachable("the connection was lost before a phone was paired"))
        elif status == b"error":
            self._say(d.ConnectFailed("pair_error"))

    async def _ask_for_pairing_code(self, phone: str, life: float) -> None:
        started = asyncio.get_running_loop().time()
        try:
            code = await self._neonize.pair_phone(self._client, phone.removeprefix("+"))
        except Exception as error:  # noqa: BLE001 -- whatever it is, there is no code; its text may hold the number
            self._reports.say(pipe.Trouble(type(error).__name__))
            self._later(self._say, d.ConnectFailed("pairing_code_refused"))
            return
        spent = asyncio.get_running_loop().time() - started
        self._later(self._say, d.PairingCodeShown(code, max(0.0, life - spent)))

    def _codes_used_up(self) -> None:
        if not self._paired and not self._was_online:
            self._say(d.CodesUsedUp())

    async def _on_connected(self) -> None:
        first, self._was_online = not self._was_online, True
        self._paired = True
        self._degraded = False
        self._authenticated.set()
        me = await self._client.get_me()
        patience = NAME_WAIT if first else 0.0
        while not me.PushName and not me.BussinessName and patience > 0 and self._queue.empty():
            patience -= NAME_POLL
            await asyncio.sleep(NAME_POLL)
            me = await self._client.get_me()
        if first:
            self._trimming = asyncio.create_task(_give_back())
        self._say(d.Online(phone_number(me.JID.User), me.PushName or me.BussinessName))

    def _connection_ended(self, task: asyncio.Task[None]) -> None:
        """The library gave up: the first dial failed, or a refusal that it cannot read."""
        error = None if task.cancelled() else task.exception()
        self._say(of_error(str(error), self._log.refusal))

    async def _hear(self) -> None:
        """Commands. Not through the queue: asking must work while a step waits for the network."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=pipe.LIMIT)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._commands, "rb"))
        lines = pipe.from_parent(reader)
        while (command := await lines.next()) is not None:
            match command:
                case pipe.AliveQuery(number):
                    self._answer(number)
                case pipe.Stop():
                    await self._stop()
                case pipe.LogOut():
                    await self._log_out()
                case _:
                    self._reports.say(pipe.Trouble(type(command).__name__))
        os._exit(0)

    def _answer(self, number: int) -> None:
        """The library is asked only where its word counts, and one question at a time: it answers once it has its lock,
        which it holds while it dials, and a question takes a thread meanwhile."""
        if not self._authenticated.is_set():
            self._reports.say(pipe.Answer(number, False if self._registered else None))
            return
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._stands())
        self._question.add_done_callback(lambda task: self._tell(number, task))

    def _tell(self, number: int, task: asyncio.Task[bool]) -> None:
        failed = task.cancelled() or task.exception() is not None
        self._reports.say(pipe.Answer(number, None if failed else task.result()))

    async def _stands(self) -> bool:
        # is_logged_in outlives a plain disconnect, but not an error of the stream; it needs no lock
        logged_in = bool(await self._client.is_logged_in)
        return logged_in and bool(await self._client.is_connected) and self._authenticated.is_set()

    async def _stop(self) -> None:
        if self._paired and self._registered:  # one that is not paired cannot be stopped, only ended
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.stop(), STOP_WAIT)
        os._exit(0)

    async def _log_out(self) -> None:
        removed = False
        if self._paired:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LOGOUT_WAIT):
                    await self._authenticated.wait()
                    await self._client.logout()
                    removed = True
        self._reports.say(pipe.LoggedOut(removed))
        await self._stop()


async def _give_back() -> None:
    """Trim now and then, for what the library downloads it keeps for a while."""
    for pause in itertools.chain((TRIM_AFTER, *TRIM_LATER), itertools.repeat(TRIM_EVERY)):
        await asyncio.sleep(pause)
        release_memory()
