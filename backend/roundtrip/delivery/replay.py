"""What a socket missed: the snapshot first, then the pending events in `seq` order, then the live ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.inflight import SLICE, KeyInFlight
from roundtrip.delivery.spans import Delivery, DeliverySpans
from roundtrip.delivery.wire import Socket, status_frame
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Mode, Outcome, StoredEvent

log = structlog.get_logger(__name__)

PAGE: Final = 500
"""Events read from the outbox at once."""

_LOOK: Final = 0.05
"""Seconds between two looks whether a client that is made to wait is still there."""

_BREATH: Final = 0.01
"""Seconds between two looks at a slow client's backlog."""


class Replayer:
    """Brings one socket after another up to date."""

    def __init__(
        self,
        outbox: Outbox,
        courier: Courier,
        journal: DeliverySpans,
        snapshot: Callable[[BotKey, int], msgspec.Struct],
        *,
        watermark: int,
        clock: Clock = SYSTEM,
    ) -> None:
        """`snapshot` gives what is true for a key whose newest event has this `seq`; `watermark` is the bytes of
        backlog past which a replay waits for its client to read."""
        self._outbox = outbox
        self._courier = courier
        self._journal = journal
        self._snapshot = snapshot
        self._watermark = watermark
        self._clock = clock

    async def status(self, peer: Socket) -> None:
        """Send the snapshot, behind everything that was sent before."""
        seq = await self._outbox.last_seq(peer.key)
        peer.send(status_frame(self._snapshot(peer.key, seq)))

    async def run(self, peer: Socket, channel: KeyInFlight, connect_parent: str | None) -> int:
        """Bring a socket that `Courier.joined` up to date, and make it live; returns how many events it sent.

        Raises `OutboxError` when the outbox cannot be read.
        """
        started = self._clock.wall_ns()
        parent = self._journal.replay(peer.key, peer.sid, connect_parent)
        count = 0
        try:
            await self.status(peer)
            await self._waited(peer, self._courier.replay_delay(peer.key))
            cursor = 0
            breathe_at = self._clock.monotonic() + SLICE
            while not peer.closed:
                events = await self._outbox.pending(peer.key, cursor, PAGE)
                moved_ns = self._courier.moved_ns
                for read in events:
                    if peer.backlog > self._watermark:
                        await self._drained(peer)
                    if self._clock.monotonic() >= breathe_at:
                        await asyncio.sleep(0)
                        breathe_at = self._clock.monotonic() + SLICE
                    if peer.closed:
                        return count
                    now = self._clock.wall_ns()  # before the event is looked at: this may move it
                    moved = (self._courier.moved_ns - moved_ns) // 1_000_000
                    if self._send(peer, channel, read.moved(moved) if moved else read, parent, now):
                        count += 1
                        channel.replayed[peer.sid] = count
                    cursor = read.seq
                if len(events) < PAGE and self._catch_up(peer, channel, cursor):
                    return count
            return count
        finally:
            if peer.live:  # else `Courier.left` needs to know what was held back
                channel.replay_over(peer.sid)
            self._courier.told(peer.key)
            self._journal.replayed(peer.key, parent, started, count)

    def _send(self, peer: Socket, channel: KeyInFlight, event: StoredEvent, parent: str | None, now_ns: int) -> bool:
        delivery = channel.inflight.get(event.seq)
        if delivery is None:
            delivery = Delivery(event, Mode.REPLAY, now_ns)
        elif delivery.orphaned:
            self._courier.let_go(delivery)
        expired = delivery.event.expires_at <= now_ns // 1_000_000
        if expired or event.seq in channel.resolved or delivery.outcome is not Outcome.PENDING:
            return False
        if not delivery.waiting:
            delivery.replay_parent = parent
        return self._courier.emit(channel, delivery, (peer,), Mode.REPLAY)

    def _catch_up(self, peer: Socket, channel: KeyInFlight, cursor: int) -> bool:
        """Send what was held back, and go live in the same turn of the loop: no gap, no change of order."""
        backlog = channel.backlogs.get(peer.sid)
        if backlog is None or peer.closed:
            return True
        if backlog.overflowed:
            backlog.overflowed = False
            backlog.deliveries.clear()
            return False
        for delivery in backlog.deliveries:
            seq = delivery.event.seq
            if seq > cursor and delivery.outcome is Outcome.PENDING and seq not in channel.resolved:
                self._courier.emit(channel, channel.inflight.get(seq, delivery), (peer,))
        peer.live = True
        return True

    async def _waited(self, peer: Socket, seconds: float) -> None:
        """Let time pass, but not for a client that has gone."""
        until = self._clock.monotonic() + seconds
        while self._clock.monotonic() < until and not peer.closed:  # noqa: ASYNC110  # only a look tells that it has gone
            await asyncio.sleep(_LOOK)

    async def _drained(self, peer: Socket) -> None:
        while peer.backlog > self._watermark and not peer.closed:  # noqa: ASYNC110  # a transport tells nobody when it drains
            await asyncio.sleep(_BREATH)
