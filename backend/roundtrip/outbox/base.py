"""The outbox: what an event store must do. `sqlite_outbox.py` is the one that ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from roundtrip.errors import StorageError
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, Draft, Ended, LedgerEntry, Resolution, StoredEvent, Totals
from roundtrip.telemetry.collectors import LedgerReading


class OutboxError(StorageError):
    """The outbox could not do it; nothing was stored. Codes: `outbox_unavailable`, `outbox_full`."""


class Outbox(Protocol):
    """Stores events before they are emitted. Methods are called on the event loop, callbacks come on it too.

    Writes are applied in the order in which they were called, many in one durable commit. A read sees every
    write called before it.
    """

    on_ended: Callable[[Sequence[Ended]], None]
    """Set by the courier: told, after the commit, what was superseded or expired."""

    @property
    def full(self) -> bool:
        """Whether no new event would find room now: start no new links then."""

    async def start(self) -> None:
        """Open the store. Raises `OutboxError` when it cannot be used or another process holds it."""

    async def close(self) -> None:
        """Write what was called before, then release the store."""

    def append(self, draft: Draft, done: Callable[[StoredEvent | OutboxError], None]) -> None:
        """Commit an event with the next `seq` of its key, then call `done`. A failure uses up no `seq`.

        Within one commit, `done` calls come in `seq` order, after the commit's `on_ended`. An event that the same
        commit created and superseded has both: its `done`, then an `on_ended` of its own."""

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        """Keep the attempts so far of a pending event. Replaces what was kept of it before."""

    def resolve(self, resolution: Resolution) -> None:
        """End a pending event. A failed write is kept and tried again; the payload is wiped."""

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """Turn `received` into `acked`: the application's acknowledgement came after the transport's receipt."""

    def moved(self, ns: int) -> None:
        """The machine's clock was set by `ns` nanoseconds: all times of pending events move along, so that none
        expires by it. Whatever was called before tells its times by the old clock, what comes after by the new one;
        results that are told from now on are by the new one."""

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """Pending, unexpired events with `seq > after`, in `seq` order."""

    async def last_seq(self, key: BotKey) -> int:
        """The newest `seq` of a key, 0 before its first event."""

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """The key's events with `seq > after`, in `seq` order."""

    async def find(self, event_id: str) -> LedgerEntry | None:
        """One event by its id."""

    async def discard(self, key: BotKey) -> int:
        """End all pending events of a key as `discarded`; returns how many."""

    async def check(self) -> None:
        """Prove that a write can be committed now, or raise `OutboxError`."""

    def totals(self) -> Totals:
        """The sums after the last commit. Costs no I/O."""


def ledger_reading(outbox: Outbox) -> Callable[[], LedgerReading]:
    """Enum numbers are what both sides count by."""

    def read() -> LedgerReading:
        totals = outbox.totals()
        return LedgerReading(
            {int(type_): count for type_, count in totals.created.items()},
            {(int(type_), int(outcome)): count for (type_, outcome), count in totals.resolved.items()},
            {int(type_): count for type_, count in totals.pending.items()},
            totals.oldest_pending_at,
            totals.size_bytes,
        )

    return read
