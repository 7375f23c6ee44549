"""The ports that tests give to programs: nobody else's, for as long as the test's process lives."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ports
from tests.support.program import ROOT


def test_no_outgoing_connection_takes_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        outgoing = server.getsockname()[1]
    given = ports.free_ports(20)
    assert len(set(given)) == 20
    assert all(ports.FIRST <= port < 32_768 for port in given)
    assert max(given) < outgoing or outgoing < ports.FIRST


def test_two_processes_are_not_given_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve ports, one holds seven: the other gets three more, and then not another three."""
    twelve = "from tests.support import ports; ports._below = lambda: ports.FIRST + 12; ports._is_free = bool"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{twelve}; print(*ports.free_ports(7), flush=True); input()"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    monkeypatch.setattr(ports, "_below", lambda: ports.FIRST + 12)
    monkeypatch.setattr(ports, "_is_free", bool)
    try:
        assert other.stdout is not None
        theirs = set(map(int, other.stdout.readline().split()))
        assert len(theirs) == 7
        mine = set(ports.free_ports(3))
        assert mine.isdisjoint(theirs)
        with pytest.raises(RuntimeError, match="no port between"):
            ports.free_ports(3)
    finally:
        other.communicate("\n", timeout=10)


def test_one_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports._is_free(server.getsockname()[1])


def test_a_system_that_says_nothing_of_its_range(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ports, "OUTGOING", tmp_path / "missing")
    assert ports._below() == 32_768
    (tmp_path / "missing").write_text("1024\t65535\n")
    assert ports._below() == 32_768
    (tmp_path / "missing").write_text("20000\t65535\n")
    assert ports._below() == 20_000
