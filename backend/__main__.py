"""`python -m backend`: reads the settings, runs the program, and says in one line what keeps it from starting."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from roundtrip import settings as settings_
from roundtrip.app import StartError
from roundtrip.cli import serve

USAGE = "Usage: python -m backend [--help]\n\nLinks WhatsApp accounts and proves that the frontend got every event.\n"


def main(arguments: list[str]) -> int:
    """Exit status: 0 after a clean stop, 1 when it could not start, 2 for a wrong setting or argument."""
    if arguments in (["--help"], ["-h"]):
        print(f"{USAGE}\n{settings_.describe()}")  # noqa: T201  # it is what was asked for
        return 0
    if arguments:
        return _refuse(f"unknown argument {arguments[0]!r}; try --help", 2)
    try:
        settings = settings_.load()
    except settings_.SettingsError as error:
        return _refuse(str(error), 2)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except StartError as error:
        return _refuse(str(error), 1)
    return 0


def _refuse(line: str, status: int) -> int:
    print(f"roundtrip: {line}", file=sys.stderr)  # noqa: T201  # before and after logging there is no logger
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
