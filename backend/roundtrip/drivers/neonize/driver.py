"""The driver for real accounts: starts one worker process per session, and supervises it from this process."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import structlog

from roundtrip.drivers import base as d
from roundtrip.drivers import key_files as files
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.library_events import TERMINAL

log = structlog.get_logger()

ROOT: Final = Path(__file__).resolve().parents[3]
WORKER: Final = (sys.executable, "-m", "roundtrip.drivers.neonize.worker")
INHERITED: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "PATH", "HOME", "TZ", "LANG")
"""All that a worker gets of the environment: what TLS and the clock need. No setting, no secret."""

RUNTIME_LIMITS: Final = {"MALLOC_ARENA_MAX": "2", "GOGC": "50", "GOMEMLIMIT": "24MiB"}
"""A session is idle most of the time: these trade some CPU for less memory. Above the limit, which an account's history
exceeds for some seconds, Go collects more often (with half of a core at most) and returns what it can."""

STOP_TIMEOUT: Final = 5.0
LOGOUT_TIMEOUT: Final = 12.0
ALIVE_TIMEOUT: Final = 5.0
MAX_MESSAGES: Final = 200
"""Messages within a second, above which a worker is faulty and is killed. A busy session sends a few."""
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


class WorkerState(enum.Enum):
    """Of a worker, until it has exited; decides how its exit is reported. It only moves on, in this order."""

    RUNNING = enum.auto()
    """An exit is a crash."""
    UNRESPONSIVE = enum.auto()
    """It was silent for too long, and killed."""
    ENDING = enum.auto()
    """After a stop, a logout or a terminal report: the exit is expected, and nothing more is reported."""


class NeonizeSession:
    """One worker process, from its start to its exit."""

    def __init__(
        self, spec: d.SessionSpec, process: asyncio.subprocess.Process, report: Callable[[d.Report], None]
    ) -> None:
        self._spec = spec
        self._process = process
        self.pid = process.pid
        self._callback = report
        self._state = WorkerState.RUNNING
        self._queries: dict[int, asyncio.Future[bool | None]] = {}
        self._last_query = 0
        self._invalid_lines = 0
        self._last_message, self._timeout = asyncio.get_running_loop().time(), FIRST_HEARTBEAT_TIMEOUT
        self._device_removed = False  # until WhatsApp confirms it
        self._log = log.bind(link_id=spec.link_id, worker=process.pid)
        self._output = pipe.OutputCounter()
        self._commands = cast("asyncio.StreamWriter", process.stdin)  # all three are pipes: see `NeonizeDriver.start`
        self._messages = cast("asyncio.StreamReader", process.stdout)
        self._draining = asyncio.create_task(self._output.drain(cast("asyncio.StreamReader", process.stderr)))
        self.exited = asyncio.create_task(self._watch())
        """Done once the worker has exited."""
        self._heartbeat_watch = asyncio.create_task(self._watch_heartbeats())
        self.exited.add_done_callback(lambda _: self._heartbeat_watch.cancel())

    def send(self, command: pipe.Command) -> None:
        """Write a command, unless the worker has closed its end."""
        if not self._commands.is_closing():
            self._commands.write(pipe.encode(command))

    async def _watch(self) -> None:
        """Read until the worker has exited, then report that, unless it was expected."""
        try:
            if await self._read():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), EXIT_GRACE)
        except Exception:  # noqa: BLE001 -- whatever broke, the session is lost: it is logged, and reported as an exit
            self._log.exception("worker_reader_failed")
        finally:
            self._kill()
        await self._discard_rest()
        status = await self._process.wait()
        self._commands.close()
        await self._draining
        for query in self._queries.values():
            if not query.done():
                query.set_result(None)
        self._log.info("worker_ended", exit_status=status, lines=self._output.lines, panicked=self._output.panicked)
        self._report(d.WorkerDied(status, self._state is WorkerState.UNRESPONSIVE))

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
        self._log.error("worker_unresponsive", silent_for=round(now - self._last_message, 1))
        self._advance(WorkerState.UNRESPONSIVE)
        self._kill()

    def _advance(self, state: WorkerState) -> None:
        """Move on to `state`; from a later one, nothing changes."""
        if self._state.value < state.value:
            self._state = state

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
            if count > MAX_MESSAGES:
                self._log.error("worker_floods")
                return False
            self._handle(message)
            if self._invalid_lines > MAX_INVALID_LINES:
                return False
        return True

    def _handle(self, message: pipe.FromWorker | pipe.InvalidLine) -> None:
        match message:
            case pipe.InvalidLine():
                self._invalid_lines += 1
                self._log.warning("worker_garbage", code=message.code, size=message.size)
            case pipe.AliveReply():
                query = self._queries.pop(message.number, None)
                if query is not None and not query.done():
                    query.set_result(message.connected)
            case pipe.Heartbeat():
                pass
            case pipe.HandledError():
                self._log.warning("worker_trouble", kind=message.kind)
            case pipe.LoggedOut():
                self._device_removed = self._device_removed or message.removed
                self._log.info("worker_logged_out", removed=message.removed)
            case _:
                self._report(message)

    def _report(self, report: d.Report) -> None:
        wanted = self._state.value < WorkerState.ENDING.value
        if isinstance(report, d.LoggedOutByPhone):
            self._device_removed = True
        if isinstance(report, TERMINAL):
            self._advance(WorkerState.ENDING)  # the worker exits by itself now
        if not wanted:
            return
        try:
            self._callback(report)
        except Exception:  # noqa: BLE001 -- one report that the callback cannot handle must not end the reading
            self._log.exception("report_refused", report=type(report).__name__)

    def _kill(self) -> None:
        # not Process.kill(): that polls first, and takes the exit status away from whoever waits for it
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def _end(self, command: pipe.Command, timeout: float) -> None:  # noqa: ASYNC109 -- then it is killed
        self._advance(WorkerState.ENDING)
        self.send(command)
        done, _ = await asyncio.wait({self.exited}, timeout=timeout)
        if not done:
            self._log.warning("worker_killed", after=timeout)
            self._kill()
            await asyncio.wait({self.exited})

    async def stop(self) -> None:
        """End it and keep the account's keys. Takes `STOP_TIMEOUT` seconds at most."""
        await self._end(pipe.Stop(), STOP_TIMEOUT)

    async def logout(self) -> None:
        """Remove the device from the account, end the worker, delete the store. Takes `LOGOUT_TIMEOUT` at most.

        Raises `DeviceNotRemovedError`, with the store kept, when it holds a device and WhatsApp did not confirm.
        """
        await self._end(pipe.LogOut(), LOGOUT_TIMEOUT)
        if not self._device_removed and await asyncio.to_thread(files.holds_device, self._spec.store):
            raise d.DeviceNotRemovedError("WhatsApp did not confirm that the device was removed")
        files.remove(self._spec.store)

    async def alive(self) -> bool | None:
        """Whether an authenticated connection stands; None when the worker does not reply in `ALIVE_TIMEOUT`."""
        if self.exited.done():
            return None
        self._last_query = number = self._last_query + 1
        query = self._queries[number] = asyncio.get_running_loop().create_future()
        self.send(pipe.AliveQuery(number))
        try:
            return await asyncio.wait_for(query, ALIVE_TIMEOUT)
        except TimeoutError:
            return None
        finally:
            self._queries.pop(number, None)


