"""One event on its way, and what telemetry is told of it."""

from __future__ import annotations

from typing import Protocol

from roundtrip.identity import BotKey
from roundtrip.outbox.records import (
    FIRST_ATTEMPTS,
    LAST_ATTEMPTS,
    Attempt,
    Mode,
    Outcome,
    StoredEvent,
    omitted,
    shorten,
)


class Delivery:
    """A pending event that is in memory because sockets may confirm it, with the times of its newest attempt.

    All `*_ns` are nanoseconds since the epoch, 0 while it has not happened. `attempts` are the finished ones, but for
    the middle of very many.
    """

    __slots__ = (
        "ack_ns",
        "attempts",
        "confirmed",
        "event",
        "failures",
        "mode",
        "orphaned",
        "outcome",
        "receipt_ns",
        "replay_parent",
        "sids",
        "sockets",
        "started_ns",
        "stored_ns",
        "tried",
        "waiting",
    )

    def __init__(self, event: StoredEvent, mode: Mode, stored_ns: int, replay_parent: str | None = None) -> None:
        self.event = event
        self.mode = mode
        """Of the newest attempt."""
        self.stored_ns = stored_ns
        """When its commit, or its reading from the outbox, was known."""
        self.replay_parent = replay_parent
        """The traceparent of the replay that the newest attempt belongs to."""
        self.attempts: list[Attempt] = list(event.attempts)
        shorten(self.attempts)
        self.tried = len(self.attempts) + omitted(self.attempts)
        """How many attempts are finished, also those that are not kept."""
        self.outcome = Outcome.PENDING
        self.started_ns = 0
        self.receipt_ns = 0
        self.ack_ns = 0
        self.sockets = 0
        self.sids: tuple[str, ...] = ()
        self.waiting = False
        """Whether the newest attempt is open: written, neither confirmed nor given up."""
        self.confirmed = False
        """A receipt that will end it has come; it waits a moment for the better grade."""
        self.failures = 0
        """Attempts in a row that nobody acknowledged in time."""
        self.orphaned = False
        """All its sockets have left; the courier has yet to say so."""

    @property
    def trace_id(self) -> str | None:
        """Of the replay that the newest attempt belongs to; None for a live one, which is in its event's trace."""
        if self.mode is Mode.LIVE or self.replay_parent is None:
            return None
        return self.replay_parent[3:35]

    def finish(self, attempt: Attempt) -> None:
        """The newest attempt ended."""
        self.attempts.append(attempt)
        self.tried += 1
        self.waiting = False
        if self.tried > FIRST_ATTEMPTS + LAST_ATTEMPTS:
            shorten(self.attempts)

    def moved(self, ns: int) -> None:
        """The clock was set by so much: tell all its times by the new one."""
        ms = ns // 1_000_000
        self.event = self.event.moved(ms)
        self.stored_ns += ns
        self.started_ns += ns if self.started_ns else 0
        self.receipt_ns += ns if self.receipt_ns else 0
        self.ack_ns += ns if self.ack_ns else 0
        for attempt in self.attempts:
            attempt.move(ms)


class Misses:
    """Attempts of one key that missed in one round, for one reason: many are told as one."""

    __slots__ = ("attempt", "count", "event", "last_seq", "number")

    def __init__(self, event: StoredEvent, attempt: Attempt, number: int) -> None:
        self.event = event
        """The first one's, as is its `attempt`, which was the event's `number`th."""
        self.attempt = attempt
        self.number = number
        self.count = 0
        self.last_seq = event.seq


class DeliverySpans(Protocol):
    """What the courier tells telemetry, on the event loop and on the event's path: note it and return."""

    def context(self, parent: str | None) -> str:
        """The traceparent of a new `create` span, child of `parent` or a root."""

    def attempted(self, delivery: Delivery, attempt: Attempt) -> None:
        """An attempt ended as a miss, while its event stays pending; `delivery` has its times, and its `tried` is the
        attempt's number."""

    def round_missed(self, misses: Misses) -> None:
        """Attempts of one key missed together, for one reason. Each was told to `attempted` before."""

    def settled(self, delivery: Delivery) -> None:
        """The event ended with `delivery.outcome`. If it was confirmed, `delivery` has its newest attempt's times,
        and that attempt is the last of `delivery.attempts`."""

    def upgraded(self, delivery: Delivery) -> None:
        """An acknowledgement (`delivery.ack_ns`) came for an event that had ended by a receipt."""

    def replay(self, key: BotKey, sid: str, connect_parent: str | None) -> str | None:
        """A socket's replay begins; the traceparent for its attempts, None when there is no trace."""

    def replayed(self, key: BotKey, replay_parent: str | None, started_ns: int, count: int) -> None:
        """A socket's replay is over; `count` events were sent. Told also when it sent none."""


class DeliveryMetrics(Protocol):
    """What the courier counts, on the event's path."""

    def sent(self, delivery: Delivery) -> None:
        """An attempt ended well."""

    def missed(self, delivery: Delivery, attempt: Attempt) -> None:
        """An attempt reached nobody, or nobody said so in time: `attempt.reason`."""

    def delivered(self, delivery: Delivery) -> None:
        """The event was confirmed: `delivery` has the times, and its outcome is the grade."""

    def upgraded(self, delivery: Delivery) -> None:
        """An acknowledgement came after the event had ended by a receipt."""

    def slowed(self) -> None:
        """A replay is made to wait, because its clients come and go without confirming anything."""

    def failed(self) -> None:
        """What had to be done for one event failed by a mistake of this program."""
