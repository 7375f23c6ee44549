"""How an attempt ends: acknowledged, receipted, timed out, or missed. And when an event is sent again.

| seen | what follows |
|---|---|
| acknowledgement of the application | the event ends as `acked` |
| receipt of a client that need not acknowledge | after `ACK_GRACE` without an acknowledgement it ends as `received` |
| receipt of a client that must acknowledge | its time is kept with the attempt |
| neither within the timeout | the attempt is a miss (`ack_timeout`); the event is sent again after a backoff |
| all sockets that could confirm have left | the attempt is a miss (`just_disconnected`); a replay sends it again |
| the outbox ended the event | its open attempt is a miss |
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import Clock
from roundtrip.delivery.deadlines import Deadlines, TimeSlicer
from roundtrip.delivery.inflight import InFlight, KeyInFlight
from roundtrip.delivery.metrics import DeliveryMetrics, DeliverySpans
from roundtrip.delivery.misses import MissRecorder
from roundtrip.delivery.state import ENDED, Delivery, DeliveryState
from roundtrip.delivery.wire import Confirmable, Ending, Miss, Socket, Sockets
from roundtrip.errors import IllegalTransitionError
from roundtrip.faults import Faults
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Attempt, Ended, MissReason, Mode, Outcome, Resolution

log = structlog.get_logger(__name__)

ACK_GRACE: Final = 0.5
"""Seconds that a receipt waits for the acknowledgement which would be the better grade."""


class Confirmations:
    """Receives what clients confirm, times out what they do not, and retries it. Lives on the event loop."""

    def __init__(
        self,
        outbox: Outbox,
        sockets: Sockets,
        inflight: InFlight,
        spans: DeliverySpans,
        metrics: DeliveryMetrics,
        faults: Faults,
        emit: Callable[[KeyInFlight, Delivery, Sequence[Socket], Mode], bool],
        *,
        ack_timeout: float,
        backoff: Backoff,
        clock: Clock,
    ) -> None:
        """`emit` is the courier's; `ack_timeout` is in seconds."""
        self._outbox = outbox
        self._sockets = sockets
        self._channels = inflight.keys
        self._spans = spans
        self._metrics = metrics
        self._faults = faults
        self._emit = emit
        self._backoff = backoff
        self._clock = clock
        self._now_ns = clock.wall_ns
        self._loop = asyncio.get_running_loop()
        self.misses = MissRecorder(outbox, sockets, spans, metrics)
        self.timeouts: Deadlines[Delivery] = Deadlines(
            ack_timeout, self.timed_out, clock=clock, round_over=self.misses.flush, failed=self.failed
        )
        self.graces: Deadlines[Delivery] = Deadlines(ACK_GRACE, self._grace_over, clock=clock, failed=self.failed)
        """`timeouts` are those of open attempts, `graces` of the receipts that wait for an acknowledgement."""
        self.on_settled: Callable[[KeyInFlight | None, Delivery, Resolution], bool] | None = None
        self.on_timeout: Callable[[KeyInFlight | None, Delivery], bool] | None = None
        """On a shared store: whether other nodes have sockets of the key too, and what follows is done there."""
        outbox.on_ended = self._ended

    def failed(self, error: Exception) -> None:
        """Count and log a mistake of this program about one event; the others must not suffer for it."""
        self._metrics.failed()
        log.error("event_failed", error=type(error).__name__, exc_info=error)

    def acked(self, peer: Socket, seq: int) -> None:
        """The application acknowledged. Unknown, late and repeated numbers do no harm."""
        channel = self._channels.get(peer.key)
        if channel is None or self._faults.drop_acks:
            return
        delivery = channel.inflight.get(seq)
        if delivery is not None:
            channel.confirmed = True
            try:
                self._settle(channel, delivery, DeliveryState.ACKED, self._now_ns())
            except IllegalTransitionError as error:
                self.failed(error)
            return
        delivery = channel.received.pop(seq, None)
        if delivery is not None:
            channel.confirmed = True
            delivery.ack_ns = self._now_ns()
            self._outbox.upgrade(peer.key, seq, delivery.ack_ns // 1_000_000)
            self._metrics.upgraded(delivery)
            self._spans.upgraded(delivery)

    def received(self, peer: Socket, sent: Sequence[Confirmable]) -> None:
        """A client's engine has read these. That ends them, unless the client owes an acknowledgement."""
        if self._faults.drop_receipts:
            return
        now = self._now_ns()
        channel = self._channels.get(peer.key)
        for delivery in cast("Sequence[Delivery]", sent):
            state = delivery.state
            if state.outcome is not Outcome.PENDING:
                continue
            if not delivery.receipt_ns:
                delivery.receipt_ns = now
                delivery.receipt_late = not state.waiting
            if not peer.must_ack and not state.receipted:
                try:
                    delivery.change(DeliveryState.RECEIPTED if state.waiting else DeliveryState.LATE_RECEIPT)
                except IllegalTransitionError as error:
                    self.failed(error)
                    continue
                if channel is not None:
                    channel.confirmed = True
                self.graces.add(delivery)

    def _grace_over(self, delivery: Delivery) -> None:
        """No acknowledgement came in the time that a receipt waits for one."""
        channel = self._channels.get(delivery.event.key)
        self._settle(channel, delivery, DeliveryState.RECEIVED)
        if channel is not None:
            channel.remember_received(delivery)

    def _settle(self, channel: KeyInFlight | None, delivery: Delivery, state: DeliveryState, ack_ns: int = 0) -> None:
        """An event was confirmed: its last attempt joins the others, and all of it is written once.

        Raises `IllegalTransitionError`, and then nothing has changed.
        """
        event = delivery.event
        before = delivery.state
        delivery.change(state)
        if before.receipted:
            self.graces.discard(delivery)
        if channel is not None:
            channel.take(event.seq)
        delivery.ack_ns = ack_ns
        receipt_at = delivery.receipt_ns // 1_000_000 or None
        ack_at = ack_ns // 1_000_000 or None
        if before.waiting:
            self.timeouts.discard(delivery)
            delivery.finish(
                Attempt(
                    at=delivery.started_ns // 1_000_000,
                    mode=delivery.mode,
                    sockets=delivery.sockets,
                    receipt_at=receipt_at,
                    ack_at=ack_at,
                    sids=delivery.sids,
                    trace_id=delivery.trace_id,
                )
            )
            self._metrics.sent(delivery)
        else:  # the attempt was given up before its confirmation came
            delivery.attempts[-1].receipt_at = receipt_at
            delivery.attempts[-1].ack_at = ack_at
        at = ack_at or receipt_at or 0
        resolution = Resolution(event.key, event.seq, state.outcome, at, delivery.attempts)
        if self.on_settled is None or not self.on_settled(channel, delivery, resolution):
            self._outbox.resolve(resolution)
            self.confirmed(delivery)

    def confirmed(self, delivery: Delivery) -> None:
        """It is this confirmation that ended the event."""
        self._metrics.delivered(delivery)
        self._spans.settled(delivery)

    def timed_out(self, delivery: Delivery) -> None:
        """Nobody confirmed an attempt in time. Whether it arrived is unknown, so it is sent again."""
        channel = self._channels.get(delivery.event.key)
        if self.on_timeout is None or not self.on_timeout(channel, delivery):
            self.unconfirmed(delivery)

    def unconfirmed(self, delivery: Delivery) -> None:
        """Nor did another node's client."""
        if delivery.state is not DeliveryState.SENT:
            return
        delivery.failures += 1
        self.misses.miss(delivery, Miss(MissReason.ACK_TIMEOUT))
        channel = self._channels.get(delivery.event.key)
        if channel is not None and channel.retry is None:
            channel.retry = self._loop.call_later(self._backoff.delay(delivery.failures), self._retry, channel)
        elif channel is not None:
            channel.retry_again = True

    def _retry(self, channel: KeyInFlight) -> None:
        """Send again, in `seq` order, what clients that must acknowledge did not."""

        def send(seq: int) -> None:
            now = self._now_ns() // 1_000_000  # before the event is looked at: this may move it
            delivery = channel.inflight.get(seq)
            if delivery is None or delivery.state.waiting or delivery.event.expires_at <= now:
                return
            peers = [peer for peer in self._sockets.of(channel.key) if peer.live and peer.must_ack]
            if peers:
                self._emit(channel, delivery, peers, delivery.mode)

        def over() -> None:
            self.misses.flush(channel.key)
            channel.retry = None
            if channel.retry_again:
                channel.retry = self._loop.call_later(self._backoff.delay(1), self._retry, channel)

        channel.retry_again = False
        channel.retry = TimeSlicer(sorted(channel.inflight), send, over, clock=self._clock, failed=self.failed)
        channel.retry.start()

    def abandon(self, channel: KeyInFlight) -> None:
        """The key's last socket has left: end, in slices, the attempts that only its sockets could confirm."""
        channel.stop_retry()
        if channel.leaving is not None:
            channel.leaving.cancel()  # what is left of it is in flight still
        orphans = list(channel.inflight.values())
        channel.orphans = set(orphans)

        def over() -> None:
            self.misses.flush(channel.key)
            channel.leaving = None
            if not self._sockets.of(channel.key) and not channel.held_back:
                self._channels.pop(channel.key, None)

        each = partial(self.release, channel)
        channel.leaving = TimeSlicer(orphans, each, over, clock=self._clock, failed=self.failed)
        channel.leaving.start()

    def release(self, channel: KeyInFlight, delivery: Delivery) -> None:
        """End an orphan's attempt: as received if a receipt stands, else as a miss. Nothing for any other delivery."""
        if delivery not in channel.orphans:
            return
        channel.orphans.discard(delivery)
        state = delivery.state
        if state.receipted:
            self._settle(channel, delivery, DeliveryState.RECEIVED)
        elif state is DeliveryState.SENT or state is DeliveryState.QUEUED:
            self.timeouts.discard(delivery)
            delivery.started_ns = delivery.started_ns or delivery.stored_ns  # if it was held back and never sent
            self.misses.miss(delivery, Miss(MissReason.JUST_DISCONNECTED))

    def _ended(self, ended: Sequence[Ended]) -> None:
        """The outbox ended events itself: superseded by a newer one, or too old."""
        for end in ended:
            try:
                self._end(end)
            except Exception as error:  # noqa: BLE001  # the others have ended all the same
                self.failed(error)
        for key in {end.key for end in ended}:
            self.misses.flush(key)

    def _end(self, end: Ended) -> None:
        channel = self._channels.get(end.key)
        delivery = channel.take(end.seq) if channel is not None else None
        if delivery is None:
            return
        self.timeouts.discard(delivery)
        self.graces.discard(delivery)
        if delivery.state is DeliveryState.SENT:
            self.misses.miss(delivery, Miss(MissReason.ACK_TIMEOUT))
        delivery.change(ENDED[end.outcome])
        self._spans.settled(delivery)

    def ended_elsewhere(self, key: BotKey, seq: int, ending: Ending) -> None:
        """The store says that an event in flight here has ended: another node confirmed it, superseded it or found it
        expired. Nothing is counted, for that node did."""
        if ending.outcome not in (Outcome.ACKED, Outcome.RECEIVED):
            self._ended((Ended(key, seq, ending.outcome),))
            return
        channel = self._channels.get(key)
        delivery = channel.take(seq) if channel is not None else None
        if delivery is not None:
            self.timeouts.discard(delivery)
            self.graces.discard(delivery)
            delivery.end_elsewhere(ending.outcome)

    def close(self) -> None:
        """Stop all timers; what is pending stays in the outbox."""
        self.timeouts.close()
        self.graces.close()
