"""Records and key files: what is stored, who can read it, and what cannot be guessed."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from roundtrip.drivers import key_files as files
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkRecord, LinkState, new_record
from roundtrip.links.storage import StoreError
from roundtrip.links.store import LinkStore
from tests.support.links import KEY, OTHER, PHONE, write_key_file

ODD = BotKey.parse("../../etc/passwd", "a'; DROP TABLE links; --")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_record_is_read_as_it_was_saved(tmp_path: Path) -> None:
    full = LinkRecord(
        ODD, "f" * 32, LinkState.BANNED, 1.5, 0.25, PHONE, "Ádá 😀", True, True, "banned_broadcast_lists", 99.5, True
    )
    bare = new_record(KEY, 7.0)
    store = LinkStore(tmp_path)
    assert await store.open() == []
    await store.save(full)
    await store.save(bare)
    await store.save(new_record(OTHER, 8.0))
    await store.delete(OTHER)
    await store.close()
    again = LinkStore(tmp_path)
    assert await again.open() == [full, bare]
    replaced = msgspec.structs.replace(bare, state=LinkState.QR_EXPIRED)
    await again.save(replaced)
    await again.close()
    once_more = LinkStore(tmp_path)
    assert await once_more.open() == [full, replaced]
    await once_more.close()


async def test_only_the_owner_can_read(tmp_path: Path) -> None:
    store = LinkStore(tmp_path / "new" / "data")
    await store.open()
    record = new_record(KEY, 0.0)
    await store.save(record)
    assert mode(store.sessions) == 0o700
    for path in (tmp_path / "new" / "data").glob("links.db*"):
        assert mode(path) == 0o600, path
    write_key_file(store.key_file(record.link_id))
    store.key_file(record.link_id).with_name(record.store_name + "-wal").touch(0o644)
    await store.secure(record.link_id)
    assert {mode(path) for path in store.sessions.iterdir()} == {0o600}
    await store.close()


async def test_wide_permissions_are_restricted_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir(mode=0o755)
    (tmp_path / "links.db").touch(0o644)
    store = LinkStore(tmp_path)
    await store.open()
    assert (mode(tmp_path / "sessions"), mode(tmp_path / "links.db")) == (0o700, 0o600)
    await store.close()


def test_a_store_name_reveals_nothing_and_stays_in_its_folder(tmp_path: Path) -> None:
    store = LinkStore(tmp_path)
    names = {new_record(ODD, 0.0).store_name for _ in range(100)}
    assert len(names) == 100
    for name in names:
        assert len(name) == 32 + len(".db")
        assert (store.sessions / name).resolve().parent == store.sessions.resolve()


async def test_deleting_keys_deletes_the_companion_files(tmp_path: Path) -> None:
    store = LinkStore(tmp_path)
    await store.open()
    mine, other = new_record(KEY, 0.0), new_record(OTHER, 0.0)
    for record in (mine, other):
        for suffix in ("", "-wal", "-shm", "-journal"):
            store.key_file(record.link_id).with_name(record.store_name + suffix).write_bytes(b"x")
    await store.delete_keys(mine.link_id)
    await store.delete_keys(mine.link_id)
    assert len(list(store.sessions.iterdir())) == 4
    assert await store.sweep(frozenset()) == 1
    assert list(store.sessions.iterdir()) == []
    await store.close()


async def test_the_sweep_keeps_accounts(tmp_path: Path) -> None:
    store = LinkStore(tmp_path)
    await store.open()
    record = new_record(KEY, 0.0)
    write_key_file(store.key_file(record.link_id))
    (store.sessions / "README").touch()
    assert await store.sweep(frozenset({record.store_name})) == 0
    assert len(list(store.sessions.iterdir())) == 2
    await store.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "links.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    store = LinkStore(tmp_path)
    with pytest.raises(StoreError, match="schema version 99"):
        await store.open()
    await store.close()


async def test_a_folder_that_cannot_be_created_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = LinkStore(tmp_path / "file")
    with pytest.raises(StoreError) as refused:
        await store.open()
    assert refused.value.code == "store_unavailable"
    assert str(tmp_path) not in str(refused.value)
    await store.close()


async def test_records_that_are_not_open_cannot_be_written(tmp_path: Path) -> None:
    store = LinkStore(tmp_path)
    with pytest.raises(StoreError):
        await store.save(new_record(KEY, 0.0))
    await store.close()


def test_the_states_of_a_key_file(tmp_path: Path) -> None:
    path = tmp_path / "odd ?#%.db"
    assert files.condition(path) is KeyFileState.MISSING
    path.touch()
    assert files.condition(path) is KeyFileState.MISSING
    sqlite3.connect(path).close()
    assert files.condition(path) is KeyFileState.MISSING
    write_key_file(path)
    assert files.condition(path) is KeyFileState.GOOD
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    assert files.condition(path) is KeyFileState.CORRUPT
    path.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    assert files.condition(path) is KeyFileState.CORRUPT
    path.write_bytes(b"\xff" * 9000)
    assert files.condition(path) is KeyFileState.CORRUPT


def test_in_use_is_not_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    write_key_file(path)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(
        "roundtrip.drivers.key_files.sqlite3.connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.05})
    )
    assert files.condition(path) is KeyFileState.GOOD
    holder.close()


KILLED = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE device (jid TEXT)")
db.execute("INSERT INTO device VALUES ('kept')")
db.execute("BEGIN")
db.executemany("INSERT INTO device VALUES (?)", [("x" * 500,)] * 5000)
os.kill(os.getpid(), 9)
"""


def test_an_unclean_stop_leaves_good_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=30)
    assert path.with_name("a.db-wal").exists()
    assert files.condition(path) is KeyFileState.GOOD
    db = sqlite3.connect(path)
    assert db.execute("SELECT jid FROM device").fetchall() == [("kept",)]
    db.close()


def test_what_cannot_be_deleted_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    files.remove(tmp_path / "a.db")
