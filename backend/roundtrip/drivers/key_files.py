"""The accounts' key files: one SQLite file each, with the companions that SQLite puts beside it."""

from __future__ import annotations

import enum
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

log = structlog.get_logger(__name__)

_COMPANIONS: Final = ("", "-wal", "-shm", "-journal")


class KeyFileState(enum.Enum):
    """Whether a session can start from a key file."""

    GOOD = enum.auto()
    MISSING = enum.auto()
    CORRUPT = enum.auto()


def condition(path: Path) -> KeyFileState:
    """Check a key file that no session has open. A transaction that an unclean stop cut off is rolled back by this."""
    if not path.is_file() or path.stat().st_size == 0:
        return KeyFileState.MISSING
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=5)
        try:
            (answer,) = db.execute("PRAGMA quick_check(1)").fetchone()
            tables = db.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'table'").fetchone()[0]
        finally:
            db.close()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return KeyFileState.GOOD  # in use is not corrupt: if something is wrong, the session finds out
        log.warning("session_store_unreadable", error=error.sqlite_errorname)
        return KeyFileState.CORRUPT
    except sqlite3.DatabaseError as error:
        log.warning("session_store_unreadable", error=error.sqlite_errorname)
        return KeyFileState.CORRUPT
    if answer != "ok":
        return KeyFileState.CORRUPT
    return KeyFileState.GOOD if tables else KeyFileState.MISSING


def holds_device(path: Path) -> bool:
    """Whether a key file of neonize's holds a linked device. A file that cannot be read counts as holding one, so that
    it is not deleted. Waits for up to a second when a session has the file open."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=1)
        try:
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'whatsmeow_device'").fetchone()
            return bool(tables) and db.execute("SELECT count(*) FROM whatsmeow_device").fetchone() != (0,)
        finally:
            db.close()
    except sqlite3.Error as error:
        log.warning("session_store_unreadable", error=error.sqlite_errorname)
        return True


def secure(path: Path) -> None:
    """Set permissions 0600 on a key file and its companions."""
    for part in _parts(path):
        if part.exists():
            part.chmod(0o600)


def remove(path: Path) -> None:
    """Delete a key file and its companions. Raises nothing: a failure is logged, and a later `sweep` tries again."""
    for part in _parts(path):
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            log.error("session_store_not_deleted", error=error.strerror)


def sweep(folder: Path, keep: frozenset[str]) -> int:
    """Delete key files in `folder` whose name is not in `keep`. Returns how many there were."""
    found = 0
    for path in folder.iterdir():
        if path.suffix == ".db" and path.name not in keep and path.is_file():
            remove(path)
            found += 1
    return found


def _parts(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]
