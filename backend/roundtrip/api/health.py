"""Readiness: whether the program can do its work now, as `/readyz` answers and the gauge `ready` shows."""

from __future__ import annotations

import asyncio
import errno
import logging
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp import web

from roundtrip.api.schemas import ApiModel
from roundtrip.links.storage import LinkStorage, StoreError
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.telemetry.redaction import message_of

log = structlog.get_logger(__name__)

ReadyCheck = Callable[[], Awaitable[str | None]]
"""Returns None when all is well, else a sentence without anything private."""

CHECK_TIMEOUT: Final = 2.0
"""Seconds that one check may take: a probe has a timeout of its own."""

INTERVAL: Final = 5.0
"""Seconds between two runs for the gauge's sake, without probes."""

PROBE_BYTES: Final = 65_536
"""Written to the disk as a probe. A store that only rewrites its own pages does not notice that the disk is full."""

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class CheckResult(ApiModel, frozen=True):
    ok: bool
    detail: str


class ReadinessReport(ApiModel, frozen=True):
    ready: bool
    checks: dict[str, CheckResult]


class Readiness:
    """Runs the checks, all at once, and one run at a time: concurrent callers share its report."""

    def __init__(
        self, checks: Mapping[str, ReadyCheck], on_result: Callable[[str, bool], None] = lambda _check, _ok: None
    ) -> None:
        """`on_result(check, ok)` is called with each check's result."""
        self._checks = checks
        self._on_result = on_result
        self._running: asyncio.Task[ReadinessReport] | None = None
        self._failing: set[str] = set()
        self.last: ReadinessReport | None = None
        """Of the newest run."""

    async def check(self) -> ReadinessReport:
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="ready")
        return await asyncio.shield(self._running)

    async def _run(self) -> ReadinessReport:
        try:
            results = await asyncio.gather(*(run_check(name, check) for name, check in self._checks.items()))
        finally:
            self._running = None
        for name, result in zip(self._checks, results, strict=True):
            self._on_result(name, result.ok)
            if result.ok == (name in self._failing):
                self._failing ^= {name}
                level = logging.INFO if result.ok else logging.WARNING
                log.log(level, "ready_changed", check=name, ok=result.ok, detail=result.detail)
        by_check = dict(zip(self._checks, results, strict=True))
        self.last = ReadinessReport(all(result.ok for result in results), by_check)
        return self.last

    async def poll(self) -> None:
        """Run for ever, so that the gauge is current without probes."""
        while True:
            await self.check()
            await asyncio.sleep(INTERVAL)

    async def handle(self, _request: web.Request) -> web.Response:
        """200 when every check passes, else 503."""
        report = await self.check()
        return web.Response(
            body=msgspec.json.encode(report),
            status=200 if report.ready else 503,
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )


async def run_check(name: str, check: ReadyCheck) -> CheckResult:
    """Run one check; an exception is a failed check."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            failure = await check()
    except OutboxError as error:
        failure = error.message
    except TimeoutError:
        failure = f"No answer within {CHECK_TIMEOUT:g} s."
    except Exception as error:  # noqa: BLE001  # whatever a part throws, it is not ready
        log.error("ready_check_failed", check=name, reason=message_of(error))
        failure = "The check itself failed; the log says why."
    return CheckResult(failure is None, failure or "ok")


class ReadinessChecks:
    """The checks of this program. `draining` is set when a stop begins, `restore` to the task that restores links."""

    def __init__(self, outbox: Outbox, store: LinkStorage, folder: Path) -> None:
        """`folder` is of both stores."""
        self._outbox = outbox
        self._store = store
        self._folder = folder
        self.draining = False
        self.restore: asyncio.Task[None] | None = None

    def all(self) -> Mapping[str, ReadyCheck]:
        return {
            "outbox": self._check_outbox,
            "links": self._check_links,
            "restore": self._check_restore,
            "draining": self._check_draining,
        }

    async def _check_outbox(self) -> str | None:
        await self._outbox.check()
        return await self._check_disk()

    async def _check_links(self) -> str | None:
        try:
            await self._store.check()
        except StoreError as error:
            return str(error)
        return await self._check_disk()

    async def _check_disk(self) -> str | None:
        return await asyncio.to_thread(probe_disk, self._folder)

    async def _check_restore(self) -> str | None:
        task = self.restore
        if task is None:
            return "The restore of links has not begun."
        if task.done() and (task.cancelled() or task.exception() is not None):
            return "The restore of links ended before its time; the log says why."
        return None

    async def _check_draining(self) -> str | None:
        return "The program is stopping." if self.draining else None


def probe_disk(folder: Path) -> str | None:
    """Write a file of `PROBE_BYTES` and drop it: None, or a sentence that says why that failed. Blocks on the disk."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"\0" * PROBE_BYTES)
    except OSError as error:
        if error.errno in _DISK_FULL:
            return "The disk is full."
        return f"The data directory cannot be written: {error.strerror}."
    return None
