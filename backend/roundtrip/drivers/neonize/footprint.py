"""Keeps a worker small: what it does not load, and the memory that it returns to the system.

neonize imports some 400 modules (25 MB) for sending media, which a worker never does. `install_stubs` puts a finder in
front that answers for those packages with stub modules: every name in them is a class, so that neonize's imports pass;
instantiating one raises `StubUsedError`. Besides memory and half of the start time, this takes libmagic and neonize's
download of missing libraries out of the running program.

Imports neither asyncio nor neonize: both are imported after `block_unused` and `install_stubs` have run.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import re
import sys
import types
from collections.abc import MutableSequence, Sequence
from pathlib import Path
from typing import Final

STUBBED: Final = frozenset({"PIL", "httpx", "linkpreview", "magic", "phonenumbers", "requests", "segno", "tqdm"})
"""neonize's dependencies for stickers, previews, downloads, number formats and drawing codes on a terminal."""

UNUSED: Final = ("ssl", "_ssl", "_hashlib", "multiprocessing", "colorlog")
"""Of the standard library, 4 MB: the Go side does its own TLS, and asyncio and hashlib work without them."""

MADV_DONTNEED: Final = 4
MIN_MAPPING: Final = 512 * 1024
"""Bytes from which a mapping is worth the call."""

RELEASE_AFTER: Final = 2.0
"""Seconds from the first Connected until memory that only the start needed is released."""
RELEASE_LATER: Final = (15.0, 60.0, 180.0)
"""Seconds between the next times: the phone sends its history of the account in the first minutes."""
RELEASE_INTERVAL: Final = 900.0
"""Seconds between all further times: some of it may come any time."""

_HEADER: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)")


class StubUsedError(RuntimeError):
    """Something that is stubbed in a worker was called after all."""


class _StubMeta(type):
    """Any attribute of a stub class is a stub class too: annotations name `Image.Image`."""

    def __getattr__(cls, name: str) -> type:
        return _stub_class(name, cls.__module__)


def _stub_class(name: str, module: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise StubUsedError(f"{module}.{name} is left out of workers (backend/roundtrip/drivers/neonize/footprint.py)")

    # an exception, so that `except` clauses may name it
    return _StubMeta(name, (Exception,), {"__init__": refuse, "__module__": module})


class _StubModule(types.ModuleType):
    __path__: MutableSequence[str] = []  # noqa: RUF012 -- nobody looks for anything in it

    def __getattr__(self, name: str) -> type:
        made = _stub_class(name, self.__name__)
        setattr(self, name, made)
        return made


class _StubFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in STUBBED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def block_unused() -> None:
    """Make `UNUSED` fail to import. Must run before the first import of asyncio."""
    for name in UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own marker for "cannot be imported"


def install_stubs() -> None:
    """Stub `STUBBED`. Must run before the first import of neonize. Raises `ModuleNotFoundError` without neonize."""
    sys.meta_path.insert(0, _StubFinder())
    # The package without its __init__: that one loads the second, synchronous client too.
    spec = importlib.util.find_spec("neonize")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("neonize is not installed")
    package = types.ModuleType("neonize")
    package.__path__ = [str(Path(spec.origin).parent)]
    sys.modules["neonize"] = package


def memory() -> int | None:
    """This process' share of the memory (PSS) in bytes; None where the system does not say."""
    try:
        with open("/proc/self/smaps_rollup", "rb") as lines:  # noqa: PTH123  # pathlib costs memory
            for line in lines:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def untouched_pages(smaps: str) -> list[tuple[int, int]]:
    """(start, size), in bytes, of private file mappings that are not writable and were never written: all of it can be
    read again from the file. `smaps` is the text of /proc/self/smaps.

    Never written matters: the loader writes relocations before it makes a mapping read-only.
    """
    found: list[tuple[int, int]] = []
    candidate: tuple[int, int] | None = None
    for line in smaps.splitlines():
        header = _HEADER.match(line)
        if header is not None:
            start, end = int(header[1], 16), int(header[2], 16)
            fits = header[4] != "0" and header[3][1] == "-" and header[3][3] == "p" and end - start >= MIN_MAPPING
            candidate = (start, end - start) if fits else None
        elif line.startswith("Anonymous:") and candidate is not None and line.split()[1] == "0":
            found.append(candidate)
    return found


def release_memory() -> None:
    """Collect garbage, return free heap to the system, and drop code that ran only once from this process' memory.

    Dropped code stays in the page cache and is loaded again when it runs again.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with contextlib.suppress(OSError):  # no /proc: then no page is dropped
        for start, size in untouched_pages(Path("/proc/self/smaps").read_text()):
            libc.madvise(start, size, MADV_DONTNEED)
    if hasattr(libc, "malloc_trim"):  # glibc only
        libc.malloc_trim(0)


async def release_memory_repeatedly() -> None:
    """Never returns. Repeatedly, because the library keeps what it downloads for a while."""
    import asyncio  # late: see the module's docstring

    for pause in itertools.chain((RELEASE_AFTER, *RELEASE_LATER), itertools.repeat(RELEASE_INTERVAL)):
        await asyncio.sleep(pause)
        release_memory()
