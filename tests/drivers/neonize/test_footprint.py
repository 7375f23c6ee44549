"""What a worker does not load, and the memory that it returns."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roundtrip.drivers.neonize import footprint
from roundtrip.drivers.neonize.footprint import untouched_pages

ROOT = Path(__file__).resolve().parents[3]
SMAPS = """\
7f0000000000-7f0000100000 r-xp 00000000 fe:00 17 /lib/code.so
Rss: 1024 kB
Anonymous:             0 kB
7f0000100000-7f0000200000 r--p 00100000 fe:00 17 /lib/relocated.so
Anonymous:           512 kB
7f0000200000-7f0000300000 rw-p 00200000 fe:00 17 /lib/data.so
Anonymous:             0 kB
7f0000300000-7f0000400000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000400000-7f0000401000 r--p 00000000 fe:00 18 /lib/small.so
Anonymous:             0 kB
7f0000500000-7f0000600000 r--s 00000000 fe:00 19 /lib/shared
Anonymous:             0 kB
"""


def test_only_what_can_be_read_again_from_its_file() -> None:
    assert untouched_pages(SMAPS) == [(0x7F0000000000, 0x100000)]


def test_a_process_goes_on_after_its_memory_was_released() -> None:
    code = (
        "from roundtrip.drivers.neonize.footprint import release_memory; import json; release_memory(); "
        "release_memory(); import sqlite3; print(json.dumps([1]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "backend", check=True, timeout=30
    )
    assert run.stdout == "[1]\n"


LEFT_OUT = ("PIL", "httpx", "linkpreview", "magic", "phonenumbers", "requests", "segno", "tqdm")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Imports as they were, once the test is over; a neonize of the test's own is found in the folder."""
    before, finders = dict(sys.modules), list(sys.meta_path)
    for name in list(sys.modules):
        if name.partition(".")[0] in (*LEFT_OUT, "neonize"):
            del sys.modules[name]
    (tmp_path / "neonize").mkdir()
    (tmp_path / "neonize" / "__init__.py").write_text("raise RuntimeError('the second client is loaded too')")
    (tmp_path / "neonize" / "part.py").write_text("from PIL import Image\nVALUE = 1\ndef f(x: Image.Image): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.clear()
    sys.modules.update(before)
    sys.meta_path[:] = finders


def test_what_is_left_out_is_imported_as_a_stub_and_fails_when_it_is_called(modules: Path) -> None:
    footprint.install_stubs()
    for name in LEFT_OUT:
        stub = importlib.import_module(f"{name}.part")
        assert stub.Thing is stub.Thing
        assert issubclass(stub.Thing.Inner, Exception)
        with pytest.raises(footprint.StubUsedError, match=r"Thing.*footprint\.py"):
            stub.Thing()
        assert not hasattr(stub, "__wrapped__")
    assert importlib.import_module("json.tool").__file__


def test_neonizes_parts_are_loaded_without_the_package_itself(modules: Path) -> None:
    footprint.install_stubs()
    assert importlib.import_module("neonize.part").VALUE == 1


@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec("neonize", None)])
def test_a_missing_neonize_is_a_clear_error(modules: Path, monkeypatch: pytest.MonkeyPatch, spec: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(ModuleNotFoundError, match="not installed"):
        footprint.install_stubs()


def test_unused_parts_of_the_standard_library_cannot_be_imported(modules: Path) -> None:
    footprint.block_unused()
    for name in ("ssl", "_ssl", "_hashlib", "multiprocessing", "colorlog"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_what_can_be_read_again_is_dropped_and_the_heap_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Advise:
        argtypes: Any = None

        def __call__(self, *args: int) -> None:
            assert self.argtypes is not None, "an address does not fit in the int that ctypes assumes"
            calls.append(args)

    libc = SimpleNamespace(madvise=Advise(), malloc_trim=lambda pad: calls.append(pad))
    monkeypatch.setattr("ctypes.CDLL", lambda _: libc)
    smaps = "7f0000000000-7f0000080000 r-xp 00000000 fe:00 17 /lib/code.so\nAnonymous:   0 kB\n"
    read = {"/proc/self/smaps": smaps}
    monkeypatch.setattr(Path, "read_text", lambda path: read[str(path)])
    footprint.release_memory()
    assert calls == [(0x7F0000000000, footprint.MIN_MAPPING, 4), 0], "MADV_DONTNEED is 4"
    calls.clear()

    def none(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", none)
    footprint.release_memory()
    assert calls == [0]
