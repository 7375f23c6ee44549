"""One worker process, from this side: started, written to, read, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import msgspec
import structlog

from roundtrip.drivers.base import Exit, exit_of
from roundtrip.drivers.neonize import pipe

log = structlog.get_logger()

ROOT: Final = Path(__file__).resolve().parents[3]

MAX_MESSAGES: Final = 200
"""Messages within a second, above which a worker is faulty and is killed. A busy session sends a few."""
MESSAGES_PER_SESSION: Final = 10
"""So many more for each session that it has."""
MAX_INVALID_LINES: Final = 10
"""Lines that are no message, above which the same holds."""
EXIT_GRACE: Final = 0.5
"""Seconds between the end of a worker's pipe and its exit, at most."""

HEARTBEAT_INTERVAL: Final = 5.0
"""Seconds between two heartbeats of a worker."""
HEARTBEAT_TIMEOUT: Final = 15.0
"""Seconds without a message, after which a worker is checked once more, and killed if it is still silent then."""
FIRST_HEARTBEAT_TIMEOUT: Final = 60.0
"""The same for a worker that starts: it loads some 100 MB, perhaps with many others at once."""

START_REFUSED: Final = 127
"""Exit status of a worker that could not even be started, as a shell has it."""


class Launch(msgspec.Struct, frozen=True):
    """How workers are started: the command, all of their environment, and what each is told first. `until` gives the
    time of `pipe.RunUntil` when one starts, or None."""

    command: Sequence[str]
    environment: Mapping[str, str]
    begin: pipe.Begin
    until: Callable[[], float | None] = lambda: None


class Seated(Protocol):
    """A session, as far as its process knows it."""

    def on_message(self, message: pipe.Reported | pipe.LoggedOut | pipe.Closed) -> None: ...


