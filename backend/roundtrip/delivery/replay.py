"""Brings a new socket up to date: the snapshot first, then the pending events in `seq` order, then the live ones.

A socket is live once nothing is held back for it. Until then its client sets the pace: no event is written while more
than the watermark waits to be read, be it an event that was missed or one that came meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.deadlines import SLICE_SECONDS
from roundtrip.delivery.inflight import KeyInFlight
from roundtrip.delivery.metrics import DeliverySpans
from roundtrip.delivery.snapshots import Snapshots
from roundtrip.delivery.state import Delivery
from roundtrip.delivery.wire import Socket, status_frame
from roundtrip.errors import IllegalTransitionError
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Mode, Outcome, StoredEvent
from roundtrip.telemetry.redaction import key_hash

log = structlog.get_logger(__name__)

PAGE: Final = 500
"""Events read from the outbox at once."""

_DELAY_POLL: Final = 0.05
"""Seconds between two checks whether a client that is made to wait is still connected."""

_AWAY_POLL: Final = 0.5
"""Seconds between two questions whether a store that was away is back."""

_DRAIN_POLL: Final = 0.01
"""Seconds between two checks of a slow client's unread bytes."""

FREE: Final = 3
"""Replays in a row that may stay unconfirmed: a page that is reloaded in a hurry is not slowed down."""

FORGET_AFTER: Final = 60.0
"""Seconds without an unconfirmed replay after which a key is not slowed down any more."""

_MAX_KEYS: Final = 10_000
"""Keys that are remembered; past it the one that was counted longest ago is dropped."""

_BACKOFF: Final = Backoff(0.1, 5.0)


