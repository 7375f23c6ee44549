"""Link records, removals and bans in one SQLite file, and the folder of the accounts' key files.

One thread does all file work, so that the event loop never waits for the disk.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import structlog

from roundtrip.drivers import key_files as files
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.events import Payload
from roundtrip.identity import BotKey
from roundtrip.links.policy import Ban
from roundtrip.links.record import DeviceState, LinkRecord, LinkState, Removal, store_name
from roundtrip.links.storage import StoreError

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

SCHEMA_VERSION: Final = 2
_COLUMNS: Final = (
    "user_id, bot_id, link_id, state, since, started_at, phone_number, display_name, paired, connected_before, "
    "reason_code, banned_until, also_linked, retry_at, device"
)
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS links (
  user_id TEXT NOT NULL, bot_id TEXT NOT NULL, link_id TEXT NOT NULL UNIQUE, state TEXT NOT NULL,
  since REAL NOT NULL, started_at REAL NOT NULL, phone_number TEXT, display_name TEXT,
  paired INTEGER NOT NULL, connected_before INTEGER NOT NULL, reason_code TEXT, banned_until REAL,
  also_linked INTEGER NOT NULL, retry_at REAL, device TEXT,
  PRIMARY KEY (user_id, bot_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removals (
  link_id TEXT NOT NULL PRIMARY KEY, user_id TEXT NOT NULL, bot_id TEXT NOT NULL, phone_number TEXT,
  since REAL NOT NULL, until REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bans (
  phone_number TEXT NOT NULL PRIMARY KEY, code INTEGER NOT NULL, since REAL NOT NULL, until REAL, over REAL NOT NULL
) STRICT, WITHOUT ROWID;
"""
_MIGRATE_1_TO_2: Final = ("ALTER TABLE links ADD COLUMN retry_at REAL", "ALTER TABLE links ADD COLUMN device TEXT")

_NOT_OPEN: Final = "The links' records are not open."


