"""Ports for programs that are told theirs, and that may stop and start again on it.

The kernel's own choice (port 0) is of no use there: it is from the range that every outgoing connection takes its port
from, so it may be taken between the choice and the start, or while a program restarts. A port from below that range is
taken by nobody but another test: a lock on a file of its number keeps it for as long as this process lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Final

FIRST: Final = 10_000
ATTEMPTS: Final = 500
OUTGOING: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Linux: the first and last port of outgoing connections."""

_held: list[int] = []
"""Open files: their locks go with this process."""


def free_port() -> int:
    """A port that nobody has, and that no other test process is given while this one lives."""
    folder = Path(tempfile.gettempdir(), f"roundtrip-test-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    chance = random.SystemRandom()  # the tests' own seed is the same in each worker
    for _ in range(ATTEMPTS):
        port = chance.randrange(FIRST, _below())
        if _is_free(port) and _keep(folder / str(port)):
            return port
    raise RuntimeError(f"no port between {FIRST} and {_below()} is free")


def free_ports(count: int) -> list[int]:
    """Several of them."""
    return [free_port() for _ in range(count)]


def _below() -> int:
    """The first port of outgoing connections; a common one where the system does not say, or leaves no room."""
    with contextlib.suppress(OSError):
        first = int(OUTGOING.read_text().split()[0])
        if first > FIRST + ATTEMPTS:
            return first
    return 32_768


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))  # on every address: some programs are told another one than 127.0.0.1
        except OSError:
            return False
        return True


def _keep(path: Path) -> bool:
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    _held.append(file)
    return True