class ReplayThrottle:
    """Counts, per key, the sockets that were sent a replay and left while nothing of the key was confirmed."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._unconfirmed: OrderedDict[BotKey, tuple[int, float]] = OrderedDict()
        """How many in a row, and when the last left, on the monotonic clock."""

    def __len__(self) -> int:
        return len(self._unconfirmed)

    def left(self, channel: KeyInFlight, sid: str) -> None:
        """A socket left: its replay counts unless something of the key was confirmed since the last one left."""
        replayed = channel.replayed.pop(sid, 0)
        if channel.confirmed:
            channel.confirmed = False
            self._unconfirmed.pop(channel.key, None)
        elif replayed:
            self.unconfirmed(channel.key)

    def unconfirmed(self, key: BotKey) -> None:
        """A socket left that was sent events, and nothing was confirmed."""
        now = self._clock.monotonic()
        count, last = self._unconfirmed.pop(key, (0, now))
        count = count + 1 if now - last < FORGET_AFTER else 1
        self._unconfirmed[key] = (count, now)
        if count == FREE + 1:
            log.warning("replays_slowed", key=key_hash(key.user_id, key.bot_id), unconfirmed=count)
        if len(self._unconfirmed) > _MAX_KEYS:
            self._unconfirmed.popitem(last=False)

    def delay(self, key: BotKey) -> float:
        """Seconds that a replay waits before it sends its first event; 0 for almost all."""
        count, last = self._unconfirmed.get(key, (0, 0.0))
        if count <= FREE:
            return 0.0
        if self._clock.monotonic() - last >= FORGET_AFTER:
            del self._unconfirmed[key]
            return 0.0
        return _BACKOFF.delay(count - FREE)


class Replayer:
    """Brings one socket after another up to date."""

    def __init__(
        self,
        outbox: Outbox,
        courier: Courier,
        spans: DeliverySpans,
        snapshot: Callable[[BotKey, int], Awaitable[msgspec.Struct]],
        *,
        watermark: int,
        clock: Clock = SYSTEM,
    ) -> None:
        """`snapshot` gives the state of a key whose newest event has this `seq`, or a newer one; `watermark` is the
        unread bytes past which a replay waits for its client to read."""
        self._outbox = outbox
        self._courier = courier
        self._spans = spans
        self._snapshots = Snapshots(outbox, snapshot)
        self._watermark = watermark
        self._clock = clock
        self._throttle = ReplayThrottle(clock)
        courier.on_left = self._throttle.left

    async def status(self, peer: Socket) -> int:
        """Send the snapshot, behind everything that was sent before; the newest `seq`."""
        seq, snapshot = await self._snapshots.read(peer.key)
        peer.send(status_frame(snapshot))
        return seq

    async def run(self, peer: Socket, channel: KeyInFlight, connect_parent: str | None) -> int:
        """Bring a socket that `Courier.joined` up to date, and make it live; returns how many missed events it sent.

        While the store is away it waits. Raises `OutboxError` when the outbox cannot be read although it is there.
        """
        started = self._clock.wall_ns()
        parent = self._spans.replay(peer.key, peer.sid, connect_parent)
        replay = _Replay(self._courier, peer, channel, parent, self._watermark, self._clock)
        try:
            if not self._outbox.away:
                with suppress(OutboxError):  # it is tried again before anything is read
                    await self._announce(peer)
            newest = await self.status(peer)
            await self._delayed(peer)
            while not peer.closed:
                if (events := await self._missed(peer, replay.cursor)) is None:
                    newest = await self.status(peer)  # what it was shown was old
                    continue
                await replay.send_page(events)
                if len(events) < PAGE:
                    replay.known = max(replay.known, newest, replay.cursor)
                    if await replay.catch_up():
                        break
            return replay.count
        finally:
            if peer.live:  # else `Courier.left` needs what was held back
                channel.replay_over(peer.sid)
            self._courier.misses.flush(peer.key)
            self._spans.replayed(peer.key, parent, started, replay.count)

    async def _announce(self, peer: Socket) -> None:
        """Have the other nodes see the socket, or an event of theirs would be missed. Raises `OutboxError`."""
        if self._courier.present is not None:
            await self._courier.present(peer.key)

    async def _missed(self, peer: Socket, cursor: int) -> list[StoredEvent] | None:
        """A page of what is pending; None after a time in which the store was away: the socket stays."""
        try:
            await self._announce(peer)
            return await self._outbox.pending(peer.key, cursor, PAGE)
        except OutboxError:
            if not self._outbox.away:
                raise
        while not peer.closed:
            if not await self._snapshots.stale():
                with suppress(OutboxError):
                    await self._announce(peer)
                    break
            await asyncio.sleep(_AWAY_POLL)
        return None

    async def _delayed(self, peer: Socket) -> None:
        """Wait as long as the throttle wants, but not for a client that has gone."""
        delay = self._throttle.delay(peer.key)
        if delay:
            self._courier.metrics.slowed()
        until = self._clock.monotonic() + delay
        while self._clock.monotonic() < until and not peer.closed:  # noqa: ASYNC110  # a socket does not report its end here
            await asyncio.sleep(_DELAY_POLL)


class _Replay:
    """The replay of one socket."""

    def __init__(
        self, courier: Courier, peer: Socket, channel: KeyInFlight, parent: str | None, watermark: int, clock: Clock
    ) -> None:
        self._courier = courier
        self._peer = peer
        self._channel = channel
        self._parent = parent
        self._watermark = watermark
        self._clock = clock
        self._yield_at = clock.monotonic() + SLICE_SECONDS
        self.cursor = 0
        """The `seq` up to which all is sent that is to be sent."""
        self.known = 0
        """The `seq` up to which all events were read, pending or not."""
        self.count = 0
        """Missed events that were sent."""

    async def send_page(self, events: list[StoredEvent]) -> None:
        """Send missed events, at the client's pace, until they or the socket are at their end."""
        moved_ns = self._courier.moved_ns
        for read in events:
            await self._pace()
            if self._peer.closed:
                return
            now = self._clock.wall_ns()  # before the event is looked at: this may move it
            moved = (self._courier.moved_ns - moved_ns) // 1_000_000
            event = read.moved(moved) if moved else read
            delivery = self._channel.inflight.get(event.seq)
            if delivery is None:
                delivery = Delivery(event, Mode.REPLAY, now)
                delivery.due_ns = self._channel.since_ns
            if self._send(delivery, Mode.REPLAY, now):
                self.count += 1
                self._channel.replayed[self._peer.sid] = self.count
            self.cursor = event.seq

    async def catch_up(self) -> bool:
        """Send what was held back, at the client's pace, and go live in the turn of the loop in which nothing is left:
        no gap, no change of order. False when the outbox must be read on, for more came than is held back."""
        peer, channel = self._peer, self._channel
        held_back = channel.held_back.get(peer.sid)
        if held_back is None or peer.closed:
            return True
        while held_back.deliveries or held_back.overflowed:
            await self._pace()
            if peer.closed or peer.sid not in channel.held_back:
                return True
            if held_back.overflowed:
                held_back.overflowed = False
                held_back.deliveries.clear()
                return False
            if self._courier.arrivals is not None and held_back.deliveries[0].event.seq > self.known + 1:
                held_back.deliveries.clear()
                return False  # another node's event comes first
            now = self._clock.wall_ns()  # before the event is taken: this may move it
            held = held_back.deliveries.popleft()
            seq = held.event.seq
            if seq > self.cursor:
                self.cursor = seq
                self.known = max(self.known, seq)
                self._send(channel.inflight.get(seq, held), Mode.LIVE, now)
        if self._courier.arrivals is not None:
            self._courier.arrivals.live(channel, self.known)
        peer.live = True
        return True

    def _send(self, delivery: Delivery, mode: Mode, now_ns: int) -> bool:
        if self._channel.orphans:
            self._courier.confirmations.release(self._channel, delivery)
        event = delivery.event
        if event.expires_at <= now_ns // 1_000_000 or event.seq in self._channel.resolved:
            return False
        if delivery.state.outcome is not Outcome.PENDING:
            return False
        arrivals = self._courier.arrivals
        if arrivals is not None and arrivals.endings.has_settled(event.key, event.seq):
            return False
        if mode is Mode.REPLAY and not delivery.state.waiting:
            delivery.replay_parent = self._parent
        try:
            return self._courier.emit(self._channel, delivery, (self._peer,), mode)
        except IllegalTransitionError as error:
            self._courier.confirmations.failed(error)
            return False

    async def _pace(self) -> None:
        """Let the client read and other callbacks run, if it is time to."""
        peer = self._peer
        while peer.backlog > self._watermark and not peer.closed:  # noqa: ASYNC110  # a transport does not report that it drained
            await asyncio.sleep(_DRAIN_POLL)
        if self._clock.monotonic() >= self._yield_at:
            await asyncio.sleep(0)
            self._yield_at = self._clock.monotonic() + SLICE_SECONDS
