"""The command `roundtrip`: reads the settings, serves until a signal, and reports in one line why it cannot start."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
import uvloop
from pydantic import SecretStr

from roundtrip import faults
from roundtrip.app import Backend
from roundtrip.auth.jwks import OneKey
from roundtrip.auth.service_keys import ServiceKeys
from roundtrip.errors import StartError
from roundtrip.faults import FaultError
from roundtrip.limits.addresses import Proxies
from roundtrip.runtime import GarbageCollection
from roundtrip.settings import PREFIX, Settings, SettingsError, describe, load

log = structlog.get_logger(__name__)

USAGE: Final = "Usage: roundtrip [--help]\n\nLinks WhatsApp accounts and proves that the frontend got every event.\n"

STOP_TIMEOUT: Final = 9.0
"""Seconds that a clean stop may take in all."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after a clean stop, 1 when it could not start, 2 for a wrong setting or argument."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["--help"], ["-h"]):
        print(f"{USAGE}\n{describe()}")  # noqa: T201  # the output of --help
        return 0
    if arguments:
        return _refuse(f"unknown argument {arguments[0]!r}; try --help", 2)
    try:
        settings = check(load())
    except SettingsError as error:
        return _refuse(str(error), 2)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except StartError as error:
        return _refuse(str(error), 1)
    return 0


def check(settings: Settings) -> Settings:
    """Parse the settings whose syntax only their part knows, so that a wrong one is reported before anything starts.

    Raises `SettingsError`.
    """
    for name, parse in _PARSERS.items():
        value = getattr(settings, name)
        try:
            if value is not None:
                parse(value.get_secret_value() if isinstance(value, SecretStr) else value)
        except (ValueError, FaultError) as error:
            raise SettingsError(f"{PREFIX}{name.upper()}: {error}") from None
    return settings


_PARSERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "jwt_public_key": OneKey,
    "forwarded_allow_ips": Proxies,
    "faults": lambda specs: [faults.parse(spec) for spec in specs],
    "api_keys": ServiceKeys.parse,
}


async def serve(settings: Settings, make_backend: Callable[[Settings], Backend] = Backend) -> None:
    """Run until SIGTERM or SIGINT, then stop cleanly; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()

    def on_signal() -> None:
        if stop_requested.is_set():
            signal.raise_signal(signal.SIGKILL)
        stop_requested.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    backend = make_backend(settings)
    await backend.start()
    if settings.auth == "trusted":  # development: a person has just typed the command
        print(f"Page:    {backend.url}\nConsole: {backend.admin_url}", flush=True)  # noqa: T201  # for that person
    collector = GarbageCollection(backend.telemetry.metrics.gc_pause.observe)
    collector.start()
    await stop_requested.wait()
    collector.stop()
    try:
        async with asyncio.timeout(STOP_TIMEOUT):
            await backend.stop()
    except TimeoutError:
        log.error("stop_took_too_long", limit=STOP_TIMEOUT)


def _refuse(line: str, status: int) -> int:
    print(f"roundtrip: {line}", file=sys.stderr)  # noqa: T201  # logging is not configured yet, or no longer
    return status
