"""The driver for real accounts: one worker process per session, watched from here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog

from roundtrip.drivers import base as d
from roundtrip.drivers import key_files as files
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.library_events import TERMINAL
from roundtrip.drivers.neonize.pipe import Output

log = structlog.get_logger()

ROOT: Final = Path(__file__).resolve().parents[3]
WORKER: Final = (sys.executable, "-m", "roundtrip.drivers.neonize.worker")
INHERITED: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "PATH", "HOME", "TZ", "LANG")
"""All that a worker gets of the environment: what TLS and the clock need. No setting, no secret."""

FRUGAL: Final = {"MALLOC_ARENA_MAX": "2", "GOGC": "50", "GOMEMLIMIT": "24MiB"}
"""A session is idle most of its life: let it trade a little work for less memory. Past the limit, which an account's
history passes for some seconds, Go collects more often (with half of a core at most) and returns what it can."""

STOP_DEADLINE: Final = 5.0
LOGOUT_DEADLINE: Final = 12.0
ALIVE_DEADLINE: Final = 5.0
FLOOD: Final = 200
"""Messages within a second, past which a worker is broken and ends. A busy session says a few."""
LAST_WORDS: Final = 0.5
"""Seconds between the end of a worker's pipe and its end, at most."""
GARBAGE: Final = 10
"""Lines that say nothing, past which the same holds."""

HEARTBEAT: Final = 5.0
"""Seconds between two signs of life of a worker."""
SILENT: Final = 15.0
"""Seconds without one, past which a worker is looked at once more, and ended if it is silent until then."""
FIRST_BEAT: Final = 60.0
"""The same for a worker that starts: it loads some 100 MB, perhaps with many others at once."""


T = TypeVar("T")


def _there(end: T | None) -> T:
    """A pipe's end, which is there because it was asked for."""
    if end is None:
        raise RuntimeError("the worker was started without a pipe")
    return end


