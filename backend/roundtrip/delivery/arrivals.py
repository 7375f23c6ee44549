"""Events of keys whose sockets are on several nodes of a shared store, or on another than the one that stores them.

What another node stored is read from the outbox and emitted here as if it had been stored here: live, in `seq` order.
`KeyInFlight.accounted` is how far a key's live sockets are; an event of this node's own that does not follow it at once
comes after one of another node, and is read with it. A socket whose replay runs reads the outbox by itself.

What another node confirmed, or found to have ended, ends here too: `endings.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog

from roundtrip.delivery.confirmation import Confirmations
from roundtrip.delivery.endings import Endings
from roundtrip.delivery.inflight import InFlight, KeyInFlight
from roundtrip.delivery.metrics import DeliverySpans
from roundtrip.delivery.misses import MissRecorder
from roundtrip.delivery.state import Delivery
from roundtrip.delivery.wire import Elsewhere, Miss, Socket, Sockets, Whereabouts
from roundtrip.errors import IllegalTransitionError
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Mode, StoredEvent

log = structlog.get_logger(__name__)

PAGE: Final = 500
"""Events of a key that are read at once."""

KEYS: Final = 500
"""Keys that are read at once."""

RETRY: Final = 0.5
"""Seconds until the next try when the outbox cannot be read."""


class Parts(NamedTuple):
    """What a courier delivers with. `emit` is its own; `moved_ns` is the sum of what the clock was set by."""

    outbox: Outbox
    sockets: Sockets
    inflight: InFlight
    confirmations: Confirmations
    spans: DeliverySpans
    emit: Callable[[KeyInFlight, Delivery, Sequence[Socket]], bool]
    now_ns: Callable[[], int]
    moved_ns: Callable[[], int]


class Arrivals:
    """One node's. `run` it as a task. Lives on the event loop."""

    def __init__(self, parts: Parts, elsewhere: Elsewhere, why_missing: Callable[[BotKey, Whereabouts], Miss]) -> None:
        """`why_missing` says why a key has no socket on any node."""
        self._outbox, self._sockets, self._inflight, self._confirmations, *_ = parts
        self._spans, self._emit, self._now_ns, self._moved_ns = parts[4:]
        self._misses: MissRecorder = parts.confirmations.misses
        self._why_missing = why_missing
        self.elsewhere = elsewhere
        self.endings = Endings(parts.outbox, parts.inflight, parts.confirmations, parts.spans, elsewhere)
        self._due: dict[BotKey, int] = {}
        """Keys to be read, and the `seq` up to which all that is pending must have been committed."""
        self._wake = asyncio.Event()
        self.on_found: Callable[[int], None] = lambda _count: None
        """Called with how many events of other nodes one reading found."""

    # what this node stores

    def sought(self, delivery: Delivery, looked_for: BotKey) -> None:
        """An event was committed whose key has no socket here: it is a miss unless another node has one."""
        self.elsewhere.announce(looked_for, False, partial(self._sought, delivery, looked_for))

    def _sought(self, delivery: Delivery, looked_for: BotKey, found: Whereabouts) -> None:
        if found.nodes and not delivery.foreign:
            self._spans.created(delivery)
        if found.nodes or self._sockets.of(looked_for):
            return  # or one that has connected meanwhile, and reads the outbox
        try:
            self._misses.miss(delivery, self._why_missing(looked_for, found), looked_for=looked_for)
        except IllegalTransitionError as error:
            self._confirmations.failed(error)
        self._misses.flush(delivery.event.key)

    def in_turn(self, channel: KeyInFlight, seq: int) -> bool:
        """An event was committed here whose key has sockets here. Whether it is to be emitted now; else it is read with
        those of other nodes that come before it."""
        if self.elsewhere.others:
            self.elsewhere.announce(channel.key, True, partial(self._also, channel))
        accounted = channel.accounted
        if accounted is None:
            return True  # held back for replays, which find out what comes before it
        if seq == accounted + 1 and channel.key not in self._due:
            channel.accounted = seq
            return True
        if seq > accounted:
            self.look(channel.key, seq)
        return False

    def live(self, channel: KeyInFlight, known: int) -> None:
        """A replay is over, having read all events up to the `seq` `known`. Where other sockets are live already, how
        far these are stays what counts."""
        if channel.accounted is None or not any(peer.live for peer in self._sockets.of(channel.key)):
            channel.accounted = max(known, channel.accounted or 0)

    def _also(self, channel: KeyInFlight, found: Whereabouts) -> None:
        channel.shared = bool(found.nodes)

    # what other nodes store

    def share(self, key: BotKey, *, shared: bool) -> None:
        """Whether other nodes have sockets of a key too."""
        if (channel := self._inflight.keys.get(key)) is not None:
            channel.shared = shared

    def look(self, key: BotKey, upto: int, *, shared: bool | None = None) -> None:
        """Read what is pending for a key, all up to the `seq` `upto` being committed, and emit what is new. `shared` is
        whether several nodes have sockets of it, None if that is not known."""
        if shared is not None:
            self.share(key, shared=shared)
        self._due[key] = max(upto, self._due.get(key, 0))
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                keys = list(self._due)[:KEYS]
                looks = {key: self._due.pop(key) for key in keys}
                try:
                    await self._read(looks)
                except OutboxError as error:
                    log.warning("arrivals_not_read", code=error.code, keys=len(looks))
                    for key, upto in looks.items():
                        self._due[key] = max(upto, self._due.get(key, 0))
                    await asyncio.sleep(RETRY)

    async def _read(self, looks: dict[BotKey, int]) -> None:
        reads = []
        for key, upto in looks.items():
            channel = self._inflight.keys.get(key)
            after = 0
            if self._sockets.of(key):
                if channel is None or channel.accounted is None:
                    if channel is not None:  # the replays that run read on
                        for held_back in channel.held_back.values():
                            held_back.overflowed = True
                    continue
                after = channel.accounted
                if 0 < len(channel.inflight) <= PAGE:
                    after = min(after, min(channel.inflight) - 1)
            reads.append((key, upto, after))
        moved_ns = self._moved_ns()
        pages = await asyncio.gather(*(self._outbox.pending(key, after, PAGE) for key, _, after in reads))
        moved = (self._moved_ns() - moved_ns) // 1_000_000
        found = 0
        for (key, upto, after), page in zip(reads, pages, strict=True):
            events = [event.moved(moved) for event in page] if moved else page
            try:
                found += self._take(key, upto, after, events)
            except Exception as error:  # noqa: BLE001  # the other keys are not to blame
                self._confirmations.failed(error)
        if found:
            self.on_found(found)

    def _take(self, key: BotKey, upto: int, after: int, events: list[StoredEvent]) -> int:
        """Emit what is new of a key. How many events that were."""
        channel = self._inflight.keys.get(key)
        if not self._sockets.of(key):
            self._nobody(events)
            return 0
        if channel is None or channel.accounted is None:
            self.look(key, upto)  # its sockets have changed since
            return 0
        full = len(events) == PAGE
        self._compare(channel, after, events[-1].seq if full else upto, {event.seq for event in events})
        count = 0
        for event in events:
            if event.seq > channel.accounted:
                channel.accounted = event.seq
                count += self._arrived(channel, event)
        self._misses.flush(key)
        if full:
            self.look(key, upto)
        else:
            channel.accounted = max(channel.accounted, upto)
        return count

    def _arrived(self, channel: KeyInFlight, event: StoredEvent) -> bool:
        """Emit an event to the live sockets that were not sent it, and hold it back for the others."""
        now = self._now_ns()
        if event.seq in channel.resolved or event.expires_at <= now // 1_000_000:
            return False
        delivery = channel.inflight.get(event.seq)
        new = delivery is None
        if delivery is None:
            delivery = Delivery(event, Mode.LIVE, now)
            delivery.foreign = not event.attempts
        if channel.held_back:
            channel.hold_back(delivery)
        peers = [peer for peer in self._sockets.of(channel.key) if peer.live and not peer.has(event.seq)]
        if peers:
            self._emit(channel, delivery, peers)
        return new

    def _nobody(self, events: list[StoredEvent]) -> None:
        """The key's sockets left before its events were known here: they are sought once more, as if stored here."""
        for event in events:
            if not event.attempts:
                delivery = Delivery(event, Mode.LIVE, self._now_ns())
                delivery.started_ns = delivery.stored_ns
                delivery.foreign = True
                self.sought(delivery, event.key)

    # what has ended

    def _compare(self, channel: KeyInFlight, after: int, upto: int, pending: set[int]) -> None:
        """Ask after those in flight that were not read as pending."""
        for seq in [seq for seq in channel.inflight if after < seq <= upto and seq not in pending]:
            self.elsewhere.ask(channel.key, seq, partial(self.endings.ended, channel.key, seq))

    def in_flight_since(self, created_before_ms: int) -> list[tuple[BotKey, int]]:
        """Events in flight that are older than this. Milliseconds since the epoch."""
        return [
            (key, seq)
            for key, channel in self._inflight.keys.items()
            for seq, delivery in channel.inflight.items()
            if delivery.event.created_at < created_before_ms
        ]

    def lacks(self, key: BotKey, seq: int) -> bool:
        """Whether live sockets of a key were not sent all up to a `seq`."""
        channel = self._inflight.keys.get(key)
        return channel is not None and channel.accounted is not None and channel.accounted < seq

    def accounts(self) -> list[tuple[BotKey, int]]:
        """The keys with live sockets, and how far these are."""
        return [
            (key, channel.accounted)
            for key, channel in self._inflight.keys.items()
            if channel.accounted is not None and self._sockets.of(key)
        ]
