"""One WhatsApp session in a process of its own: `python -m backend.links.worker`, started by neonize_driver.

A process each, because the library takes the whole process with it when it panics, and because a session that is not
paired yet cannot be stopped in any other way. Commands come in on stdin, reports go out on what was stdout; neonize
prints (codes among it) to stdout and stderr, so both lead to the parent's counter and are never kept.

Imports are late on purpose: the pipes move first, then `lean` says what stays out, then the rest is loaded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from backend.links import lean

if TYPE_CHECKING:
    from backend.links.pipe import Begin

PR_SET_PDEATHSIG: Final = 1
AUTOGROUP: Final = "/proc/self/autogroup"
LINE_LIMIT: Final = 64 * 1024


def move_pipes() -> tuple[int, int]:
    """Take stdin and stdout away for the protocol, before anything can print there. Returns (commands, reports)."""
    commands, reports = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, reports


def die_with_parent() -> None:
    """The kernel ends this process when the parent goes; end of input, noticed later, is the other belt."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def hush() -> None:
    """Configure logging before neonize does: what it says holds secrets. What the Go side hands over is
    `library.read_log`'s to say."""
    import logging

    logging.basicConfig(handlers=[logging.NullHandler()], level=logging.CRITICAL)
    logging.getLogger("neonize.utils.log").setLevel(logging.CRITICAL)


def read_begin(commands: int) -> Begin:
    """The first line, before there is a loop to read with. Byte by byte: what follows belongs to the loop."""
    from backend.links import pipe

    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(commands, 1)
        if not byte or len(line) > LINE_LIMIT:
            os._exit(0)
        line += byte
    return pipe.decode_begin(bytes(line))


def step_back(niceness: int) -> None:
    """Give way to the backend. Where Linux groups processes by session, niceness counts within the group only, and the
    group has one of its own (sched(7), "The autogroup feature")."""
    os.nice(niceness)
    try:
        with open(AUTOGROUP, "w") as autogroup:  # noqa: PTH123  # pathlib costs memory that lean keeps out
            autogroup.write(str(niceness))
    except OSError:
        pass  # not every system has it, and then it is not needed


def main(before_connect: Callable[[], None] = lambda: None) -> None:
    """The whole life of a worker. `before_connect` is called once the library is loaded."""
    commands, reports = move_pipes()
    lean.without_unused()
    die_with_parent()
    os.umask(0o077)  # the store holds an account's keys
    hush()
    begin = read_begin(commands)
    step_back(begin.niceness)
    lean.install()

    import asyncio

    from backend.links import library
    from backend.links.worker_session import Reports, WorkerSession

    before_connect()
    # The library puts the path into a URI unescaped, so give it the bare name and stand in its folder.
    folder, name = os.path.split(begin.store)
    os.chdir(folder)
    client = library.make_client(name, begin.session, begin.device_name)
    try:
        asyncio.run(WorkerSession(Reports(reports), commands, begin, client, library).run())
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
