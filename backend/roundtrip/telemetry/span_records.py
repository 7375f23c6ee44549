"""What is recorded of an event on its path, for its spans to be built from later in another thread.

The protocols name what is read of delivery's objects: this package imports no other part of the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol


class Named(Protocol):
    @property
    def wire(self) -> str: ...


class Key(Protocol):
    @property
    def user_id(self) -> str: ...
    @property
    def bot_id(self) -> str: ...


class EventView(Protocol):
    """A stored event. `created_at` is in milliseconds since the epoch."""

    @property
    def id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def key(self) -> Key: ...
    @property
    def type(self) -> Named: ...
    @property
    def link_id(self) -> str: ...
    @property
    def created_at(self) -> int: ...
    @property
    def traceparent(self) -> str: ...


class AttemptView(Protocol):
    """One finished attempt. `at` is in milliseconds since the epoch."""

    @property
    def at(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def sockets(self) -> int: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def looked_for(self) -> str | None: ...
    @property
    def looked_for_is_user(self) -> bool: ...
    @property
    def connected(self) -> tuple[str, ...]: ...
    @property
    def connected_is_user(self) -> bool: ...


class DeliveryView(Protocol):
    """An event in delivery; all `*_ns` are nanoseconds since the epoch, 0 while it has not happened."""

    @property
    def event(self) -> EventView: ...
    @property
    def mode(self) -> str: ...
    @property
    def attempts(self) -> Sequence[AttemptView]: ...
    @property
    def tried(self) -> int: ...
    @property
    def outcome(self) -> Named: ...
    @property
    def stored_ns(self) -> int: ...
    @property
    def started_ns(self) -> int: ...
    @property
    def receipt_ns(self) -> int: ...
    @property
    def receipt_late(self) -> bool:
        """Whether the receipt came when the attempt had been given up, and reported as a miss without it."""

    @property
    def ack_ns(self) -> int: ...
    @property
    def replay_parent(self) -> str | None: ...
    @property
    def foreign(self) -> bool:
        """Whether another node stored the event, and tells of its creation."""


class MissesView(Protocol):
    """Attempts of one key that missed in one round: the first of them, and how many."""

    @property
    def event(self) -> EventView: ...
    @property
    def attempt(self) -> AttemptView: ...
    @property
    def number(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def last_seq(self) -> int: ...


class Missed(NamedTuple):
    """An attempt that missed. Its times are copied, for the delivery goes on."""

    event: EventView
    attempt: AttemptView
    number: int
    stored_ns: int
    started_ns: int
    receipt_ns: int
    ended_ns: int
    replay_parent: str | None
    create_parent: str | None


class Settled(NamedTuple):
    """An event that ended. Not copied, for nothing changes it any more but a late acknowledgement."""

    delivery: DeliveryView
    create_parent: str | None
    """The parent of its `create` span; None after a restart, for it is not stored; "" if another node makes it."""


class Upgraded(NamedTuple):
    """An acknowledgement that came after the event had ended by a receipt."""

    delivery: DeliveryView
    ack_ns: int


class Connected(NamedTuple):
    """A socket whose replay is over, or a handshake that was refused. `parent` is its handshake's traceparent, `replay`
    its replay's."""

    key: Key | None
    """None for one that was refused: nobody has proved to be its user."""
    parent: str | None
    replay: str
    started_ns: int
    ended_ns: int
    replayed: int
    refused: str | None = None
    """The code that a refused client got."""


class Processed(NamedTuple):
    """A page handled an event, by its own word. Times are nanoseconds since the epoch by the page's clock."""

    event: EventView
    span_id: int
    started_ns: int
    ended_ns: int
    error: str | None
    """What failed in the page, None if nothing did."""
    attributes: Mapping[str, str | int | bool]


SpanRecord = Missed | Settled | Upgraded | Connected | Processed

_MOST_KEYS: Final = 16
"""Hashes of connected keys that a copy keeps."""


class _CopiedEvent(NamedTuple):
    """An event without its body, which may hold a secret. Implements `EventView`."""

    id: str
    seq: int
    key: Key
    type: Named
    link_id: str
    created_at: int
    traceparent: str


class _CopiedAttempt(NamedTuple):
    """An attempt without the ids of its sockets. Implements `AttemptView`."""

    at: int
    mode: str
    sockets: int
    reason: str | None
    looked_for: str | None
    looked_for_is_user: bool
    connected: tuple[str, ...]
    connected_is_user: bool


class _CopiedDelivery(NamedTuple):
    """A delivery as it was when it ended. Implements `DeliveryView`."""

    event: EventView
    mode: str
    attempts: tuple[AttemptView, ...]
    tried: int
    outcome: Named
    stored_ns: int
    started_ns: int
    receipt_ns: int
    receipt_late: bool
    ack_ns: int
    replay_parent: str | None
    foreign: bool


def copied_event(event: EventView) -> EventView:
    """An event to keep for long."""
    return _CopiedEvent(event.id, event.seq, event.key, event.type, event.link_id, event.created_at, event.traceparent)


def copied_attempt(attempt: AttemptView) -> AttemptView:
    """An attempt to keep for long."""
    return _CopiedAttempt(
        attempt.at,
        attempt.mode,
        attempt.sockets,
        attempt.reason,
        attempt.looked_for,
        attempt.looked_for_is_user,
        attempt.connected[:_MOST_KEYS],
        attempt.connected_is_user,
    )


def copied_delivery(delivery: DeliveryView) -> DeliveryView:
    """A delivery, as it is now, to keep for long."""
    return _CopiedDelivery(
        copied_event(delivery.event),
        delivery.mode,
        tuple(map(copied_attempt, delivery.attempts[-1:])),
        delivery.tried,
        delivery.outcome,
        delivery.stored_ns,
        delivery.started_ns,
        delivery.receipt_ns,
        delivery.receipt_late,
        delivery.ack_ns,
        delivery.replay_parent,
        delivery.foreign,
    )
