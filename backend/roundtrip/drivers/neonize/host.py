"""The sessions of one worker: opened and closed on the driver's commands, each in a seat, its key file locked.

The library keeps its sessions in tables that nothing guards: two that enter them at once end the process. So sessions
are started one after the other: the next one's turn comes when the library has registered the one before, or when it
has dialed for so long that it surely has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from roundtrip.clock import SYSTEM, steady
from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import footprint, pipe
from roundtrip.drivers.neonize.key_lock import KeyLock
from roundtrip.drivers.neonize.session import WorkerSession

START_TURN: Final = 1.0
"""Seconds after which a session that still dials has certainly been registered by the library: that comes first, and
takes milliseconds, and some tenths of a second where there is no CPU to spare."""
STOP_TIMEOUT: Final = 3.0
"""Seconds that the sessions may take to end together, when the process ends."""
LOCK_TIMEOUT: Final = 5.0
"""Seconds to wait for a key file that another process has not let go of yet."""
LOCK_POLL: Final = 0.02
MEASURE_EVERY: Final = 3
"""Heartbeats from one measurement of the memory to the next."""


class OwnThreads(ThreadPoolExecutor):
    """A thread for each call. A session's call into the library lasts as long as the session, and a pool of few threads
    would have none left for anything else."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it in a new thread, which does not keep the process alive."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 -- it belongs to whoever waits
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


