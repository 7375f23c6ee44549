"""The start of a worker: `python -m roundtrip.drivers.neonize.worker`, which the driver runs for a session that pairs,
and for each group of paired ones.

Processes, because the library ends its whole process when it panics, and because a session that is not paired yet
cannot be stopped in any other way. Commands are read from what was stdin, reports are written to what was stdout;
neonize prints (QR codes too) to stdout and stderr, so both lead to the parent, which counts the lines and drops them.

Imports are late on purpose: first the pipes are moved, then `footprint` blocks what shall not be loaded, then the rest
is loaded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from roundtrip.drivers.neonize import footprint

if TYPE_CHECKING:
    from roundtrip.drivers.neonize.pipe import Begin

PR_SET_PDEATHSIG: Final = 1
AUTOGROUP: Final = "/proc/self/autogroup"
LINE_LIMIT: Final = 64 * 1024
"""Bytes of the first line, at most."""


def move_pipes() -> tuple[int, int]:
    """Move stdin and stdout to descriptors of their own, before anything can print there.

    Returns (commands, reports).
    """
    commands, reports = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, reports


def exit_with_parent() -> None:
    """Have the kernel kill this process when the parent exits. The end of the command pipe, noticed later, is the
    fallback."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def silence_logging() -> None:
    """Configure logging before neonize does: its records hold secrets. What the Go side logs goes through
    `library.read_log`."""
    import logging

    logging.basicConfig(handlers=[logging.NullHandler()], level=logging.CRITICAL)
    logging.getLogger("neonize.utils.log").setLevel(logging.CRITICAL)


def read_begin(commands: int) -> Begin:
    """The first command, before there is a loop to read with. Byte by byte: what follows belongs to the loop. Ends the
    process at the end of the pipe, and when the line exceeds `LINE_LIMIT`."""
    from roundtrip.drivers.neonize import pipe

    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(commands, 1)
        if not byte or len(line) > LINE_LIMIT:
            os._exit(0)
        line += byte
    return pipe.decode_begin(bytes(line))


def lower_priority(niceness: int) -> None:
    """Run below the backend. Where Linux groups processes by session, niceness counts within the group only, and the
    group has one of its own (sched(7), "The autogroup feature")."""
    os.nice(niceness)
    try:
        with open(AUTOGROUP, "w") as autogroup:  # noqa: PTH123  # pathlib costs memory
            autogroup.write(str(niceness))
    except OSError:
        pass  # not every system has it, and then it is not needed


def main(before_connect: Callable[[], None] = lambda: None) -> None:
    """Run sessions until the process ends; never returns. `before_connect` is called once the library is loaded."""
    commands, reports = move_pipes()
    footprint.block_unused()
    exit_with_parent()
    os.umask(0o077)  # the store holds an account's keys
    silence_logging()
    begin = read_begin(commands)
    lower_priority(begin.niceness)
    footprint.install_stubs()

    import asyncio

    from roundtrip.drivers.neonize import library, pipe
    from roundtrip.drivers.neonize.host import Host

    before_connect()
    os.chdir(begin.folder)
    try:
        asyncio.run(Host(pipe.MessageWriter(reports), commands, begin, library).run())
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
