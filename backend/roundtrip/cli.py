"""The life of the process: it runs until it is asked to stop, stops cleanly, and ends at once when asked twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

import structlog

from roundtrip.app import Backend
from roundtrip.runtime import Collector
from roundtrip.settings import Settings

log = structlog.get_logger(__name__)

STOP_WITHIN: Final = 9.0
"""Seconds that a clean stop may take in all."""


async def serve(settings: Settings, make: Callable[[Settings], Backend] = Backend) -> None:
    """Run until SIGTERM or SIGINT, then stop cleanly; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            signal.raise_signal(signal.SIGKILL)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    backend = make(settings)
    await backend.start()
    collector = Collector(backend.telemetry.metrics.gc_pause.observe)
    collector.start()
    await asked.wait()
    collector.stop()
    try:
        async with asyncio.timeout(STOP_WITHIN):
            await backend.stop()
    except TimeoutError:
        log.error("stop_took_too_long", limit=STOP_WITHIN)
