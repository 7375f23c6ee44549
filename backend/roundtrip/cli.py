"""The command `roundtrip`: its subcommands, and the server that runs until a signal.

To add a subcommand, write a module of `commands/` with `run(arguments) -> exit status` and give it a row in `COMMANDS`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import structlog
import uvloop

from roundtrip.app import Backend
from roundtrip.commands import check, migrate_store, token
from roundtrip.commands.arguments import Parser
from roundtrip.commands.reference import settings_text
from roundtrip.environment import load
from roundtrip.errors import StartError
from roundtrip.runtime import GarbageCollection, program_version
from roundtrip.settings import Settings, SettingsError

log = structlog.get_logger(__name__)

STOP_TIMEOUT: Final = 9.0
"""Seconds that a clean stop may take in all, beside the hand-over of links to other nodes."""

DEMO: Final = {"whatsapp_driver": "simulated", "auth": "trusted"}
"""What `roundtrip demo` sets, unless the environment does."""


class Command(NamedTuple):
    """`run` takes the arguments behind the subcommand and returns the exit status."""

    summary: str
    run: Callable[[list[str]], int]


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after a clean stop, 1 when it could not start, 2 for a wrong setting or argument."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments in (["--help"], ["-h"]):
        print(help_text())  # noqa: T201  # the output of --help
        return 0
    if arguments == ["--version"]:
        print(f"roundtrip {program_version()}")  # noqa: T201  # the output of --version
        return 0
    name, *rest = arguments or ["serve"]
    if name not in COMMANDS:
        return _refuse(f"unknown argument {name!r}; commands: {', '.join(COMMANDS)}; try --help", 2)
    return COMMANDS[name].run(rest)


def help_text() -> str:
    """The output of `--help`: commands, then settings in groups."""
    lines = [
        "Usage: roundtrip [command] [--help]",
        "       roundtrip --version",
        "",
        "Links WhatsApp accounts and proves that the frontend got every event.",
        "",
        "Commands:",
        *(f"  {name:<15}{command.summary}" for name, command in COMMANDS.items()),
    ]
    return "\n".join([*lines, "", settings_text()])


def _serve(arguments: list[str]) -> int:
    Parser("serve", COMMANDS["serve"].summary).parse_args(arguments)
    return start({})


def _demo(arguments: list[str]) -> int:
    Parser("demo", COMMANDS["demo"].summary).parse_args(arguments)
    return start(DEMO, greet)


def greet(backend: Backend) -> None:
    """What somebody who just started the demo does next."""
    print(  # noqa: T201  # for the person at the terminal; programs read the log's line `started`
        f'roundtrip: open {backend.url} in a browser and press "Link WhatsApp"; Ctrl-C stops the backend\n'
        f"roundtrip: {backend.admin_url} is the console: what reached its page, what did not, and why",
        file=sys.stderr,
    )


COMMANDS: Final[Mapping[str, Command]] = {
    "serve": Command("run the backend with the environment's settings (the default)", _serve),
    "demo": Command("run it with a simulated phone and no sign-in, on this machine only", _demo),
    "token": Command("print a token for development: roundtrip token --user ada", token.run),
    "check": Command("try settings, store, keys, ports and driver, and say what is wrong", check.run),
    "migrate-store": Command(migrate_store.SUMMARY, migrate_store.run),
}


def start(defaults: Mapping[str, str], started: Callable[[Backend], None] = lambda _backend: None) -> int:
    """Serve until a signal; the exit status. `defaults` hold for settings that the environment does not set."""
    try:
        settings = load(defaults)
        token.refuse_development_key(settings)
    except SettingsError as error:
        return _refuse(str(error), 2)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, started=started))
    except StartError as error:
        return _refuse(str(error), error.status)
    return 0


async def serve(
    settings: Settings,
    make_backend: Callable[[Settings], Backend] = Backend,
    started: Callable[[Backend], None] = lambda _backend: None,
) -> None:
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
    started(backend)
    collector = GarbageCollection(backend.telemetry.metrics.gc_pause.observe)
    collector.start()
    await stop_requested.wait()
    collector.stop()
    limit = STOP_TIMEOUT + (0.0 if settings.store is None else settings.hand_over_time)
    try:
        async with asyncio.timeout(limit):
            await backend.stop()
    except TimeoutError:
        log.error("stop_took_too_long", limit=limit)


def _refuse(line: str, status: int) -> int:
    print(f"roundtrip: {line}", file=sys.stderr)  # noqa: T201  # logging is not configured yet, or no longer
    return status
