"""The lock on the data folder: one backend per folder."""

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
    """An exclusive lock on a folder. The kernel releases it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if needed, private to its owner, and lock it. Raises `OutboxError`."""
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
            holder_pid = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            holder = f" (process {holder_pid})" if holder_pid else ""
            raise OutboxError(
                "outbox_unavailable", f"The data folder {folder} is in use by another backend{holder}."
            ) from None
        try:
            folder.chmod(0o700)
        except OSError as error:
            log.warning("data_folder_not_private", folder=str(folder), error=error.strerror)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:  # only the message of a second backend needs it
            log.warning("lock_file_not_written", folder=str(folder), error=error.strerror)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)
