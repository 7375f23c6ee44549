"""What a worker prints. It is read so that the worker never blocks on it, counted, and never kept: codes are in it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

_PANICS: Final = (b"panic:", b"fatal error:", b"SIGSEGV", b"SIGABRT")
_CHUNK: Final = 16 * 1024


class Output:
    """Counters over a worker's stdout and stderr."""

    def __init__(self) -> None:
        self.lines = 0
        self.panicked = False
        """Whether the Go runtime said that it ends the process."""

    async def drain(self, stream: asyncio.StreamReader) -> None:
        """Until its end."""
        tail = b""
        with contextlib.suppress(OSError):
            while chunk := await stream.read(_CHUNK):
                self.lines += chunk.count(b"\n")
                seen = tail + chunk
                self.panicked = self.panicked or any(word in seen for word in _PANICS)
                tail = chunk[-16:]