class NeonizeDriver:
    """Implements `drivers.base.Driver`. `worker_command` is for tests, which start a worker of their own."""

    name = "neonize"

    def __init__(
        self,
        proxy: str | None = None,
        *,
        worker_command: Sequence[str] = WORKER,
        environment: Mapping[str, str] = os.environ,
        code_life: float = 160.0,
        device_name: str = "Roundtrip",
    ) -> None:
        """`code_life`: seconds for all codes of one session together. `device_name` is what a phone's list of linked
        devices shows; it counts when a device is paired."""
        self._proxy = proxy
        self._command = tuple(worker_command)
        self._environment = RUNTIME_LIMITS | {name: environment[name] for name in INHERITED if name in environment}
        self._code_life = code_life
        self._device_name = device_name
        self._sessions: set[NeonizeSession] = set()

    async def start(self, spec: d.SessionSpec, report: Callable[[d.Report], None]) -> NeonizeSession:
        """Start a worker. Raises `OSError` when the system cannot start a process or make the store's folder."""
        store = spec.store.resolve()
        store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        paired = await asyncio.to_thread(files.holds_device, store)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=self._environment,
            limit=pipe.LIMIT,
            close_fds=True,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent: the Go side would handle it too
        )
        session = NeonizeSession(spec, process, report)
        self._sessions.add(session)
        session.exited.add_done_callback(lambda _: self._sessions.discard(session))
        session.send(
            pipe.Begin(
                spec.link_id,
                str(store),
                spec.phone_number,
                self._proxy,
                self._code_life,
                paired=paired,
                device_name=self._device_name,
                heartbeat=HEARTBEAT_INTERVAL,
            )
        )
        log.info("worker_started", link_id=spec.link_id, worker=process.pid)
        return session

    async def close(self) -> None:
        """Stop every session, together."""
        await asyncio.gather(*(session.stop() for session in list(self._sessions)))
