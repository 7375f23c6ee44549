"""Keeps out of a worker what neonize imports for sending media and a worker never uses: some 400 modules, 25 MB.

`install` puts a finder in front that answers for those packages with hollow modules: every name in them is a class
that does nothing, so that neonize's imports pass; whoever called one would get an error. Besides memory and half of
the start time, this takes libmagic and neonize's download of missing libraries out of the running program.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
import types
from collections.abc import MutableSequence, Sequence
from pathlib import Path
from typing import Final

HOLLOW: Final = frozenset({"PIL", "httpx", "linkpreview", "magic", "phonenumbers", "requests", "segno", "tqdm"})
"""neonize's dependencies for stickers, previews, downloads, number formats and drawing codes on a terminal."""

UNUSED: Final = ("ssl", "_ssl", "_hashlib", "multiprocessing", "colorlog")
"""Of the standard library, 4 MB: the Go side does its own TLS, and asyncio and hashlib know how to live without."""


class StubUsedError(RuntimeError):
    """Something that a worker does without was called after all."""


class _Names(type):
    """Any name looked up on a hollow class is a hollow class again: annotations say `Image.Image`."""

    def __getattr__(cls, name: str) -> type:
        return _hollow(name, cls.__module__)


def _hollow(name: str, module: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise StubUsedError(f"{module}.{name} is left out of workers (backend/roundtrip/drivers/neonize/footprint.py)")

    # an exception, so that `except` clauses may name it
    return _Names(name, (Exception,), {"__init__": refuse, "__module__": module})


class _Hollow(types.ModuleType):
    __path__: MutableSequence[str] = []  # noqa: RUF012 -- nobody looks for anything in it

    def __getattr__(self, name: str) -> type:
        made = _hollow(name, self.__name__)
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in HOLLOW else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Hollow(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def without_unused() -> None:
    """Must run before the first import of asyncio."""
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python spells "cannot be imported"


def install() -> None:
    """Must run before the first import of neonize."""
    sys.meta_path.insert(0, _Finder())
    # The package without its __init__: that one loads the second, synchronous client too.
    spec = importlib.util.find_spec("neonize")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("neonize is not installed")
    package = types.ModuleType("neonize")
    package.__path__ = [str(Path(spec.origin).parent)]
    sys.modules["neonize"] = package


MADV_DONTNEED: Final = 4
LEAST: Final = 512 * 1024
"""Bytes of a mapping that is worth the call."""

_HEADER: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)")


def untouched_pages(smaps: str) -> list[tuple[int, int]]:
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


def release_memory() -> None:
    """Collect garbage, return free heap to the system, and drop code that ran only once from this process' memory.

    Dropped code stays in the page cache and comes back by itself when it runs again.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with contextlib.suppress(OSError):  # no /proc: then nothing is given back
        for start, size in untouched_pages(Path("/proc/self/smaps").read_text()):
            libc.madvise(start, size, MADV_DONTNEED)
    if hasattr(libc, "malloc_trim"):  # glibc's own
        libc.malloc_trim(0)
