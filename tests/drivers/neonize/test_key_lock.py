"""The lock on a key file: one process, one session, and SQLite's own locks untouched."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from roundtrip.drivers.neonize.key_lock import KeyLock

OTHER = """
import sqlite3, sys
from roundtrip.drivers.neonize.key_lock import KeyLock
from pathlib import Path
print(KeyLock.take(Path(sys.argv[1])) is not None)
sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM keys").connection.close()
"""


def other_process(path: Path) -> bool:
    """Whether another process gets the lock; it reads the file then, and closes it as the last one, for all it sees."""
    done = subprocess.run([sys.executable, "-c", OTHER, path], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


def test_it_is_held_by_one_at_a_time_and_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "one.db"
    for _ in range(2):
        lock = KeyLock.take(path)
        assert lock is not None
        with lock, closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS keys (key)")
            assert KeyLock.take(path) is None, "another session of the same process"
            assert not other_process(path)
        assert other_process(path)


def test_a_file_made_anew_under_the_same_name_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "one.db"
    first = KeyLock.take(path)
    assert first is not None
    with first:
        path.unlink()
        second = KeyLock.take(path)
        assert second is not None
        with second:
            pass


def test_letting_go_of_it_leaves_sqlites_locks_to_who_has_the_file_open(tmp_path: Path) -> None:
    """As the library has behind a session: the next one in the process counts on them."""
    path = tmp_path / "one.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE keys (key)")
        for _ in range(2):
            lock = KeyLock.take(path)
            assert lock is not None
            with lock:
                db.execute("INSERT INTO keys VALUES (1)")
        assert other_process(path)
        assert path.with_name("one.db-wal").exists(), "the other process saw that it is in use"
        db.execute("INSERT INTO keys VALUES (1)")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM keys").fetchone() == (3,)
