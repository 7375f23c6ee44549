"""Drafts, clocks and sums for tests of outboxes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from roundtrip.events import SUPERSEDES_ALWAYS, TYPE_OF, Connected, Connecting, EventType, Payload, Qr
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Attempt, Draft, LedgerEntry, Mode, Outcome, Resolution, StoredEvent, Totals
from tests.support.stepped_clock import SteppedClock

KEY = BotKey.parse("user", "bot")
TRACEPARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
CONNECTED = Connected(phone_number="+15550100", display_name="Ada", first=True)
CONNECTING = Connecting()


class Clock(SteppedClock):
    """A stepped clock for whoever thinks in milliseconds."""

    def __init__(self, ms: int | None = None) -> None:
        """At `ms` since the epoch, by default now."""
        super().__init__()
        self.wall_ms(time.time_ns() // 1_000_000 if ms is None else ms)

    def wall_ms(self, ms: int) -> None:
        self._wall_ns = ms * 1_000_000

    @property
    def ms(self) -> int:
        return self._wall_ns // 1_000_000

    def pass_ms(self, ms: int) -> None:
        """Time passes: both clocks move."""
        self._monotonic += ms / 1000
        self._wall_ns += ms * 1_000_000


def qr(text: str = "SECRET-QR", index: int = 1) -> Qr:
    return Qr(qr=text, index=index, total=6, expires_at="2026-01-01T00:00:20.000Z")


def draft(payload: Payload, clock: Clock, key: BotKey = KEY, ttl: int = 60_000, *, supersede: bool = True) -> Draft:
    """`ttl` is in milliseconds."""
    types = SUPERSEDES_ALWAYS.get(TYPE_OF[type(payload)], frozenset[EventType]()) if supersede else frozenset()
    return Draft(key, "link-1", payload, clock.ms, clock.ms + ttl, TRACEPARENT, types)


async def store(outbox: Outbox, item: Draft) -> StoredEvent:
    """Append and wait. Raises what the outbox answers."""
    future: asyncio.Future[StoredEvent] = asyncio.get_running_loop().create_future()

    def done(result: StoredEvent | OutboxError) -> None:
        if isinstance(result, OutboxError):
            future.set_exception(result)
        else:
            future.set_result(result)

    outbox.append(item, done)
    return await future


async def entry_with(
    outbox: Outbox, key: BotKey, seq: int, condition: Callable[[LedgerEntry], object], within: float = 10
) -> LedgerEntry:
    """An event's entry in the ledger, once the condition is true for it."""
    async with asyncio.timeout(within):
        while True:
            for entry in await outbox.ledger(key, seq - 1, 1):
                if condition(entry):
                    return entry
            await asyncio.sleep(0.005)


def attempt(at: int = 1, **fields: object) -> Attempt:
    return Attempt(at=at, mode=Mode.LIVE, sockets=1, **fields)  # type: ignore[arg-type]  # a test knows its fields


def end(event: StoredEvent, outcome: Outcome = Outcome.ACKED, at: int | None = None) -> Resolution:
    """At `at`, by default 5 ms after its creation."""
    at = event.created_at + 5 if at is None else at
    return Resolution(event.key, event.seq, outcome, at, [attempt(ack_at=at if outcome is Outcome.ACKED else None)])


def assert_balanced(totals: Totals) -> None:
    """created = resolved + pending, for each type."""
    for kind in EventType:
        resolved = sum(n for (type_, _), n in totals.resolved.items() if type_ is kind)
        assert totals.created.get(kind, 0) == resolved + totals.pending.get(kind, 0), kind.wire
    assert (totals.oldest_pending_at is None) == (sum(totals.pending.values()) == 0)
