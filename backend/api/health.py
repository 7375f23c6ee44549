"""Whether the program can do its work now, as `/readyz` says it."""

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


def readiness(checks: Mapping[str, ReadyCheck]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that runs all checks at once: 200 when each is well, else 503."""

    async def ready(_request: web.Request) -> web.Response:
        results = await asyncio.gather(*(run(name, check) for name, check in checks.items()))
        answer = Readiness(all(result.ok for result in results), dict(zip(checks, results, strict=True)))
        return web.Response(
            body=msgspec.json.encode(answer),
            status=200 if answer.ready else 503,
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    return ready


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
