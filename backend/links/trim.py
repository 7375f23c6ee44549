"""Gives back, once a worker is connected, what only its start needed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path
from typing import Final

MADV_DONTNEED: Final = 4
LEAST: Final = 512 * 1024
"""Bytes of a mapping that is worth the call."""

_HEADER: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)")


def untouched(smaps: str) -> list[tuple[int, int]]:
    """(start, size) of mappings of a file that nobody can write and nobody wrote: all can be read again from the file.

    The second condition matters: the loader writes relocations before it takes the right to write away.
    """
    found: list[tuple[int, int]] = []
    candidate: tuple[int, int] | None = None
    for line in smaps.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            start, end = int(header[1], 16), int(header[2], 16)
            fits = header[4] != "0" and header[3][1] == "-" and header[3][3] == "p" and end - start >= LEAST
            candidate = (start, end - start) if fits else None
        elif line.startswith("Anonymous:") and candidate is not None and line.split()[1] == "0":
            found.append(candidate)
    return found


def trim() -> None:
    """Collect garbage, return free heap to the system, and drop code that ran only once from this process' memory.

    Dropped code stays in the page cache and comes back by itself when it runs again.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with contextlib.suppress(OSError):  # no /proc: then nothing is given back
        for start, size in untouched(Path("/proc/self/smaps").read_text()):
            libc.madvise(start, size, MADV_DONTNEED)
    if hasattr(libc, "malloc_trim"):  # glibc's own
        libc.malloc_trim(0)
