"""What missed lately and whether it still waits: the console's list of misses, grouped, and the verdict's main input.

Fed from three sides: delivery says which attempt missed, the socket map what was looked for and who was there instead,
and both delivery and the outbox say when an event has ended after all. Bounded: the oldest notes go first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

import msgspec

from roundtrip.api.debug.timeline import trace_id_of
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Ended
from roundtrip.sockets.registry import MissView
from roundtrip.telemetry.redaction import key_hash
from roundtrip.telemetry.span_records import AttemptView, DeliveryView

REMEMBERED: Final = 2000
"""Events that missed whose notes are kept, half a kilobyte each."""

SHOWN_FOR: Final = 3600.0
"""Seconds for which an event that has ended is still listed."""

MOST_GROUPS: Final = 100


class MissNote(msgspec.Struct, rename="camel"):
    """One event that missed at least once. Times are in milliseconds since the epoch; `lookedFor` and `connected` are
    bot ids of the user, `lookedForKey` and `keyHash` what logs and spans name the keys by."""

    event_id: str
    seq: int
    type: str
    link_id: str
    user_id: str
    bot_id: str
    trace_id: str | None
    key_hash: str
    first_at: int
    at: int
    reason: str = ""
    attempt: int = 1
    receipt: bool = False
    """Whether a transport confirmed the attempt that missed: then only the acknowledgement is missing."""
    promised: bool = False
    """Whether a socket of the key promises to acknowledge."""
    looked_for: str = ""
    looked_for_hash: str = ""
    connected: tuple[str, ...] = ()
    waits: bool = True
    """Whether the event is pending still."""


class MissGroup(msgspec.Struct, frozen=True, rename="camel"):
    """Events that missed for one reason under one key. `events` is how many, `waiting` how many of them wait still."""

    reason: str
    user_id: str
    bot_id: str
    looked_for: str
    connected: tuple[str, ...]
    events: int
    waiting: int
    attempts: int
    first_at: int
    at: int
    event_id: str
    """The newest of them."""
    types: tuple[str, ...]
    receipt: bool
    promised: bool
    key_hash: str
    looked_for_hash: str


class MissBook:
    """Lives on the event loop. `on_note` is told each miss at once."""

    def __init__(
        self, promises: Callable[[BotKey], bool] = lambda _key: False, wall: Callable[[], float] = time.time
    ) -> None:
        """`promises` says whether a key has a socket that promised to acknowledge; `wall` returns seconds since the
        epoch."""
        self._promises = promises
        self._wall = wall
        self._notes: OrderedDict[str, MissNote] = OrderedDict()
        self._waiting: dict[tuple[BotKey, int], str] = {}
        self.on_note: Callable[[MissNote], None] = lambda _note: None
        self.forgotten = 0
        """Notes of events that still waited when there was no more room."""

    def missed(self, delivery: DeliveryView, attempt: AttemptView) -> None:
        """An attempt missed; `looked` completes the note."""
        event = delivery.event
        note = self._notes.get(event.id)
        if note is None:
            user, bot = event.key.user_id, event.key.bot_id
            note = self._notes[event.id] = MissNote(
                event.id,
                event.seq,
                event.type.wire,
                event.link_id,
                user,
                bot,
                trace_id_of(event.traceparent),
                key_hash(user, bot),
                attempt.at,
                attempt.at,
            )
            self._bound()
        else:
            self._notes.move_to_end(event.id)
        note.at = attempt.at
        note.reason = str(attempt.reason)
        note.attempt = delivery.tried
        note.receipt = delivery.receipt_ns > 0
        note.waits = True
        self._waiting[BotKey(note.user_id, note.bot_id), note.seq] = note.event_id

    def looked(self, miss: MissView) -> None:
        """The socket map says what was looked for, and what was there."""
        note = self._notes.get(miss.event_id)
        if note is None:
            return
        user, note.looked_for = miss.looked_for
        note.looked_for_hash = key_hash(user, note.looked_for)
        note.connected = miss.connected
        note.promised = self._promises(BotKey(user, note.looked_for))
        self.on_note(note)

    def late_end(self, event_id: str) -> None:
        """An event ended after more than one attempt."""
        note = self._notes.get(event_id)
        if note is not None and note.waits:
            note.waits = False
            self._waiting.pop((BotKey(note.user_id, note.bot_id), note.seq), None)

    def ended(self, ended: Sequence[Ended]) -> None:
        """The outbox ended events: superseded, or too old."""
        for end in ended:
            event_id = self._waiting.pop((end.key, end.seq), None)
            if event_id is not None and (note := self._notes.get(event_id)) is not None:
                note.waits = False

    def waiting(self) -> list[MissNote]:
        """The notes of events that wait still, from old to new."""
        return [self._notes[event_id] for event_id in self._waiting.values() if event_id in self._notes]

    def note(self, event_id: str) -> MissNote | None:
        """What is known of one event's misses."""
        return self._notes.get(event_id)

    def newest(self, limit: int) -> list[MissNote]:
        """The newest notes, the newest first."""
        return list(islice(reversed(self._notes.values()), limit))

    def groups(self) -> tuple[MissGroup, ...]:
        """What waits or missed within the hour, the newest group first."""
        oldest = (self._wall() - SHOWN_FOR) * 1000
        return grouped(note for note in self._notes.values() if note.waits or note.at >= oldest)[:MOST_GROUPS]

    def _bound(self) -> None:
        if len(self._notes) > REMEMBERED:
            _, oldest = self._notes.popitem(last=False)
            if oldest.waits:
                self.forgotten += 1
                self._waiting.pop((BotKey(oldest.user_id, oldest.bot_id), oldest.seq), None)


def grouped(notes: Iterable[MissNote]) -> tuple[MissGroup, ...]:
    """Notes by reason and key, the newest group first."""
    groups: dict[tuple[str, str, str], list[MissNote]] = {}
    for note in notes:
        groups.setdefault((note.reason, note.user_id, note.looked_for), []).append(note)
    made = [_group(members) for members in groups.values()]
    return tuple(sorted(made, key=lambda group: -group.at))


def _group(notes: list[MissNote]) -> MissGroup:
    newest = max(reversed(notes), key=lambda note: note.at)
    return MissGroup(
        newest.reason,
        newest.user_id,
        newest.bot_id,
        newest.looked_for,
        newest.connected,
        len(notes),
        sum(note.waits for note in notes),
        sum(note.attempt for note in notes),
        min(note.first_at for note in notes),
        newest.at,
        newest.event_id,
        tuple(sorted({note.type for note in notes})),
        newest.receipt,
        newest.promised,
        newest.key_hash,
        newest.looked_for_hash,
    )
