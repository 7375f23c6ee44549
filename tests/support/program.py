"""The program as a user starts it: `python -m backend` in a process of its own, on free ports."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp

ROOT = Path(__file__).parents[2]
BACKEND = (sys.executable, "-m", "backend")
_STARTED = re.compile(rb'"event": ?"started".*"url": ?"([^"]+)".*"admin": ?"([^"]+)"')


class Program:
    """A running backend. `log` is all that it has written to standard error."""

    def __init__(self, process: asyncio.subprocess.Process, environment: dict[str, str]) -> None:
        self.process = process
        self.environment = environment
        self.url = ""
        self.admin_url = ""
        self.log: list[bytes] = []
        self._news = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())

    @property
    def pid(self) -> int:
        return self.process.pid

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line)
            if (started := _STARTED.search(line)) is not None:
                self.url, self.admin_url = started[1].decode(), started[2].decode()
            self._news.set()
        self._news.set()

    async def started(self, within: float = 40) -> None:
        """Wait for the line that names the addresses, then for `/readyz`, then for the links' restore."""
        async with asyncio.timeout(within):
            while not self.url:
                self._news.clear()
                await self._news.wait()
                if self._reader.done() and not self.url:
                    raise RuntimeError(f"the program ended with {await self.process.wait()}: {self.text()[-2000:]}")
            async with aiohttp.ClientSession() as session:
                while not await _ready(session, self.admin_url) or not await _restored(session, self.admin_url):
                    await asyncio.sleep(0.02)

    async def is_ready(self) -> bool:
        """Whether it says now that it is ready."""
        async with aiohttp.ClientSession() as session:
            return bool(self.admin_url) and await _ready(session, self.admin_url)

    def text(self) -> str:
        return b"".join(self.log).decode(errors="replace")

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, within: float = 15) -> int:
        """Wait for the end; the exit status."""
        status = await asyncio.wait_for(self.process.wait(), within)
        await self._reader
        return status


async def _ready(session: aiohttp.ClientSession, admin_url: str) -> bool:
    try:
        async with session.get(f"{admin_url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _restored(session: aiohttp.ClientSession, admin_url: str) -> bool:
    try:
        async with session.get(f"{admin_url}/metrics") as response:
            return "\nroundtrip_links_restoring 0.0\n" in await response.text() or response.status == 401
    except aiohttp.ClientError:
        return False


def environment(data_dir: Path, **settings: Any) -> dict[str, str]:
    """The environment of a test's backend: nothing of the tester's own, free ports, a simulated phone."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    own["PYTHONPATH"] = str(ROOT / "backend")  # this checkout's, whatever is installed
    defaults = {
        "host": "127.0.0.1",
        "port": 0,
        "admin_port": 0,
        "data_dir": data_dir,
        "auth": "trusted",
        "whatsapp_driver": "simulated",
        "log_format": "json",
        "canary_interval": 0,
    }
    otel = {name: str(value) for name, value in settings.items() if name.startswith("OTEL_")}
    ours = {name: value for name, value in (defaults | settings).items() if name not in otel}
    return own | otel | {f"ROUNDTRIP_{name.upper()}": str(value) for name, value in ours.items()}


@asynccontextmanager
async def running(
    data_dir: Path, *, command: Sequence[str] = BACKEND, ready: bool = True, **settings: Any
) -> AsyncIterator[Program]:
    """Start the program and wait until it is ready; it is ended in the end, by its id. `settings` are ROUNDTRIP_*
    in lower case, and OTEL_* as they are."""
    variables = environment(data_dir, **settings)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=variables, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    program = Program(process, variables)
    try:
        if ready:
            await program.started()
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await program.ended()


class Served(Protocol):
    """What can be called: a program of its own, or one in the test's process."""

    url: str
    admin_url: str


class Api:
    """The public and admin API of a running program, as one user."""

    def __init__(self, program: Served, session: aiohttp.ClientSession, user: str) -> None:
        self._program = program
        self._session = session
        self.user = user

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded JSON of a public route."""
        headers = {"X-User-Id": self.user}
        async with self._session.request(method, self._program.url + path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def link(self, bot: str = "bot", phone_number: str | None = None) -> Any:
        body = None if phone_number is None else {"phoneNumber": phone_number}
        status, answer = await self.call("PUT", f"/api/bots/{bot}/link", body)
        assert status == 202, answer
        return answer

    async def snapshot(self, bot: str = "bot") -> Any:
        return (await self.call("GET", f"/api/bots/{bot}/link"))[1]

    async def simulate(self, action: str, bot: str = "bot") -> Any:
        status, answer = await self.call("POST", f"/api/bots/{bot}/link/simulate", {"action": action})
        assert status < 300, answer
        return answer

    async def state(self, wanted: str, bot: str = "bot", within: float = 20) -> Any:
        """Wait until the link is in a state; the snapshot."""
        async with asyncio.timeout(within):
            while (snapshot := await self.snapshot(bot))["state"] != wanted:
                await asyncio.sleep(0.02)
        return snapshot

    async def ledger(self, bot: str = "bot", after: int = 0) -> list[Any]:
        """Every event of a bot."""
        events: list[Any] = []
        while True:
            _, page = await self.call("GET", f"/api/bots/{bot}/events?after={after}&limit=500")
            events += page["events"]
            if page["next"] is None:
                return events
            after = page["next"]

    async def admin(self, path: str) -> Any:
        async with self._session.get(self._program.admin_url + path) as response:
            return await response.json(content_type=None)

    async def fault(self, name: str, *, on: bool) -> None:
        """Turn a named fault on or off."""
        url = f"{self._program.admin_url}/debug/faults/{name}"
        async with self._session.request("PUT" if on else "DELETE", url) as response:
            response.raise_for_status()

    async def metrics(self) -> dict[str, float]:
        """Every sample, by its name and labels as the text has them."""
        async with self._session.get(f"{self._program.admin_url}/metrics") as response:
            lines = (await response.text()).splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in samples}


@asynccontextmanager
async def api(program: Program, user: str = "user") -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(program, session, user)
