"""One process at a time uses an account's key file: an flock on the file itself, which the kernel releases with the
process. SQLite's own locks are of another kind, and do not meet it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class KeyLock:
    """Held from `take` to the end of the `with` block. The file is open as long: closing it earlier would end SQLite's
    own locks in this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Lock a key file, made empty where there is none; None while another process has the lock. Raises
        `OSError`."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return cls(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        os.close(self._fd)