class WorkerProcess:
    """`on_exit` is called once, when it has exited."""

    def __init__(self, name: str, launch: Launch, on_exit: Callable[[WorkerProcess], None]) -> None:
        self.name = name
        """Names this process in logs, traces and `/debug/links`, where the number of a process may be used again."""
        self.pid: int | None = None
        self.seats: dict[int, Seated] = {}
        """The sessions that were opened and are not closed yet."""
        self.memory: int | None = None
        """Bytes, as the worker measured them last."""
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once it has sent its first heartbeat."""
        self.exit_status: int | None = None
        self.cause: Exit | None = None
        """Why it ends, once that is known; the first cause stays."""
        self._launch = launch
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._last_seat = 0
        self._queries: dict[int, asyncio.Future[bool | None]] = {}
        self._last_query = 0
        self._invalid_lines = 0
        self._last_message, self._timeout = asyncio.get_running_loop().time(), FIRST_HEARTBEAT_TIMEOUT
        self._output = pipe.OutputCounter()
        self._log = log.bind(worker=name)
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the process has exited, or could not be started."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the process. Raises `OSError`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._launch.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=ROOT,
                env=dict(self._launch.environment),
                limit=pipe.LIMIT,
                close_fds=True,
                start_new_session=True,  # a terminal's Ctrl-C is for the parent: the Go side would handle it too
            )
        except OSError:
            self.exited.set_result(None)
            raise
        self._process, self.pid = process, process.pid
        self._commands = cast("asyncio.StreamWriter", process.stdin)  # all three are pipes, see above
        self._messages = cast("asyncio.StreamReader", process.stdout)
        self._log = log.bind(worker=self.name, pid=process.pid)
        self._last_message = asyncio.get_running_loop().time()
        self.send(self._launch.begin)
        if (until := self._launch.until()) is not None:
            self.send(pipe.RunUntil(until))
        draining = asyncio.create_task(self._output.drain(cast("asyncio.StreamReader", process.stderr)))
        watch = asyncio.create_task(self._watch_heartbeats())
        reading = asyncio.create_task(self._read_to_exit(draining))
        reading.add_done_callback(lambda _: watch.cancel())
        self._tasks = [draining, watch, reading]
        self._log.info("worker_started")

    def send(self, command: pipe.Command) -> None:
        """Write a command, unless the worker has closed its end."""
        if self._process is not None and not self._commands.is_closing():
            self._commands.write(pipe.encode(command))

    def seat(self, session: Seated) -> int:
        """Give a session a seat; its messages go to it until it is closed."""
        self._last_seat += 1
        self.seats[self._last_seat] = session
        return self._last_seat

    async def alive(self, seat: int, within: float) -> bool | None:
        """The answer of the session in a seat; None without one within so many seconds."""
        self._last_query = number = self._last_query + 1
        query = self._queries[number] = asyncio.get_running_loop().create_future()
        self.send(pipe.AliveQuery(seat, number))
        try:
            return await asyncio.wait_for(query, within)
        except TimeoutError:
            return None
        finally:
            self._queries.pop(number, None)

    @property
    def opened(self) -> int:
        """How many seats it has given."""
        return self._last_seat

    @property
    def silent_for(self) -> float:
        """Seconds since its last message."""
        return asyncio.get_running_loop().time() - self._last_message

    def end(self, cause: Exit = Exit.STOPPED) -> None:
        """Have it end its sessions and exit."""
        self._because(cause)
        self.send(pipe.End())

    async def end_within(self, limit: float, cause: Exit = Exit.STOPPED) -> None:
        """The same, and kill it after so many seconds. Returns when it has exited."""
        self.end(cause)
        await asyncio.wait({self.exited}, timeout=limit)
        if not self.exited.done():
            if self.silent_for > 1.5 * HEARTBEAT_INTERVAL:
                self.cause = Exit.UNRESPONSIVE
            self.kill()
        await asyncio.wait({self.exited})

    def kill(self, cause: Exit = Exit.STOPPED) -> None:
        """End it at once."""
        self._because(cause)
        # not Process.kill(): that polls first, and takes the exit status away from whoever waits for it
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def _because(self, cause: Exit) -> None:
        self.cause = self.cause or cause

    async def _read_to_exit(self, draining: asyncio.Task[None]) -> None:
        process = self._process
        assert process is not None  # noqa: S101  it was started
        try:
            if await self._read():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), EXIT_GRACE)
        except Exception:  # noqa: BLE001 -- whatever broke, its sessions are lost: it is logged, and counts as an exit
            self._log.exception("worker_reader_failed")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        await self._discard_rest()
        self.exit_status = await process.wait()
        self._commands.close()
        await draining
        for query in self._queries.values():
            if not query.done():
                query.set_result(None)
        self._because(exit_of(self.exit_status, panicked=self._output.panicked))
        self._log.info(
            "worker_ended",
            exit_status=self.exit_status,
            cause=self.cause,
            sessions=len(self.seats),
            lines=self._output.lines,
            panicked=self._output.panicked,
        )
        try:
            self._on_exit(self)
        finally:
            self.exited.set_result(None)

    async def _watch_heartbeats(self) -> None:
        """Kill a worker that is silent for too long: suspended, or in a deadlock.

        While this process itself does not run, nobody reads the pipe, and every worker seems silent. So after a late
        wake-up the count starts anew, and a silent worker gets one more interval in which the pipe is read.
        """
        loop = asyncio.get_running_loop()
        suspect = False
        while True:
            due = loop.time() + HEARTBEAT_INTERVAL
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            now = loop.time()
            if now - due > HEARTBEAT_INTERVAL:
                self._last_message = now
            silent = now - self._last_message > self._timeout
            if silent and suspect:
                break
            suspect = silent
        self._log.error("worker_unresponsive", silent_for=round(self.silent_for, 1))
        self.kill(Exit.UNRESPONSIVE)

    async def _discard_rest(self) -> None:
        """Read what is left in the pipe of a worker that was killed: asyncio waits for the pipes before the process."""
        with contextlib.suppress(OSError):
            while await self._messages.read(pipe.LIMIT):
                pass

    async def _read(self) -> bool:
        """Handle the worker's messages. True at the end of the pipe, False when the worker is faulty."""
        messages = pipe.from_worker(self._messages)
        loop = asyncio.get_running_loop()
        window, count = loop.time(), 0
        while (message := await messages.next()) is not None:
            if loop.time() - window > 1.0:
                window, count = loop.time(), 0
            count += 1
            self._last_message, self._timeout = loop.time(), HEARTBEAT_TIMEOUT
            if count > MAX_MESSAGES + MESSAGES_PER_SESSION * len(self.seats):
                self._log.error("worker_floods")
                return False
            self._handle(message)
            if self._invalid_lines > MAX_INVALID_LINES:
                return False
        return True

    def _handle(self, message: pipe.FromWorker | pipe.InvalidLine) -> None:  # noqa: C901  one case per message
        match message:
            case pipe.InvalidLine():
                self._invalid_lines += 1
                self._log.warning("worker_garbage", code=message.code, size=message.size)
            case pipe.AliveReply():
                query = self._queries.pop(message.number, None)
                if query is not None and not query.done():
                    query.set_result(message.connected)
            case pipe.Heartbeat():
                if not self.began.done():
                    self.began.set_result(None)
                self.memory = message.memory or self.memory
            case pipe.HandledError():
                self._log.warning("worker_trouble", kind=message.kind)
            case pipe.Reported() | pipe.LoggedOut():
                if (session := self.seats.get(message.seat)) is not None:
                    session.on_message(message)
            case pipe.Closed():
                if (session := self.seats.pop(message.seat, None)) is not None:
                    session.on_message(message)