class Host:
    """Runs until the driver ends it, or is gone. `exit_` ends the process."""

    def __init__(
        self,
        output: pipe.MessageWriter,
        commands: int,
        begin: pipe.Begin,
        library: Any,
        exit_: Callable[[int], None] = os._exit,
    ) -> None:
        self._output = output
        self._commands = commands
        self._begin = begin
        self._library = library
        self._exit = exit_
        self._steady = steady(SYSTEM)
        self._sessions: dict[int, WorkerSession] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._early: dict[int, pipe.Close | pipe.LogOut] = {}
        """What was asked of a session that still waits for its key file."""
        self._others: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._releasing: asyncio.Task[None] | None = None
        self._last = False
        """Whether the process ends with the session that is over."""

    async def run(self) -> None:
        """Serve. Never returns, once the process has exited."""
        asyncio.get_running_loop().set_default_executor(OwnThreads())
        beating = asyncio.create_task(self._send_heartbeats())
        try:
            await self._read_commands()
        finally:
            beating.cancel()
            self._exit(0)

    def _run_until(self, deadline: float) -> None:
        """Have the kernel end this process at that time: a signal needs neither the event loop nor the library, and
        comes first when a process that was stopped goes on."""
        left = deadline - self._steady()
        if left <= 0:
            self._exit(0)
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))  # SIGALRM, which ends a process that does not handle it

    async def _send_heartbeats(self) -> None:
        """From the event loop alone: the library may hold its locks for as long as the network lets it."""
        beats = 0
        while True:
            self._output.write(pipe.Heartbeat(footprint.memory() if beats % MEASURE_EVERY == 0 else None))
            beats += 1
            await asyncio.sleep(self._begin.heartbeat)

    async def _read_commands(self) -> None:
        """No command is waited for: each is a task, or quick."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=pipe.LIMIT)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._commands, "rb"))
        messages = pipe.from_driver(reader)
        while (command := await messages.next()) is not None:
            match command:
                case pipe.RunUntil(deadline):
                    self._run_until(deadline)
                case pipe.Open():
                    self._tasks[command.seat] = asyncio.create_task(self._run_session(command))
                case pipe.AliveQuery(seat, number):
                    if (session := self._sessions.get(seat)) is not None:
                        session.answer_alive(number)
                    else:
                        self._output.write(pipe.AliveReply(number, False))  # its start still waits its turn
                case pipe.Close(seat):
                    self._close(seat)
                case pipe.LogOut(seat):
                    self._log_out(seat)
                case pipe.End():
                    await self._end_all()
                    return
                case _:
                    self._output.write(pipe.HandledError(type(command).__name__))

    def _close(self, seat: int) -> None:
        if (session := self._sessions.get(seat)) is not None:
            session.finish()
        else:
            self._early[seat] = pipe.Close(seat)

    def _log_out(self, seat: int) -> None:
        if (session := self._sessions.get(seat)) is not None:
            task = asyncio.create_task(session.log_out())
            self._others.add(task)
            task.add_done_callback(self._others.discard)
        else:
            self._early[seat] = pipe.LogOut(seat)

    async def _run_session(self, begin: pipe.Open) -> None:
        """One seat, from the lock on its key file to its release."""
        handed_over = False
        path = Path(self._begin.folder, begin.name)
        try:
            lock = await self._lock(path, begin.seat)
            if lock is None:
                if not self._closes_early(begin.seat):
                    self._report(begin.seat, d.Unreachable("the key file is in use", d.ConnectStage.UNKNOWN))
                return
            with lock:
                handed_over = await self._serve(begin)
        except Exception as error:  # noqa: BLE001 -- it ends this session, and no other; its text may name the account
            self._output.write(pipe.HandledError(type(error).__name__))
            self._report(begin.seat, d.Unreachable("the session ended in an error", d.ConnectStage.UNKNOWN))
        finally:
            self._sessions.pop(begin.seat, None)
            self._tasks.pop(begin.seat, None)
            self._early.pop(begin.seat, None)
            self._output.write(pipe.Closed(begin.seat, handed_over))
            if self._last:
                self._exit(0)

    def _release_later(self) -> None:
        """Give memory back to the system some seconds after this start, and in the minutes in which histories come."""
        if self._releasing is not None:
            self._releasing.cancel()
        self._releasing = asyncio.create_task(footprint.release_memory_repeatedly())

    def _closes_early(self, seat: int) -> bool:
        return isinstance(self._early.get(seat), pipe.Close)

    async def _lock(self, path: Path, seat: int) -> KeyLock | None:
        """The lock on a key file; None when another process keeps it, or the driver closes the session meanwhile."""
        if self._closes_early(seat):
            return None
        end = asyncio.get_running_loop().time() + LOCK_TIMEOUT
        while (lock := KeyLock.take(path)) is None:  # no event comes when another process lets go of it
            if asyncio.get_running_loop().time() > end or self._closes_early(seat):
                return None
            await asyncio.sleep(LOCK_POLL)
        return lock

    async def _serve(self, begin: pipe.Open) -> bool:
        """Run a session to its end. Whether its login is left to another worker."""
        # The library puts the path into a URI unescaped: so it gets the bare name, in the working folder.
        client = self._library.make_client(
            begin.name, f"{begin.session}-{begin.seat}", self._begin.device_name, paired=begin.paired
        )
        session = WorkerSession(self._writer(begin.seat), begin, client, self._library, self._begin.proxy)
        self._sessions[begin.seat] = session
        if isinstance(self._early.get(begin.seat), pipe.LogOut):
            self._log_out(begin.seat)
        async with self._turn:
            running = asyncio.create_task(session.run())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.registered(), START_TURN)
        self._release_later()
        await running
        if session.paired and not session.handed_over:
            await session.end_library()
        else:
            # With its process, which has no other: the library cannot end a session that is not paired, and one that
            # has just paired waits to be let on, and must not log in.
            self._last = True
        return session.handed_over

    def _writer(self, seat: int) -> Callable[[Any], None]:
        def write(message: Any) -> None:
            if isinstance(message, d.Report):
                self._report(seat, message)
            else:
                self._output.write(message)

        return write

    def _report(self, seat: int, report: Any) -> None:
        self._output.write(pipe.Reported(seat, report))

    async def _end_all(self) -> None:
        for seat in list(self._tasks):
            self._close(seat)
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=STOP_TIMEOUT)
