"""What a socket missed: the snapshot first, then the pending events in `seq` order, then the live ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from backend.delivery.channel import Channel
from backend.delivery.courier import Courier
from backend.delivery.journal import Delivery, Journal
from backend.delivery.outbox import Outbox, StoredEvent
from backend.delivery.outcome import Mode, Outcome
from backend.delivery.sockets import Socket
from backend.delivery.wire import status_frame
from backend.identity import BotKey

log = structlog.get_logger(__name__)

PAGE: Final = 500
"""Events read from the outbox at once."""

_BREATH: Final = 0.01
"""Seconds between two looks at a slow client's backlog."""


class Replayer:
    """Brings one socket after another up to date."""

    def __init__(
        self,
        outbox: Outbox,
        courier: Courier,
        journal: Journal,
        snapshot: Callable[[BotKey, int], msgspec.Struct],
        *,
        watermark: int,
    ) -> None:
        """`snapshot` gives what is true for a key whose newest event has this `seq`; `watermark` is the bytes of
        backlog past which a replay waits for its client to read."""
        self._outbox = outbox
        self._courier = courier
        self._journal = journal
        self._snapshot = snapshot
        self._watermark = watermark

    async def status(self, peer: Socket) -> None:
        """Send the snapshot, behind everything that was sent before."""
        seq = await self._outbox.last_seq(peer.key)
        peer.send(status_frame(self._snapshot(peer.key, seq)))

    async def run(self, peer: Socket, channel: Channel, connect_parent: str | None) -> int:
        """Bring a socket that `Courier.joined` up to date, and make it live; returns how many events it sent.

        Raises `OutboxError` when the outbox cannot be read.
        """
        started = time.time_ns()
        parent = self._journal.replay(peer.key, peer.sid, connect_parent)
        count = 0
        try:
            await self.status(peer)
            cursor = 0
            while not peer.closed:
                events = await self._outbox.pending(peer.key, cursor, PAGE)
                for event in events:
                    if peer.backlog > self._watermark:
                        await self._drained(peer)
                    if peer.closed:
                        return count
                    count += self._send(peer, channel, event, parent)
                    cursor = event.seq
                if len(events) < PAGE and self._catch_up(peer, channel, cursor):
                    return count
            return count
        finally:
            channel.replay_over(peer.sid)
            self._journal.replayed(peer.key, parent, started, count)

    def _send(self, peer: Socket, channel: Channel, event: StoredEvent, parent: str | None) -> bool:
        if event.seq in channel.resolved or event.expires_at <= time.time_ns() // 1_000_000:
            return False
        delivery = channel.inflight.get(event.seq)
        if delivery is None:
            delivery = Delivery(event, Mode.REPLAY, time.time_ns())
        if not delivery.waiting:
            delivery.replay_parent = parent
        return self._courier.emit(channel, delivery, (peer,), Mode.REPLAY)

    def _catch_up(self, peer: Socket, channel: Channel, cursor: int) -> bool:
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

    async def _drained(self, peer: Socket) -> None:
        while peer.backlog > self._watermark and not peer.closed:  # noqa: ASYNC110  # a transport tells nobody when it drains
            await asyncio.sleep(_BREATH)
