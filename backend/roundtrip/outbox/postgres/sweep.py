"""What the writer does at intervals: end what has expired, and delete what has been kept long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from roundtrip.identity import BotKey
from roundtrip.outbox.postgres.lease import NodeLease
from roundtrip.outbox.records import Ended, Outcome

SLICE: Final = 500
"""Events that one statement ends or deletes, so that no write waits long."""

_EXPIRE: Final = "SELECT user_id, bot_id, seq FROM expire_1($1, $2, $3, $4, $5)"
_FORGET: Final = "SELECT forget_1($1, $2, $3::uuid, $4, $5)"


class Sweep:
    """Times are in milliseconds by the store's clock, the interval in seconds."""

    def __init__(self, every: float, retention_ms: int, offset: Callable[[], int]) -> None:
        """`offset` is this machine's clock minus the store's: ids begin with the former."""
        self._offset = offset
        self._every = every
        self._retention_ms = retention_ms
        self._next = 0.0
        self._now: int | None = None
        self._awaited = 0
        """Items that were queued when the sweep began: one of them may be a confirmation that came in time."""

    def due_in(self) -> float:
        """Seconds until the next sweep."""
        return 0.0 if self._now is not None else self._next - time.monotonic()

    def begin(self, now: int, queued: int) -> None:
        """Begin one if it is time; it ends what has expired by `now`."""
        if self._now is None and time.monotonic() >= self._next:
            self._now, self._awaited = now, queued

    def processed(self, count: int) -> None:
        """So many queued items are about to be written."""
        self._awaited -= count

    def ready(self) -> bool:
        """Whether a sweep has begun and all that came before it is written."""
        return self._now is not None and self._awaited <= 0

    def later(self) -> None:
        """It is over, or could not be done: the next one is due after the interval."""
        self._now = None
        self._next = time.monotonic() + self._every

    async def run(self, connection: Any, lease: NodeLease, *, writable: bool) -> list[Ended]:
        """One slice of each; what expired. If there may be more, the next round continues."""
        now = self._now or 0
        who = (lease.node_id, lease.fence)
        ended: list[Ended] = []
        deleted = 0
        if writable:
            rows = await connection.fetch(_EXPIRE, *who, lease.slot, now, SLICE)
            ended = [Ended(BotKey(user_id, bot_id), seq, Outcome.EXPIRED) for user_id, bot_id, seq in rows]
            before = now - self._retention_ms
            deleted = await connection.fetchval(_FORGET, *who, _first_id(before + self._offset()), before, SLICE)
        self.later()
        if SLICE in (len(ended), deleted):
            self._next = 0.0
        return ended


def _first_id(at: int) -> str:
    """The least id that an event created at `at` may have."""
    text = f"{max(0, at):012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"
