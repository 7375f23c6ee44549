"""What an event store must do: the protocol `Outbox`, and the error that its methods raise.

To add a store, write a class with the methods of `Outbox`, in a module of its own beside `memory.py`, or a package
like `sqlite/`. It needs
- a table of events (`records.StoredEvent`, its `Outcome`, its attempts) with the newest `seq` of each key,
- a transaction that appends an event, assigns the next `seq` of its key, ends what it supersedes and adds to the sums
  that `totals` reports. `records.body` makes the stored JSON, `records.EventIds` the ids,
- expiry without being asked, reported through `on_ended`,
- a queue of the writes that have no caller to report a failure to (`record`, `resolve`, `upgrade`, `moved`), retried
  until the store works again.

What the class must pass is the contract suite, `tests/outbox/contract`: as `tests/outbox/test_memory.py` does, subclass
`OutboxContract` with a `reopen` fixture, and `OutboxMachine` (`tests/outbox/model.py`) with an `open` method. The suite
makes the store fail by an attribute `fault_down`. `app.py` chooses the store that runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from roundtrip.errors import StorageError
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, Draft, Ended, LedgerEntry, Outcome, Resolution, StoredEvent, Totals
from roundtrip.telemetry.collectors import LedgerReading


class OutboxError(StorageError):
    """The store failed or refused, and nothing was stored. Codes: `outbox_unavailable`, `outbox_full`."""


AppendCallback: TypeAlias = Callable[[StoredEvent | OutboxError], None]
"""Receives the committed event, or why there is none."""


def outbox_closed() -> OutboxError:
    """The error of every method before `start` and after `close`."""
    return OutboxError("outbox_unavailable", "The event store is not open.")


class Outbox(Protocol):
    """Stores events before they are emitted. Methods are called on the event loop; callbacks are called on it too.

    Writes are applied in the order of the calls, many in one durable commit. A read sees every write called before it.
    An event's state is its `Outcome`. A transition that `Outcome` does not list is refused by changing nothing, and is
    no error: a confirmation, an expiry and a newer event race, and the first that is committed stands.
    """

    on_ended: Callable[[Sequence[Ended]], None]
    """Set by the courier: receives, after the commit, the events that were superseded or expired."""

    @property
    def full(self) -> bool:
        """Whether the store has no room for new events: no new link should be started then."""

    @property
    def away(self) -> bool:
        """Whether the store is not reached, or the newest commit failed: what is known of it may be old."""

    async def start(self) -> None:
        """Open the store. Raises `OutboxError` when it cannot be used or another process holds it."""

    async def close(self) -> None:
        """Commit the writes called so far, then release the store. A write that still cannot be committed is lost: its
        event stays pending."""

    def append(self, draft: Draft, done: AppendCallback) -> None:
        """Commit an event with the next `seq` of its key, then call `done`. A failure uses up no `seq`.

        Within one commit, `done` calls come in `seq` order, after the commit's `on_ended`. An event that the same
        commit created and superseded has both: its `done`, then an `on_ended` of its own."""

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        """Store the attempts so far of a pending event, in place of those stored before."""

    def resolve(self, resolution: Resolution) -> None:
        """End a pending event and delete its payload. A failed write is retried; until it is committed the event is
        not read as pending. Raises `ValueError` for the outcome PENDING, which is no end."""

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        """Turn `received` into `acked`: the application's acknowledgement followed the transport's receipt. `at` is in
        milliseconds since the epoch."""

    def moved(self, ns: int) -> None:
        """The machine's clock was set by `ns` nanoseconds: the times of all pending events move along, so that none
        expires by it. Calls before this one pass times of the old clock, calls after it times of the new one; results
        reported from now on are by the new one."""

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        """Pending, unexpired events with `seq > after`, in `seq` order."""

    async def last_seq(self, key: BotKey) -> int:
        """The newest `seq` of a key, 0 before its first event."""

    def known_seq(self, key: BotKey) -> int:
        """A `seq` that the key has had, as new as is known without asking the store; 0 where none is."""

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        """The key's events with `seq > after`, in `seq` order."""

    async def find(self, event_id: str) -> LedgerEntry | None:
        """One event by its id."""

    async def check(self) -> None:
        """Commit a write that changes no event, or raise `OutboxError`."""

    def totals(self) -> Totals:
        """The sums after the last commit. Costs no I/O."""


# what an outbox that writes in batches queues: structs, which are made in a fifth of a named tuple's time


class Append(msgspec.Struct, frozen=True):
    draft: Draft
    done: AppendCallback


class Record(msgspec.Struct, frozen=True):
    """`attempts` is JSON, encoded at the call: the caller's list changes later."""

    key: BotKey
    seq: int
    attempts: str


class Resolve(msgspec.Struct, frozen=True):
    """`attempts` as in `Record`."""

    key: BotKey
    seq: int
    outcome: Outcome
    at: int
    attempts: str


class Upgrade(msgspec.Struct, frozen=True):
    key: BotKey
    seq: int
    at: int


class Check(msgspec.Struct, frozen=True):
    reply: asyncio.Future[None]


class Stop(msgspec.Struct, frozen=True):
    reply: asyncio.Future[None]


Reply: TypeAlias = tuple[asyncio.Future[Any], Any]
"""Who waits, and the result; one that is an exception is raised."""


def ledger_reading(outbox: Outbox) -> Callable[[], LedgerReading]:
    """The function that the metrics read the ledger's sums by. Its keys are the numbers of the enums."""

    def read() -> LedgerReading:
        totals = outbox.totals()
        return LedgerReading(
            {int(type_): count for type_, count in totals.created.items()},
            {(int(type_), int(outcome)): count for (type_, outcome), count in totals.resolved.items()},
            {int(type_): count for type_, count in totals.pending.items()},
            totals.oldest_pending_at,
            totals.size_bytes,
            totals.exported,
        )

    return read


def resolve_reply(reply: asyncio.Future[Any], result: object) -> None:
    """Give a read's result, or the exception that it is, to its caller, unless that one was cancelled."""
    if reply.done():
        return
    if isinstance(result, Exception):
        reply.set_exception(result)
    else:
        reply.set_result(result)
