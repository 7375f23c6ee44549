"""The courier: stores an event, then writes it to the sockets of its key.

The path of one event: `publish` → outbox commit → `_stored` → `emit` → `Confirmations.acked` or `.received`.
It has no task and no timer of its own. Timeouts, retries and misses are in `confirmation.py`; what a socket missed is
sent by `replay.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.arrivals import Arrivals, Parts
from roundtrip.delivery.confirmation import Confirmations
from roundtrip.delivery.inflight import HeldBack, InFlight, KeyInFlight
from roundtrip.delivery.metrics import DeliveryMetrics, DeliverySpans
from roundtrip.delivery.state import Delivery, DeliveryState
from roundtrip.delivery.wire import Elsewhere, Miss, Socket, Sockets, Whereabouts, event_frame
from roundtrip.errors import IllegalTransitionError
from roundtrip.events import SUPERSEDES_ALWAYS, SUPERSEDES_UNSEEN, TYPE_OF, EventType, LinkRow, Payload
from roundtrip.faults import Faults
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Draft, MissReason, Mode, StoredEvent
from roundtrip.telemetry.logging import debug_on
from roundtrip.telemetry.redaction import key_hash

log = structlog.get_logger(__name__)

_MAX_SIDS: Final = 16
"""Sockets of one attempt that its record names; further ones are counted."""

_NO_TYPES: Final[frozenset[EventType]] = frozenset()
_SUPERSEDES: Final = {
    (type_, seen): SUPERSEDES_ALWAYS.get(type_, _NO_TYPES)
    | (_NO_TYPES if seen else SUPERSEDES_UNSEEN.get(type_, _NO_TYPES))
    for type_ in EventType
    for seen in (True, False)
}


def log_event(message: str, event: StoredEvent, **fields: object) -> None:
    """One DEBUG line about an event. Ask `debug_on` first: gathering the fields costs more than an event may."""
    key = key_hash(event.key.user_id, event.key.bot_id)
    ids = {"event_id": event.id, "seq": event.seq, "link_id": event.link_id, "traceparent": event.traceparent}
    log.debug(message, type=event.type.wire, key=key, **ids, **fields)


class Courier:
    """Knows an outbox and sockets, both by their protocols. Lives on the event loop."""

    def __init__(
        self,
        outbox: Outbox,
        sockets: Sockets,
        spans: DeliverySpans,
        metrics: DeliveryMetrics,
        faults: Faults,
        *,
        event_ttl: float,
        ack_timeout: float,
        backoff: Backoff,
        clock: Clock = SYSTEM,
    ) -> None:
        """`event_ttl` and `ack_timeout` are in seconds."""
        self._outbox = outbox
        self._sockets = sockets
        self._spans = spans
        self._faults = faults
        self._ttl_ms = int(event_ttl * 1000)
        self._now_ns = clock.wall_ns
        self._debug = debug_on()
        self._loop = asyncio.get_running_loop()
        self._inflight = InFlight()
        self.metrics = metrics
        self.confirmations = Confirmations(
            outbox,
            sockets,
            self._inflight,
            spans,
            metrics,
            faults,
            self.emit,
            ack_timeout=ack_timeout,
            backoff=backoff,
            clock=clock,
        )
        self.misses = self.confirmations.misses
        self._timeouts = self.confirmations.timeouts
        self.moved_ns = 0
        """The sum of what the clock was set by: who holds times for a while follows its growth."""
        self.on_left: Callable[[KeyInFlight, str], None] = lambda _channel, _sid: None
        """Called first when a socket (by its sid) leaves; set by the replayer."""
        self.arrivals: Arrivals | None = None
        """On a shared store, what concerns other nodes."""
        self.present: Callable[[BotKey], Awaitable[None]] | None = None
        """On a shared store: returns once other nodes see that a key has a socket here. May raise `OutboxError`."""

    def share(self, elsewhere: Elsewhere, why_missing: Callable[[BotKey, Whereabouts], Miss]) -> Arrivals:
        """There are other nodes from now on."""
        parts = self._outbox, self._sockets, self._inflight, self.confirmations, self._spans, self.emit, self._now_ns
        self.arrivals = arrivals = Arrivals(Parts(*parts, lambda: self.moved_ns), elsewhere, why_missing)
        self.confirmations.on_settled, self.confirmations.on_timeout = arrivals.endings.settled, arrivals.endings.waited
        return arrivals

    # publishing

    @property
    def full(self) -> bool:
        """Whether no new event would find room now."""
        return self._outbox.full

    async def check(self) -> None:
        """Return when an event could be stored now. Raises `OutboxError`."""
        await self._outbox.check()

    async def publish(
        self,
        key: BotKey,
        link_id: str,
        payload: Payload,
        *,
        expires_at: int | None = None,
        traceparent: str | None = None,
        state: LinkRow | None = None,
    ) -> StoredEvent:
        """Store an event, and `state` with it, and emit it; returns once it is committed. `expires_at` is in
        milliseconds since the epoch.

        Raises `OutboxError`, and then nothing was stored or emitted.
        """
        stored: asyncio.Future[StoredEvent] = self._loop.create_future()

        def done(result: StoredEvent | OutboxError) -> None:
            try:
                self._stored(result)
            except IllegalTransitionError as error:
                self.confirmations.failed(error)
            if stored.done():
                return
            if isinstance(result, OutboxError):
                stored.set_exception(result)
            else:
                stored.set_result(result)

        self._outbox.append(self._draft(key, link_id, payload, expires_at, traceparent, state), done)
        return await stored

    def _draft(
        self,
        key: BotKey,
        link_id: str,
        payload: Payload,
        expires_at: int | None,
        traceparent: str | None,
        state: LinkRow | None,
    ) -> Draft:
        now = self._now_ns() // 1_000_000
        end = now + self._ttl_ms
        seen = bool(self._sockets.of(key)) or (self.arrivals is not None and self.arrivals.elsewhere.seen(key))
        return Draft(
            key,
            link_id,
            payload,
            now,
            end if expires_at is None else min(end, expires_at),
            self._spans.context(traceparent),
            _SUPERSEDES[TYPE_OF[type(payload)], seen],
            state,
        )

    def _stored(self, event: StoredEvent | OutboxError) -> None:
        """An event is committed: emit it to the sockets of its key, or record why there are none."""
        if isinstance(event, OutboxError):
            log.error("event_not_stored", code=event.code)
            return
        moved_ns = self.moved_ns
        now = self._now_ns()
        if self.moved_ns != moved_ns:  # reading the clock noticed that it was set: the event has the old times
            event = event.moved((self.moved_ns - moved_ns) // 1_000_000)
        delivery = Delivery(event, Mode.LIVE, now)
        key = BotKey(event.key.user_id, event.key.user_id) if self._faults.key_mismatch else event.key
        peers = self._sockets.of(key)
        arrivals = self.arrivals
        if self._debug:
            log_event("emit_attempt", event, sockets=len(peers), looked_for=key_hash(key.user_id, key.bot_id))
        if not peers:
            delivery.started_ns = delivery.stored_ns
            if self._sockets.of(event.key):  # looked for under another key
                self._inflight.of(event.key).overlooked[event.seq] = event.created_at * 1_000_000
            if arrivals is not None and arrivals.elsewhere.remembers:
                arrivals.sought(delivery, key)
                return
            self.misses.miss(delivery, self._sockets.why_missing(key), looked_for=key)
            self.misses.flush(event.key)
            return
        channel = self._inflight.of(key)
        if arrivals is not None and not arrivals.in_turn(channel, event.seq):
            return
        if channel.held_back:
            channel.hold_back(delivery)
            peers = [peer for peer in peers if peer.live]
        if peers and not self.emit(channel, delivery, peers):
            self.misses.flush(event.key)

    # emitting

    def emit(self, channel: KeyInFlight, delivery: Delivery, peers: Iterable[Socket], mode: Mode = Mode.LIVE) -> bool:
        """Write an event to these sockets: a new attempt, or more sockets of the open one. Whether one took it.

        Nothing is written of an event that has ended, or whose attempt was given up and that a receipt is about to end.
        Raises `IllegalTransitionError`.
        """
        if channel.orphans:
            self.confirmations.release(channel, delivery)
        state = delivery.state
        if not state.sendable:
            return False
        if not state.waiting:
            delivery.mode = mode
            delivery.started_ns = self._now_ns()
            delivery.receipt_ns = 0
            delivery.sids = ()
            delivery.sockets = 0
        event = delivery.event
        frame = event_frame(event, mode, delivery.tried + 1)
        reason = MissReason.SEND_FAILED
        taken = False
        for peer in peers:
            failed = peer.send(frame)
            if failed is None:
                taken = True
                if delivery.sockets < _MAX_SIDS:
                    delivery.sids += (peer.sid,)
                delivery.sockets += 1
                peer.confirm(delivery)
            else:
                reason = failed
        if self._debug and taken:
            log_event("event_emitted", event, mode=mode, attempt=delivery.tried + 1, sids=delivery.sids)
        if taken and not delivery.state.waiting:
            delivery.change(DeliveryState.SENT)
            channel.inflight[event.seq] = delivery
            self._timeouts.add(delivery)
        elif not delivery.state.waiting:
            self.misses.miss(delivery, Miss(reason))
        return taken

    # sockets come and go

    def joined(self, peer: Socket) -> KeyInFlight:
        """A socket is mapped; what comes from now on is held back until its replay is over."""
        channel = self._inflight.of(peer.key)
        now_ns = self._now_ns()
        if len(self._sockets.of(peer.key)) == 1:
            channel.since_ns = now_ns
        channel.held_back[peer.sid] = HeldBack(now_ns)
        return channel

    def left(self, peer: Socket) -> None:
        """A socket is unmapped. What only it could have confirmed has missed."""
        channel = self._inflight.keys.get(peer.key)
        if channel is None:
            return
        self.on_left(channel, peer.sid)
        held_back = channel.held_back.get(peer.sid)
        channel.replay_over(peer.sid)
        if self._sockets.of(peer.key):
            return
        if held_back is not None:
            for delivery in held_back.deliveries:
                channel.inflight.setdefault(delivery.event.seq, delivery)
        self.confirmations.abandon(channel)

    # the program's clock and end

    def moved(self, ns: int) -> None:
        """The clock was set by `ns` nanoseconds: what is in memory follows."""
        self.moved_ns += ns
        self._inflight.moved(ns)

    def longest_wait(self) -> float:
        """Seconds for which the oldest pending event has had a socket of its key, 0.0 when none does."""
        return self._inflight.longest_wait_ns(self._now_ns()) / 1e9

    def in_flight(self) -> int:
        """Attempts that wait for a confirmation."""
        return self._inflight.waiting()

    def close(self) -> None:
        """Stop all timers; what is pending stays in the outbox."""
        self.confirmations.close()
        self._inflight.close()
