"""Whether the program can do its work: the checks behind `/readyz`. Ready means that pages can be served.

WhatsApp is no part of it: while WhatsApp is ill, pages still connect, are told what is true and get what is pending.
"""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from backend.api.health import ReadyCheck
from backend.delivery.outbox import Outbox
from backend.links.store import LinkStore, StoreError

PROBE_BYTES: Final = 65_536
"""What must find room on the disk. A store that only rewrites its own pages does not notice that the disk is full."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class ReadyChecks:
    """`draining` is set when a stop begins, `restore` to the task that brings links back."""

    def __init__(self, outbox: Outbox, store: LinkStore, folder: Path) -> None:
        """`folder` is where both stores live."""
        self._outbox = outbox
        self._store = store
        self._folder = folder
        self.draining = False
        self.restore: asyncio.Task[None] | None = None

    def checks(self) -> Mapping[str, ReadyCheck]:
        return {"outbox": self._events, "links": self._links, "restore": self._restoring, "draining": self._staying}

    async def _events(self) -> str | None:
        await self._outbox.check()
        return await self._room()

    async def _links(self) -> str | None:
        try:
            await self._store.check()
        except StoreError as error:
            return str(error)
        return await self._room()

    async def _room(self) -> str | None:
        return await asyncio.to_thread(room_in, self._folder)

    async def _restoring(self) -> str | None:
        task = self.restore
        if task is None:
            return "The restore of links has not begun."
        if task.done() and (task.cancelled() or task.exception() is not None):
            return "The restore of links ended before its time; the log says why."
        return None

    async def _staying(self) -> str | None:
        return "The program is stopping." if self.draining else None


def room_in(folder: Path) -> str | None:
    """Write a file of `PROBE_BYTES` and drop it: None, or a sentence that says why that failed. Waits for the disk."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"\0" * PROBE_BYTES)
    except OSError as error:
        if error.errno in _FULL:
            return "The disk is full."
        return f"The data directory cannot be written: {error.strerror}."
    return None
