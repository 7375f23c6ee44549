"""One WhatsApp session in a process of its own: `python -m roundtrip.drivers.neonize.worker`, which the driver starts.

A process each, because the library takes the whole process with it when it panics, and because a session that is not
paired yet cannot be stopped in any other way. Commands come in on stdin, reports go out on what was stdout; neonize
prints (codes among it) to stdout and stderr, so both lead to the parent's counter and are never kept.

Imports are late on purpose: the pipes move first, then `lean` says what stays out, then the rest is loaded.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from roundtrip.drivers.neonize import footprint as lean

if TYPE_CHECKING:
    from roundtrip.drivers.neonize.pipe import Begin

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


def silence_output() -> None:
    """Configure logging before neonize does: what it says holds secrets. What the Go side hands over is
    `library.read_log`'s to say."""
    import logging

    logging.basicConfig(handlers=[logging.NullHandler()], level=logging.CRITICAL)
    logging.getLogger("neonize.utils.log").setLevel(logging.CRITICAL)


def read_begin(commands: int) -> Begin:
    """The first line, before there is a loop to read with. Byte by byte: what follows belongs to the loop."""
    from roundtrip.drivers.neonize import pipe

    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(commands, 1)
        if not byte or len(line) > LINE_LIMIT:
            os._exit(0)
        line += byte
    return pipe.decode_begin(bytes(line))


def lower_priority(niceness: int) -> None:
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
    silence_output()
    begin = read_begin(commands)
    lower_priority(begin.niceness)
    lean.install()

    import asyncio

    from roundtrip.drivers.neonize import library
    from roundtrip.drivers.neonize.session import Reports, WorkerSession

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


_REFUSED: Final = re.compile(rb"connect failure: <failure ([^>]*)>")
_ATTRIBUTE: Final = re.compile(rb'\b(reason|code|expire)="(\d{1,9})"')
_CODES: Final = b"<pair-device>"
_CODE: Final = b"<ref>"
_RAN_OUT: Final = b"Ran out of QR codes"
_LOST: Final = b"Failed to reconnect after 515 code: "
_LOST_LIMIT: Final = 2048


class Refusal(NamedTuple):
    """WhatsApp's numbers in a `failure`; None where it named none. `expire` is in seconds."""

    reason: int | None
    code: int | None
    expire: int | None


class LibraryLog:
    """`lost` is called with the library's error, in whatever thread it comes, when the reconnect failed that follows a
    515 (after a scan, or when WhatsApp asks for it): the library tries once and tells nobody."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self.codes: int | None = None
        """How many codes WhatsApp gave out for this pairing."""
        self.ran_out = False
        """Whether the library showed its last code to the end."""
        self.refusal: Refusal | None = None
        """The last one, ban or not."""

    def take(self, entry: bytes) -> None:
        """One line, as neonize hands it over."""
        if (refused := _REFUSED.search(entry)) is not None:
            found = {name: int(digits) for name, digits in _ATTRIBUTE.findall(refused[1])}
            self.refusal = Refusal(found.get(b"reason"), found.get(b"code"), found.get(b"expire"))
        elif _CODES in entry:
            self.codes = entry.count(_CODE) or None
        elif _RAN_OUT in entry:
            self.ran_out = True
        elif (at := entry.find(_LOST)) >= 0:
            self._lost(entry[at + len(_LOST) :][:_LOST_LIMIT].decode(errors="replace"))
