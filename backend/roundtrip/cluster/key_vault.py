"""Accounts' key files between this machine's disk, where the WhatsApp library has them open, and the database.

The library's file is one SQLite database an account. It stays where it is, in `DATA_DIR/sessions`; its content is
copied by SQLite's own backup, which sees a consistent state while the library writes. Whoever restores an account has
the file that the database names as its own (`holder`), or takes the database's copy.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import uuid
import zlib
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from roundtrip.drivers import key_files as files
from roundtrip.drivers.key_files import KeyFileState

log = structlog.get_logger(__name__)

_LEVEL: Final = 1
"""Of zlib: key files are mostly random bytes and empty pages."""

_HOLDER: Final = "holder"


class KeyVault:
    """The folder of key files. Methods with disk work run on threads."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "sessions"
        self.holder = ""
        """Names this data folder, wherever it is mounted."""
        self._stored: dict[str, tuple[int, ...]] = {}
        """What the file looked like when its content was read for the database."""

    def open(self) -> None:
        """Create the folder, and its name if it has none. Blocks."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        path = self.folder / _HOLDER
        if not path.is_file():
            path.write_text(uuid.uuid4().hex)
            path.chmod(0o600)
        self.holder = path.read_text().strip()

    def path(self, name: str) -> Path:
        return self.folder / name

    async def state(self, name: str) -> KeyFileState:
        return await asyncio.to_thread(files.condition, self.path(name))

    async def put(self, name: str, content: bytes) -> None:
        """Write the database's copy, in place of what is there. No session may have the file open."""
        await asyncio.to_thread(self._put, self.path(name), content)

    def _put(self, path: Path, content: bytes) -> None:
        files.remove(path)
        new = path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_bytes(zlib.decompress(content))
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)

    async def read(self, name: str) -> bytes | None:
        """A consistent copy of a file, compressed; None when there is none that can be read."""
        return await asyncio.to_thread(self._read, name)

    def _read(self, name: str) -> bytes | None:
        path = self.path(name)
        look = _look(path)
        if not look:
            return None
        try:
            source = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=2)
            copy = sqlite3.connect(":memory:")
            try:
                source.backup(copy)
                content = copy.serialize()
            finally:
                source.close()
                copy.close()
        except sqlite3.Error as error:
            log.warning("key_file_not_read", error=type(error).__name__)
            return None
        self._stored[name] = look
        return zlib.compress(content, _LEVEL)

    def changed(self, name: str) -> bool:
        """Whether the file differs from what was read last. Blocks shortly."""
        return _look(self.path(name)) not in ((), self._stored.get(name))

    def forget(self, name: str) -> None:
        """What was read could not be stored: it counts as changed."""
        self._stored.pop(name, None)

    async def remove(self, name: str) -> None:
        self.forget(name)
        await asyncio.to_thread(files.remove, self.path(name))

    async def secure(self, name: str) -> None:
        await asyncio.to_thread(files.secure, self.path(name))

    async def sweep(self, keep: frozenset[str]) -> int:
        return await asyncio.to_thread(files.sweep, self.folder, keep)


def _look(path: Path) -> tuple[int, ...]:
    """Size and time of the last write of a file and its log; empty when there is none."""
    look: tuple[int, ...] = ()
    for part in (path, path.with_name(path.name + "-wal")):
        try:
            stat = part.stat()
        except OSError:
            continue
        if stat.st_size:
            look += (stat.st_size, stat.st_mtime_ns)
    return look
