"""What a worker is made of, in this process: its pipes, its first line, what it keeps out, and what events mean."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import footprint as lean
from roundtrip.drivers.neonize import footprint as trim
from roundtrip.drivers.neonize import pipe, worker
from roundtrip.drivers.neonize.library_events import READERS

FAILURES = "GENERIC LOGGED_OUT TEMP_BANNED MAIN_DEVICE_GONE UNKNOWN_LOGOUT CLIENT_OUTDATED BAD_USER_AGENT"
FAILURES += " INTERNAL_SERVER_ERROR EXPERIMENTAL SERVICE_UNAVAILABLE"
BANS = "SEND_TO_TOO_MANY_PEOPLE BLOCKED_BY_USERS CREATED_TOO_MANY_GROUPS SENT_TOO_MANY_SAME_MESSAGE BROADCAST_LIST"
ENUMS = {"Reason": FAILURES.split(), "Code": BANS.split(), "Status": ["ERROR", "SUCCESS"]}
"""neonize's names, in the order of its numbers from 1; tests/links/test_worker_events.py has the real messages."""


def message(**fields: Any) -> Any:
    """What neonize hands over, with the descriptor of its enum fields."""
    found = {}
    for field, names in ENUMS.items():
        values = {at: SimpleNamespace(name=name) for at, name in enumerate(names, 1)}
        found[field] = SimpleNamespace(enum_type=SimpleNamespace(values_by_number=values))
    return SimpleNamespace(DESCRIPTOR=SimpleNamespace(fields_by_name=found), **fields)


JID = SimpleNamespace(User="447441395830:7")


@pytest.mark.parametrize(
    ("event", "fields", "report"),
    [
        ("PairStatus", {"ID": JID, "Status": 2}, d.PairSucceeded("+447441395830")),
        ("PairStatus", {"ID": JID, "Status": 1}, d.ConnectFailed("pair_error")),
        ("LoggedOut", {"OnConnect": False, "Reason": 4}, d.LoggedOutByPhone("401")),
        ("LoggedOut", {"OnConnect": True, "Reason": 99}, d.LoggedOutByPhone("401")),
        ("StreamReplaced", {}, d.StreamReplaced()),
        ("ClientOutdated", {}, d.Outdated()),
        ("Disconnected", {}, d.Offline()),
        ("KeepAliveTimeout", {}, d.KeepAliveLost()),
        ("KeepAliveRestored", {}, d.KeepAliveRestored()),
        ("StreamError", {"Code": "5031"}, d.StreamFailed("5031")),
        ("StreamError", {"Code": "50312"}, d.StreamFailed("unknown")),
        ("StreamError", {"Code": "abc"}, d.StreamFailed("unknown")),
        ("TemporaryBan", {"Code": 1, "Expire": 0}, d.TemporaryBan(101, None)),
        ("TemporaryBan", {"Code": 99, "Expire": 1}, d.TemporaryBan(0, 1.0)),
        ("ConnectFailure", {"Reason": 99}, d.ConnectFailed("99")),
    ],
)
def test_an_event_is_read_as_its_report(event: str, fields: dict[str, Any], report: d.Report) -> None:
    assert READERS[event](message(**fields)) == report


NUMBERS = ("400", "401", "402", "403", "406", "405", "409", "500", "501", "503")


@pytest.mark.parametrize(("at", "number"), list(enumerate(NUMBERS, 1)))
def test_refusals_have_whatsapps_numbers(at: int, number: str) -> None:
    assert READERS["ConnectFailure"](message(Reason=at)) == d.ConnectFailed(number)
    assert READERS["LoggedOut"](message(Reason=at, OnConnect=True)) == d.LoggedOutByPhone(number)


@pytest.mark.parametrize(("at", "number"), list(enumerate((101, 102, 103, 104, 106), 1)))
def test_bans_have_whatsapps_numbers(at: int, number: int) -> None:
    assert READERS["TemporaryBan"](message(Code=at, Expire=60)) == d.TemporaryBan(number, 60.0)


# the worker's start


