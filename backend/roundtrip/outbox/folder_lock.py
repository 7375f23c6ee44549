"""One backend per data folder: the lock that says so."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

import structlog

from roundtrip.outbox.base import OutboxError

log = structlog.get_logger(__name__)

LOCK_NAME: Final = "backend.lock"


class FolderLock:
    """Holds a folder for this process. The kernel lets go when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if needed, private to its owner, and lock it. Raises `OutboxError`."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutboxError(
                "outbox_unavailable", f"Cannot write in the data folder {folder}: {error.strerror}."
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            who = f" (process {holder})" if holder else ""
            raise OutboxError(
                "outbox_unavailable", f"The data folder {folder} is in use by another backend{who}."
            ) from None
        try:
            folder.chmod(0o700)
        except OSError as error:
            log.warning("data_folder_not_private", folder=str(folder), error=error.strerror)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:  # the number is a courtesy to whoever comes second; the lock holds without it
            log.warning("lock_file_not_written", folder=str(folder), error=error.strerror)

    def release(self) -> None:
        """Let another backend have the folder."""
        os.close(self._fd)