class LinkStore:
    """`data_dir/links.db` and the folder `data_dir/sessions`, readable by their owner only.

    Every coroutine raises `StoreError` when the disk fails, and then nothing was changed.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "links.db"
        self.sessions = data_dir / "sessions"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="links-store")
        self._db: sqlite3.Connection | None = None
        self._closed = False

    async def open(self) -> list[LinkRecord]:
        """Create or migrate the file and the folder, and return every record by `started_at`."""
        return await self._run(self._open)

    async def save(self, record: LinkRecord) -> None:
        """Commit a record in place of its key's older one."""
        await self._run(self._save, record)

    def row(self, record: LinkRecord) -> None:
        """As `LinkStorage.row`: events are in another file."""

    async def show(self, key: BotKey, code: Payload, left: float) -> None:
        """As `LinkStorage.show`: nobody else reads here."""

    async def delete(self, key: BotKey) -> None:
        """Delete a key's record."""
        await self._run(self._delete, key)

    async def check(self) -> None:
        """Commit a write that changes nothing, to find out whether records can be written."""
        await self._run(self._check)

    async def save_removal(self, removal: Removal) -> None:
        """Commit that a device is to be removed."""
        await self._run(
            self._write,
            "INSERT OR REPLACE INTO removals (link_id, user_id, bot_id, phone_number, since, until) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (removal.link_id, *removal.key, removal.phone_number, removal.since, removal.until),
        )

    async def delete_removal(self, link_id: str) -> None:
        """Delete a removal that ended."""
        await self._run(self._write, "DELETE FROM removals WHERE link_id = ?", (link_id,))

    async def removals(self) -> list[Removal]:
        """Every device that is still to be removed, the oldest first."""
        return await self._run(self._removals)

    async def save_ban(self, phone_number: str, ban: Ban) -> None:
        """Commit that an account is banned."""
        await self._run(
            self._write,
            "INSERT OR REPLACE INTO bans (phone_number, code, since, until, over) VALUES (?, ?, ?, ?, ?)",
            (phone_number, *ban),
        )

    async def delete_ban(self, phone_number: str) -> None:
        """Delete a ban that is over."""
        await self._run(self._write, "DELETE FROM bans WHERE phone_number = ?", (phone_number,))

    async def bans(self, now: float) -> dict[str, Ban]:
        """Every ban by phone number; those that are over by `now`, in seconds since the epoch, are deleted."""
        return await self._run(self._bans, now)

    def key_file(self, link_id: str) -> Path:
        """Path of the file that holds a link's keys."""
        return self.sessions / store_name(link_id)

    async def key_state(self, link_id: str) -> KeyFileState:
        """Whether a link's key file exists and can be read. No session may have it open."""
        return await self._run(files.condition, self.key_file(link_id))

    async def secure(self, link_id: str) -> None:
        """Restrict the permissions of a link's key file to its owner."""
        await self._run(files.secure, self.key_file(link_id))

    async def delete_keys(self, link_id: str) -> None:
        """Delete a link's key file. One that cannot be deleted is logged; `sweep` deletes it at the next start."""
        await self._run(files.remove, self.key_file(link_id))

    async def sweep(self, keep: frozenset[str]) -> int:
        """Delete every key file whose name is not in `keep`. Returns how many were found."""
        return await self._run(files.sweep, self.sessions, keep)

    async def close(self) -> None:
        """Close the file and end the thread. A second call does nothing."""
        if self._db is not None:
            await self._run(self._db.close)
            self._db = None
        self._closed = True
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[..., _T], *args: object) -> _T:
        if self._closed:
            raise StoreError(_NOT_OPEN)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args))
        except (sqlite3.Error, OSError) as error:
            log.error("link_store_failed", error=type(error).__name__, work=getattr(work, "__name__", ""))
            why = str(error) if isinstance(error, sqlite3.OperationalError) else error.__class__.__name__
            raise StoreError(f"The links' records cannot be read or written: {why}.") from error

    def _open(self) -> list[LinkRecord]:
        self.sessions.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sessions.chmod(0o700)
        # Created here with its permissions: SQLite gives its journal files those of the main file.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._path.chmod(0o600)
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._db = db
        db.execute("PRAGMA busy_timeout = 5000")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in range(SCHEMA_VERSION + 1):
            raise StoreError(f"links.db has schema version {version}, this program knows {SCHEMA_VERSION}.")
        steps = _MIGRATE_1_TO_2 if version == 1 else ()
        script = ";".join(("BEGIN IMMEDIATE", *steps, _SCHEMA, f"PRAGMA user_version = {SCHEMA_VERSION}", "COMMIT"))
        db.executescript(script)
        return [_record(row) for row in db.execute(f"SELECT {_COLUMNS} FROM links ORDER BY started_at")]  # noqa: S608  constant

    def _save(self, r: LinkRecord) -> None:
        row = (
            r.key.user_id,
            r.key.bot_id,
            r.link_id,
            r.state.value,
            r.since,
            r.started_at,
            r.phone_number,
            r.display_name,
            r.paired,
            r.connected_before,
            r.reason_code,
            r.banned_until,
            r.also_linked,
            r.retry_at,
            r.device,
        )
        self._write(f"INSERT OR REPLACE INTO links ({_COLUMNS}) VALUES ({', '.join('?' * 15)})", row)  # noqa: S608  constant

    def _delete(self, key: BotKey) -> None:
        self._write("DELETE FROM links WHERE user_id = ? AND bot_id = ?", (key.user_id, key.bot_id))

    def _check(self) -> None:
        self._write(f"PRAGMA user_version = {SCHEMA_VERSION}", ())

    def _removals(self) -> list[Removal]:
        sql = "SELECT user_id, bot_id, link_id, phone_number, since, until FROM removals ORDER BY since"
        return [Removal(BotKey(row[0], row[1]), *row[2:]) for row in self._connection().execute(sql)]

    def _bans(self, now: float) -> dict[str, Ban]:
        self._write("DELETE FROM bans WHERE over <= ?", (now,))
        sql = "SELECT phone_number, code, since, until, over FROM bans"
        return {row[0]: Ban(*row[1:]) for row in self._connection().execute(sql)}

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(_NOT_OPEN)
        return self._db

    def _write(self, sql: str, values: tuple[object, ...]) -> None:
        self._connection().execute(sql, values)  # autocommit: durable when it returns


def _record(row: tuple[object, ...]) -> LinkRecord:
    (
        user_id,
        bot_id,
        link_id,
        state,
        since,
        started_at,
        phone,
        name,
        paired,
        before,
        reason,
        until,
        also,
        again,
        device,
    ) = row
    return LinkRecord(
        BotKey(str(user_id), str(bot_id)),
        str(link_id),
        LinkState(str(state)),
        float(since),  # type: ignore[arg-type]  # the table is STRICT
        float(started_at),  # type: ignore[arg-type]
        None if phone is None else str(phone),
        None if name is None else str(name),
        bool(paired),
        bool(before),
        None if reason is None else str(reason),
        None if until is None else float(until),  # type: ignore[arg-type]
        bool(also),
        None if again is None else float(again),  # type: ignore[arg-type]
        None if device is None else DeviceState(str(device)),
    )