@pytest.fixture
def lines() -> Iterator[tuple[int, int]]:
    """(read end, write end) of a pipe."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


class ExitedError(Exception):
    pass


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise ExitedError

    monkeypatch.setattr(os, "_exit", leave)
    return codes


def test_the_first_line_is_read_and_no_byte_of_the_next(lines: tuple[int, int]) -> None:
    begin = pipe.Begin("one", "/nowhere/one.db", "+447441395830")
    os.write(lines[1], pipe.encode(begin) + b"next")
    os.close(lines[1])
    assert worker.read_begin(lines[0]) == begin
    assert os.read(lines[0], 10) == b"next"


def test_a_parent_that_goes_before_the_first_line_ends_the_worker(lines: tuple[int, int], exits: list[int]) -> None:
    os.write(lines[1], b"half a li")
    os.close(lines[1])
    with pytest.raises(ExitedError):
        worker.read_begin(lines[0])
    assert exits == [0]


def test_a_first_line_without_end_is_not_collected_for_ever(monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> None:
    read = 0

    def one_more(_fd: int, count: int) -> bytes:
        nonlocal read
        read += count
        assert read <= worker.LINE_LIMIT + 10
        return b"x" * count

    monkeypatch.setattr(os, "read", one_more)
    with pytest.raises(ExitedError):
        worker.read_begin(0)
    assert read > 60_000, "a begin may be long"
    assert exits == [0]


def test_what_the_library_prints_goes_to_neither_end_of_the_protocol(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("in", "out", "err")]
    paths[0].write_text("command\n")
    child = os.fork()
    if child == 0:  # pragma: no cover -- its standard streams are its own
        try:
            os.dup2(os.open(paths[0], os.O_RDONLY), 0)
            for fd in (1, 2):
                os.dup2(os.open(paths[fd], os.O_WRONLY | os.O_CREAT, 0o600), fd)
            lowest = os.dup(2)
            os.close(lowest)
            commands, reports = worker.move_pipes()
            os.write(1, b"printed;")
            os.write(2, b"complained;")
            os.write(reports, os.read(commands, 100))
            os.write(reports, os.read(0, 100) or b"nothing to read")
            spare = os.dup(2)
            os._exit(0 if spare == lowest + 2 else 3)  # no file is left open besides the two
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert paths[1].read_text() == "command\nnothing to read"
    assert paths[2].read_text() == "printed;complained;"


def test_a_worker_gives_way_where_the_kernel_groups_and_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nice: list[int] = []
    monkeypatch.setattr(os, "nice", nice.append)
    assert worker.AUTOGROUP == "/proc/self/autogroup"
    monkeypatch.setattr(worker, "AUTOGROUP", str(tmp_path / "autogroup"))
    worker.lower_priority(7)
    assert (tmp_path / "autogroup").read_text() == "7"
    monkeypatch.setattr(worker, "AUTOGROUP", str(tmp_path / "none" / "autogroup"))
    worker.lower_priority(8)
    assert nice == [7, 8]


def test_the_kernel_is_asked_to_end_a_worker_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(prctl=lambda *args: asked.append(args)))
    worker.die_with_parent()
    assert asked == [(1, 9)], "PR_SET_PDEATHSIG, SIGKILL"


def test_neonizes_own_log_is_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[Any] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: configured.append(options))
    log = logging.getLogger("neonize.utils.log")
    before = log.level
    try:
        worker.silence_output()
        assert not log.isEnabledFor(logging.ERROR)
        assert [type(one) for one in configured[0]["handlers"]] == [logging.NullHandler]
    finally:
        log.setLevel(before)


# what stays out of a worker

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


def test_what_is_left_out_is_imported_hollow_and_fails_when_it_is_called(modules: Path) -> None:
    lean.install()
    for name in LEFT_OUT:
        hollow = importlib.import_module(f"{name}.part")
        assert hollow.Thing is hollow.Thing
        assert issubclass(hollow.Thing.Inner, Exception)
        with pytest.raises(lean.StubUsedError, match=r"Thing.*footprint\.py"):
            hollow.Thing()
        assert not hasattr(hollow, "__wrapped__")
    assert importlib.import_module("json.tool").__file__


def test_neonizes_parts_are_loaded_without_the_package_itself(modules: Path) -> None:
    lean.install()
    assert importlib.import_module("neonize.part").VALUE == 1


@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec("neonize", None)])
def test_a_missing_neonize_is_said(modules: Path, monkeypatch: pytest.MonkeyPatch, spec: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(ModuleNotFoundError, match="not installed"):
        lean.install()


def test_unused_parts_of_the_standard_library_cannot_be_imported(modules: Path) -> None:
    lean.without_unused()
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
    trim.release_memory()
    assert calls == [(0x7F0000000000, trim.LEAST, 4), 0], "MADV_DONTNEED is 4"
    calls.clear()

    def none(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", none)
    trim.release_memory()
    assert calls == [0]