class NeonizeSession:
    """One worker process, from its start to its end."""

    def __init__(
        self, spec: d.SessionSpec, process: asyncio.subprocess.Process, report: Callable[[d.Report], None]
    ) -> None:
        self._spec = spec
        self._process = process
        self._report: Callable[[d.Report], None] | None = report
        self._questions: dict[int, asyncio.Future[bool | None]] = {}
        self._asked = 0
        self._garbage = 0
        self._heard = asyncio.get_running_loop().time()
        self._patience = FIRST_BEAT
        self._hung = False
        self._removed = False
        """WhatsApp's word that the device is gone."""
        self._log = log.bind(link_id=spec.link_id, worker=process.pid)
        self._output = Output()
        self._commands = _there(process.stdin)
        self._draining = asyncio.create_task(self._output.drain(_there(process.stderr)))
        self._life = asyncio.create_task(self._watch())
        self._listening = asyncio.create_task(self._listen())
        self._life.add_done_callback(lambda _: self._listening.cancel())

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, begin: pipe.Begin) -> None:
        self._send(begin)

    def _send(self, command: pipe.Command) -> None:
        if not self._commands.is_closing():
            self._commands.write(pipe.encode(command))

    async def _watch(self) -> None:
        """Read until the worker is gone, then say so, unless that was expected."""
        try:
            if await self._read():
                await self._gone(within=LAST_WORDS)
        except Exception:  # noqa: BLE001 -- whatever broke, the session is lost: it is logged, and told as a death
            self._log.exception("worker_reader_failed")
        finally:
            self._kill()
        await self._rest()
        status = await self._process.wait()
        self._commands.close()
        await self._draining
        for question in self._questions.values():
            if not question.done():
                question.set_result(None)
        self._log.info("worker_ended", exit_status=status, lines=self._output.lines, panicked=self._output.panicked)
        self._pass_on(d.WorkerDied(status, self._hung))

    async def _listen(self) -> None:
        """End a worker that is silent for too long: stopped, or caught in a deadlock.

        While this process itself does not run, nobody reads the pipe, and every worker seems silent. So whoever wakes
        up too late starts to count anew, and even a silent worker is given one more beat in which the pipe is read.
        """
        loop = asyncio.get_running_loop()
        suspect = False
        while True:
            due = loop.time() + HEARTBEAT
            await asyncio.sleep(HEARTBEAT)
            now = loop.time()
            if now - due > HEARTBEAT:
                self._heard = now
            silent = now - self._heard > self._patience
            if silent and suspect:
                break
            suspect = silent
        self._log.error("worker_unresponsive", silent_for=round(now - self._heard, 1))
        self._hung = True
        self._kill()

    async def _gone(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), within)

    async def _rest(self) -> None:
        """Read what a dead worker left in its pipe: asyncio calls a process ended only once its pipes are."""
        stream = _there(self._process.stdout)
        with contextlib.suppress(OSError):
            while await stream.read(pipe.LIMIT):
                pass

    async def _read(self) -> bool:
        """Take in what the worker says. True at the end of it, False when it does not deserve to be heard on."""
        lines = pipe.from_worker(_there(self._process.stdout))
        loop = asyncio.get_running_loop()
        window, count = loop.time(), 0
        while (message := await lines.next()) is not None:
            if loop.time() - window > 1.0:
                window, count = loop.time(), 0
            count += 1
            self._heard, self._patience = loop.time(), SILENT
            if count > FLOOD:
                self._log.error("worker_floods")
                return False
            self._take(message)
            if self._garbage > GARBAGE:
                return False
        return True

    def _take(self, message: pipe.FromWorker | pipe.InvalidLine) -> None:
        match message:
            case pipe.InvalidLine():
                self._garbage += 1
                self._log.warning("worker_garbage", code=message.code, size=message.size)
            case pipe.Answer():
                question = self._questions.pop(message.number, None)
                if question is not None and not question.done():
                    question.set_result(message.connected)
            case pipe.Heartbeat():
                pass
            case pipe.Trouble():
                self._log.warning("worker_trouble", kind=message.kind)
            case pipe.LoggedOut():
                self._removed = self._removed or message.removed
                self._log.info("worker_logged_out", removed=message.removed)
            case _:
                self._pass_on(message)

    def _pass_on(self, report: d.Report) -> None:
        tell = self._report
        if isinstance(report, d.LoggedOutByPhone):
            self._removed = True
        if isinstance(report, TERMINAL):
            self._report = None  # the worker ends now, and that is no news
        if tell is None:
            return
        try:
            tell(report)
        except Exception:  # noqa: BLE001 -- one report that its hearer cannot take must not end the reading
            self._log.exception("report_refused", report=type(report).__name__)

    def _kill(self) -> None:
        # not Process.kill(): that polls first, and takes the exit status away from whoever waits for it
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def _end(self, command: pipe.Command, deadline: float) -> None:
        self._report = None
        self._send(command)
        done, _ = await asyncio.wait({self._life}, timeout=deadline)
        if not done:
            self._log.warning("worker_killed", after=deadline)
            self._kill()
            await asyncio.wait({self._life})

    async def stop(self) -> None:
        """End it and keep the account's keys. Takes `STOP_DEADLINE` seconds at most."""
        await self._end(pipe.Stop(), STOP_DEADLINE)

    async def logout(self) -> None:
        """Remove the device from the account, end the worker, delete the store. Takes `LOGOUT_DEADLINE` at most.

        Raises `DeviceNotRemovedError`, with the store kept, when it holds a device and WhatsApp did not confirm.
        """
        await self._end(pipe.LogOut(), LOGOUT_DEADLINE)
        if not self._removed and await asyncio.to_thread(files.holds_device, self._spec.store):
            raise d.DeviceNotRemovedError("WhatsApp did not confirm that the device was removed")
        files.remove(self._spec.store)

    async def alive(self) -> bool | None:
        """Whether an authenticated connection stands; None when the worker does not answer in time."""
        if self._life.done():
            return None
        self._asked += 1
        number = self._asked
        question = self._questions[number] = asyncio.get_running_loop().create_future()
        self._send(pipe.AliveQuery(number))
        try:
            return await asyncio.wait_for(question, ALIVE_DEADLINE)
        except TimeoutError:
            return None
        finally:
            self._questions.pop(number, None)


class NeonizeDriver:
    """`worker_command` is for tests, which start a worker of their own."""

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
        """`device_name` is what a phone's list of linked devices shows; it counts when a device is paired."""
        self._proxy = proxy
        self._command = tuple(worker_command)
        self._environment = FRUGAL | {name: environment[name] for name in INHERITED if name in environment}
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
            start_new_session=True,  # a terminal's Ctrl-C is for the parent: the Go side would answer it too
        )
        session = NeonizeSession(spec, process, report)
        self._sessions.add(session)
        session._life.add_done_callback(lambda _: self._sessions.discard(session))
        session.begin(
            pipe.Begin(
                spec.link_id,
                str(store),
                spec.phone_number,
                self._proxy,
                self._code_life,
                paired=paired,
                device_name=self._device_name,
                heartbeat=HEARTBEAT,
            )
        )
        log.info("worker_started", link_id=spec.link_id, worker=process.pid)
        return session

    async def close(self) -> None:
        """Stop every session, together."""
        await asyncio.gather(*(session.stop() for session in list(self._sessions)))
