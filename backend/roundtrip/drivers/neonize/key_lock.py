"""One process at a time uses an account's key file: an flock on the file itself, which the kernel releases with the
process. SQLite's own locks are of another kind, and do not meet it.

A file that was once locked stays open in this process. Closing it would end SQLite's own locks on it here (fcntl(2)),
those of a connection included that the library has left open behind a session: the next session of the account in this
process would count on them, and another process, the last one as far as it can see, would delete the file's log.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self


class _File(NamedTuple):
    """A file's identity: it may be deleted, and another one made under its name."""

    device: int
    inode: int


_open: Final[dict[_File, int]] = {}
"""The files that this process has had locked; a host ends before they become many."""
_held: Final[set[_File]] = set()


class KeyLock:
    """Held from `take` to the end of the `with` block."""

    def __init__(self, file: _File) -> None:
        self._file = file

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Lock a key file, made empty where there is none; None while it is locked, here or in another process. Raises
        `OSError`."""
        file = _opened(path)
        if file in _held:
            return None
        try:
            fcntl.flock(_open[file], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        _held.add(file)
        return cls(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        fcntl.flock(_open[self._file], fcntl.LOCK_UN)
        _held.discard(self._file)


def _opened(path: Path) -> _File:
    """The file at a path, open."""
    try:
        found = path.stat()
    except FileNotFoundError:
        pass
    else:
        if (file := _File(found.st_dev, found.st_ino)) in _open:
            return file
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    found = os.fstat(fd)
    file = _File(found.st_dev, found.st_ino)
    _open[file] = fd
    return file
