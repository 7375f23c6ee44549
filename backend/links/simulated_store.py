"""The simulated driver's key file: a SQLite file that can be missing, corrupt and restored like a real one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from backend.links.people import Person


def read(path: Path) -> Person | None:
    """Whose account is in the file, None when it was not paired or cannot be read."""
    if not path.is_file():
        return None
    try:
        db = sqlite3.connect(path)
        try:
            row = db.execute("SELECT phone_number, display_name FROM account").fetchone()
        finally:
            db.close()
    except sqlite3.Error:
        return None
    return None if row is None else Person(str(row[0]), str(row[1]))


def write(path: Path, person: Person) -> None:
    """Keep an account. The file is readable by its owner only."""
    path.touch(mode=0o600)
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute("CREATE TABLE IF NOT EXISTS account (phone_number TEXT NOT NULL, display_name TEXT NOT NULL)")
            db.execute("DELETE FROM account")
            db.execute("INSERT INTO account VALUES (?, ?)", person)
    finally:
        db.close()
