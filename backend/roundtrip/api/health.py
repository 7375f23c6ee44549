"""Whether the program can do its work now, as `/readyz` and the gauge `ready` say it."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp import web

from roundtrip.api.schemas import Check, Readiness
from roundtrip.links.store import LinkStore, StoreError
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.telemetry.redaction import message_of

log = structlog.get_logger(__name__)

ReadyCheck = Callable[[], Awaitable[str | None]]
"""Returns None when all is well, else a sentence without anything private."""

DEADLINE: Final = 2.0
"""Seconds that one check may take: who probes has a deadline of its own."""

EVERY: Final = 5.0
"""Seconds between two looks for the gauge's sake, when nobody probes."""


class Health:
    """Runs the checks, all at once, and one look at a time: who asks meanwhile gets the same answer."""

    def __init__(
        self, checks: Mapping[str, ReadyCheck], tell: Callable[[str, bool], None] = lambda _check, _ok: None
    ) -> None:
        """`tell` is given each check's result."""
        self._checks = checks
        self._tell = tell
        self._looking: asyncio.Task[Readiness] | None = None
        self._wrong: set[str] = set()

    async def look(self) -> Readiness:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="ready")
        return await asyncio.shield(self._looking)

    async def _look(self) -> Readiness:
        try:
            results = await asyncio.gather(*(run(name, check) for name, check in self._checks.items()))
        finally:
            self._looking = None
        for name, result in zip(self._checks, results, strict=True):
            self._tell(name, result.ok)
            if result.ok == (name in self._wrong):
                self._wrong ^= {name}
                log.log(20 if result.ok else 30, "ready_changed", check=name, ok=result.ok, detail=result.detail)
        return Readiness(all(result.ok for result in results), dict(zip(self._checks, results, strict=True)))

    async def watch(self) -> None:
        """Run for ever, so that the gauge is true where nobody probes."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def answer(self, _request: web.Request) -> web.Response:
        """200 when each check is well, else 503."""
        found = await self.look()
        return web.Response(
            body=msgspec.json.encode(found),
            status=200 if found.ready else 503,
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )


async def run(name: str, check: ReadyCheck) -> Check:
    """One check; its failure is an answer too."""
    try:
        async with asyncio.timeout(DEADLINE):
            wrong = await check()
    except OutboxError as error:
        wrong = error.message
    except TimeoutError:
        wrong = f"No answer within {DEADLINE:g} s."
    except Exception as error:  # noqa: BLE001  # whatever a part throws, it is not ready
        log.error("ready_check_failed", check=name, reason=message_of(error))
        wrong = "The check itself failed; the log says why."
    return Check(wrong is None, wrong or "ok")


PROBE_BYTES: Final = 65_536
"""What must find room on the disk. A store that only rewrites its own pages does not notice that the disk is full."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class ReadyChecks:
    """`draining` is set when a stop begins, `restore` to the task that brings links back."""

    def __init__(self, outbox: Outbox, store: LinkStore, folder: Path) -> None:
        """`folder` is where both stores live."""
        self._outbox = outbox
        self._store = store
        self._folder = folder
        self.draining = False
        self.restore: asyncio.Task[None] | None = None

    def checks(self) -> Mapping[str, ReadyCheck]:
        return {"outbox": self._events, "links": self._links, "restore": self._restoring, "draining": self._staying}

    async def _events(self) -> str | None:
        await self._outbox.check()
        return await self._room()

    async def _links(self) -> str | None:
        try:
            await self._store.check()
        except StoreError as error:
            return str(error)
        return await self._room()

    async def _room(self) -> str | None:
        return await asyncio.to_thread(room_in, self._folder)

    async def _restoring(self) -> str | None:
        task = self.restore
        if task is None:
            return "The restore of links has not begun."
        if task.done() and (task.cancelled() or task.exception() is not None):
            return "The restore of links ended before its time; the log says why."
        return None

    async def _staying(self) -> str | None:
        return "The program is stopping." if self.draining else None


def room_in(folder: Path) -> str | None:
    """Write a file of `PROBE_BYTES` and drop it: None, or a sentence that says why that failed. Waits for the disk."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"\0" * PROBE_BYTES)
    except OSError as error:
        if error.errno in _FULL:
            return "The disk is full."
        return f"The data directory cannot be written: {error.strerror}."
    return None
