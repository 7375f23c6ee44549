"""One event's delivery: how far it is, and the times of its newest attempt.

How far a delivery is, is one `DeliveryState`, changed by `Delivery.change` only:

| state | open attempt | next |
|---|---|---|
| `queued`: committed, not yet written to a socket by this process | no | `sent`, `missed`, or ended by the outbox |
| `sent`: written to at least one socket, unconfirmed | yes | `receipted`, `acked`, `missed`, or ended by the outbox |
| `missed`: the newest attempt reached nobody, or was not confirmed in time | no | `sent`, `missed`, `late_receipt`, \
`acked`, or ended by the outbox |
| `receipted`: a receipt came that will end it; an acknowledgement may still better the grade | yes | `received`, \
`acked`, or ended by the outbox |
| `late_receipt`: the same, but the attempt had been given up before | no | as `receipted` |
| `acked`, `received`, `superseded`, `expired`, `discarded` | no | none: the event has ended |

"Ended by the outbox" is `superseded`, `expired` or `discarded`. The grade of a `received` event may still rise in the
outbox (`Outbox.upgrade`); its delivery is over nevertheless.
"""

from __future__ import annotations

import enum
from typing import Final

from roundtrip.errors import IllegalTransitionError
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


class DeliveryState(enum.Enum):
    """How far the delivery of one event is; see the table of this module."""

    QUEUED = ("queued", Outcome.PENDING)
    SENT = ("sent", Outcome.PENDING)
    MISSED = ("missed", Outcome.PENDING)
    RECEIPTED = ("receipted", Outcome.PENDING)
    LATE_RECEIPT = ("late_receipt", Outcome.PENDING)
    ACKED = ("acked", Outcome.ACKED)
    RECEIVED = ("received", Outcome.RECEIVED)
    SUPERSEDED = ("superseded", Outcome.SUPERSEDED)
    EXPIRED = ("expired", Outcome.EXPIRED)
    DISCARDED = ("discarded", Outcome.DISCARDED)

    outcome: Outcome
    """The event's state in the outbox."""
    waiting: bool
    """Whether the newest attempt is open: written, neither confirmed by an end nor given up."""
    receipted: bool
    """Whether a receipt stands that ends the event unless an acknowledgement comes first."""
    sendable: bool
    """Whether the event may be written to a socket: as a new attempt, or as more sockets of the open one."""
    following: tuple[DeliveryState, ...]
    """The states that may come next, the likeliest first. A tuple: comparing few members is cheaper than hashing."""

    def __init__(self, _label: str, outcome: Outcome) -> None:
        self.outcome = outcome
        self.waiting = self.receipted = self.sendable = False
        self.following = ()


_ENDED_BY_OUTBOX: Final = (DeliveryState.SUPERSEDED, DeliveryState.EXPIRED, DeliveryState.DISCARDED)
_FOLLOWING: Final = {
    DeliveryState.QUEUED: (DeliveryState.SENT, DeliveryState.MISSED),
    DeliveryState.SENT: (DeliveryState.ACKED, DeliveryState.RECEIPTED, DeliveryState.MISSED),
    DeliveryState.MISSED: (
        DeliveryState.SENT,
        DeliveryState.MISSED,
        DeliveryState.LATE_RECEIPT,
        DeliveryState.ACKED,
    ),
    DeliveryState.RECEIPTED: (DeliveryState.ACKED, DeliveryState.RECEIVED),
    DeliveryState.LATE_RECEIPT: (DeliveryState.ACKED, DeliveryState.RECEIVED),
}
for _state, _next in _FOLLOWING.items():
    _state.following = (*_next, *_ENDED_BY_OUTBOX)
for _state in (DeliveryState.SENT, DeliveryState.RECEIPTED):
    _state.waiting = True
for _state in (DeliveryState.RECEIPTED, DeliveryState.LATE_RECEIPT):
    _state.receipted = True
