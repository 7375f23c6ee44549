"""Key files one by one: good, missing, corrupt; who holds a device; what is deleted and what is left."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from roundtrip.drivers import key_files as files
from roundtrip.drivers.key_files import KeyFileState
from tests.support.links import write_key_file


def device(path: Path, rows: int) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS whatsmeow_device (jid TEXT)")
        db.executemany("INSERT INTO whatsmeow_device VALUES (?)", [("x",)] * rows)
    db.close()


def test_a_folder_in_the_place_of_a_key_file_is_no_key_file(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    assert files.condition(tmp_path / "a.db") is KeyFileState.MISSING
    assert not files.holds_device(tmp_path / "a.db")


@pytest.mark.parametrize("size", [100, 9000])
def test_rubbish_of_any_size_is_corrupt_and_logged_without_the_path(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"\xff" * size)
    with capture_logs() as logs:
        assert files.condition(path) is KeyFileState.CORRUPT
    (entry,) = logs
    assert (entry["event"], entry["error"]) == ("session_store_unreadable", "SQLITE_NOTADB")
    assert str(tmp_path) not in str(logs)
    assert files.holds_device(path), "nobody may take it for worthless"


def test_a_file_that_may_not_be_read_is_unreadable_and_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.db"
    device(path, 1)

    def refused(*_: object, **__: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_CANTOPEN, "SQLITE_CANTOPEN"
        raise error

    monkeypatch.setattr("roundtrip.drivers.key_files.sqlite3.connect", refused)
    with capture_logs() as logs:
        assert files.condition(path) is KeyFileState.CORRUPT
        assert files.holds_device(path)
    assert [entry["error"] for entry in logs] == ["SQLITE_CANTOPEN"] * 2


@pytest.mark.parametrize(("code", "extended"), [("BUSY", 0), ("LOCKED", 0), ("BUSY", 0x200), ("LOCKED", 0x100)])
def test_a_file_in_use_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, extended: int) -> None:
    path = tmp_path / "a.db"
    device(path, 1)

    def busy(*_: object, **__: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError("in use")
        error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{code}") | extended
        error.sqlite_errorname = f"SQLITE_{code}"
        raise error

    monkeypatch.setattr("roundtrip.drivers.key_files.sqlite3.connect", busy)
    assert files.condition(path) is KeyFileState.GOOD


def test_who_holds_a_device(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    assert not files.holds_device(path)
    path.touch()
    assert not files.holds_device(path)
    write_key_file(path)
    assert not files.holds_device(path), "it has tables, and no device"
    device(path, 0)
    assert not files.holds_device(path)
    device(path, 1)
    assert files.holds_device(path)
    device(path, 5)
    assert files.holds_device(path)


def test_what_is_deleted_is_deleted_with_its_companions_and_the_rest_is_kept(tmp_path: Path) -> None:
    for name in ("a.db", "a.db-wal", "a.db-shm", "a.db-journal", "a.db.bak", "b.db", "b.db-wal", "c.db", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.db").mkdir()
    assert files.sweep(tmp_path, frozenset({"c.db"})) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db.bak", "c.db", "c.txt", "folder.db"]
    assert files.sweep(tmp_path, frozenset({"c.db"})) == 0
    files.remove(tmp_path / "c.db")
    assert not (tmp_path / "c.db").exists()


def test_a_file_that_cannot_be_deleted_is_logged_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    (tmp_path / "a.db-wal").touch()
    with capture_logs() as logs:
        files.remove(tmp_path / "a.db")
    assert [entry["event"] for entry in logs] == ["session_store_not_deleted"]
    assert str(tmp_path) not in str(logs)
    assert not (tmp_path / "a.db-wal").exists(), "its companions go all the same"


def test_permissions_are_the_owners_alone(tmp_path: Path) -> None:
    for name in ("a.db", "a.db-wal", "b.db"):
        (tmp_path / name).touch(0o666)
        (tmp_path / name).chmod(0o666)
    files.secure(tmp_path / "a.db")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "b.db": 0o666}
