"""Whether the program can do its work now, as `/readyz` and the gauge `ready` say it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog
from aiohttp import web

from backend.api.shapes import Check, Readiness
from backend.delivery.outbox import OutboxError
from backend.telemetry.redaction import message_of

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