for _state in (DeliveryState.QUEUED, DeliveryState.MISSED, DeliveryState.SENT, DeliveryState.RECEIPTED):
    _state.sendable = True

ENDED: Final[dict[Outcome, DeliveryState]] = {
    state.outcome: state for state in DeliveryState if state.outcome is not Outcome.PENDING
}
"""The state of a delivery whose event ended with an outcome."""


class Delivery:
    """A pending event that is in memory because sockets may confirm it, with the times of its newest attempt.

    All `*_ns` are nanoseconds since the epoch, 0 while it has not happened. `attempts` are the finished ones, but for
    the middle of very many.
    """

    __slots__ = (
        "ack_ns",
        "attempts",
        "due_ns",
        "event",
        "failures",
        "foreign",
        "mode",
        "receipt_late",
        "receipt_ns",
        "replay_parent",
        "sids",
        "sockets",
        "started_ns",
        "state",
        "stored_ns",
        "tried",
    )

    def __init__(self, event: StoredEvent, mode: Mode, stored_ns: int, replay_parent: str | None = None) -> None:
        self.event = event
        self.mode = mode
        """Of the newest attempt."""
        self.stored_ns = stored_ns
        """When its commit, or its reading from the outbox, was known."""
        self.replay_parent = replay_parent
        """The traceparent of the replay that the newest attempt belongs to."""
        self.attempts: list[Attempt] = []
        self.tried = 0
        """How many attempts are finished, also those that are not kept."""
        if event.attempts:
            self.attempts += event.attempts
            shorten(self.attempts)
            self.tried = len(self.attempts) + omitted(self.attempts)
        self.state = DeliveryState.QUEUED
        """Read it; it is written by `change`."""
        self.due_ns = 0
        """Since when the key has had a socket, of an event that is older than that."""
        self.started_ns = 0
        self.receipt_ns = 0
        self.receipt_late = False
        """Whether the receipt came when the attempt had been given up, and reported as a miss without it."""
        self.ack_ns = 0
        self.sockets = 0
        self.sids: tuple[str, ...] = ()
        self.foreign = False
        """Whether another node stored the event."""
        self.failures = 0
        """Attempts in a row that nobody acknowledged in time."""

    @property
    def outcome(self) -> Outcome:
        """The event's state in the outbox."""
        return self.state.outcome

    @property
    def waiting(self) -> bool:
        """Whether a confirmation of the newest attempt is still of use."""
        return self.state.waiting

    @property
    def trace_id(self) -> str | None:
        """Of the replay that the newest attempt belongs to; None for a live one, which is in its event's trace."""
        if self.mode is Mode.LIVE or self.replay_parent is None:
            return None
        return self.replay_parent[3:35]

    def change(self, state: DeliveryState) -> None:
        """Move to the next state. Raises `IllegalTransitionError`, and then nothing has changed."""
        if state not in self.state.following:
            raise IllegalTransitionError(f"event {self.event.id}", self.state.name.lower(), state.name.lower())
        self.state = state

    def finish(self, attempt: Attempt) -> None:
        """Add the newest attempt, which has ended, to the finished ones."""
        self.attempts.append(attempt)
        self.tried += 1
        if self.tried > FIRST_ATTEMPTS + LAST_ATTEMPTS:
            shorten(self.attempts)

    def end_elsewhere(self, outcome: Outcome) -> None:
        """Another node confirmed the event, whatever this one was about to do with it."""
        self.state = ENDED[outcome]

    def moved(self, ns: int) -> None:
        """The clock was set by `ns` nanoseconds: shift all times by as much."""
        ms = ns // 1_000_000
        self.event = self.event.moved(ms)
        self.stored_ns += ns
        self.due_ns += ns if self.due_ns else 0
        self.started_ns += ns if self.started_ns else 0
        self.receipt_ns += ns if self.receipt_ns else 0
        self.ack_ns += ns if self.ack_ns else 0
        for attempt in self.attempts:
            attempt.move(ms)
