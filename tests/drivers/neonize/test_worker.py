"""The start of a worker, step by step, in this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roundtrip.drivers.neonize import pipe, worker


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
    begin = pipe.Begin("/nowhere", "http://localhost:1")
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
            before = len(list(Path("/proc/self/fd").iterdir()))
            commands, reports = worker.move_pipes()
            os.write(1, b"printed;")
            os.write(2, b"complained;")
            os.write(reports, os.read(commands, 100))
            os.write(reports, os.read(0, 100) or b"nothing to read")
            os._exit(len(list(Path("/proc/self/fd").iterdir())) - before - 2)  # no file is left open besides the two
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert paths[1].read_text() == "command\nnothing to read"
    assert paths[2].read_text() == "printed;complained;"


def test_a_worker_lowers_its_priority_with_and_without_autogroup(
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
    worker.exit_with_parent()
    assert asked == [(1, 9)], "PR_SET_PDEATHSIG, SIGKILL"


def test_neonizes_own_log_is_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    configured: list[Any] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: configured.append(options))
    log = logging.getLogger("neonize.utils.log")
    before = log.level
    try:
        worker.silence_logging()
        assert not log.isEnabledFor(logging.ERROR)
        assert [type(one) for one in configured[0]["handlers"]] == [logging.NullHandler]
    finally:
        log.setLevel(before)
