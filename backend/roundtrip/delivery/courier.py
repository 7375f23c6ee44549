"""The courier: stores an event, emits it to whoever is there, and sees to it until somebody confirms it.

The path of one event: `publish` → outbox commit → `_stored` → sockets → `acked` or `received` → `_settle`.
It has no task and no timer of its own. What a socket missed is `replay.py`'s, what nobody acknowledged `retry.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, cast

import structlog

from roundtrip.backoff import Backoff
from roundtrip.clock import SYSTEM, Clock
from roundtrip.delivery.confirmation import Deadlines, MissRecorder
from roundtrip.delivery.inflight import Backlog, KeyInFlight, ReplayThrottle, TimeSlicer
from roundtrip.delivery.spans import Delivery, DeliveryMetrics, DeliverySpans
from roundtrip.delivery.wire import Confirmable, Miss, Socket, Sockets, event_frame
from roundtrip.events import SUPERSEDES_ALWAYS, SUPERSEDES_UNSEEN, TYPE_OF, EventType, Payload
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Attempt, Draft, Ended, MissReason, Mode, Outcome, Resolution, StoredEvent
from roundtrip.telemetry.logging import debug_on
from roundtrip.telemetry.redaction import key_hash

log = structlog.get_logger(__name__)

SETTLE: Final = 0.5
"""Seconds that a receipt waits for the acknowledgement which would be the better grade."""

_SIDS_KEPT: Final = 16
"""Sockets of one attempt that it names; further ones it counts."""

_NO_TYPES: Final[frozenset[EventType]] = frozenset()
_SUPERSEDES: Final = {
    (type_, seen): SUPERSEDES_ALWAYS.get(type_, _NO_TYPES)
    | (_NO_TYPES if seen else SUPERSEDES_UNSEEN.get(type_, _NO_TYPES))
    for type_ in EventType
    for seen in (True, False)
}


def say(what: str, event: StoredEvent, **more: object) -> None:
    """One DEBUG line about an event. Ask `debug_on` first: gathering the fields costs more than an event may."""
    key = key_hash(event.key.user_id, event.key.bot_id)
    ids = {"event_id": event.id, "seq": event.seq, "link_id": event.link_id, "traceparent": event.traceparent}
    log.debug(what, type=event.type.wire, key=key, **ids, **more)


class Switches(Protocol):
    """The faults that delivery plays, all off unless a developer asks."""

    drop_acks: bool
    drop_receipts: bool
    key_mismatch: bool


class Courier:
    """Knows an outbox and sockets, both by their protocols. Lives on the event loop."""

    def __init__(
        self,
        outbox: Outbox,
        sockets: Sockets,
        journal: DeliverySpans,
        meter: DeliveryMetrics,
        switches: Switches,
        *,
        event_ttl: float,
        ack_timeout: float,
        backoff: Backoff,
        clock: Clock = SYSTEM,
    ) -> None:
        """`event_ttl` and `ack_timeout` are in seconds."""
        self._outbox = outbox
        self._sockets = sockets
        self._journal = journal
        self._meter = meter
        self._switches = switches
        self._ttl_ms = int(event_ttl * 1000)
        self._backoff = backoff
        self._clock = clock
        self._now_ns = clock.wall_ns
        self._misses = MissRecorder(outbox, sockets, journal, meter)
        self._pace = ReplayThrottle(clock)
        self._debug = debug_on()
        self._loop = asyncio.get_running_loop()
        self._channels: dict[BotKey, KeyInFlight] = {}
        self.moved_ns = 0
        """The sum of what the clock was set by: who keeps times for a while follows its growth."""
        self._due: Deadlines[Delivery] = Deadlines(
            ack_timeout, self._overdue, clock=clock, over=self._misses.tell, failed=self._failed
        )
        self._settling: Deadlines[Delivery] = Deadlines(SETTLE, self._receipt_stands, clock=clock, failed=self._failed)
        outbox.on_ended = self._ended

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
    ) -> StoredEvent:
        """Store an event and emit it; returns once it is committed. `expires_at` is in milliseconds since the epoch.

        Raises `OutboxError`, and then nothing was stored or emitted.
        """
        stored: asyncio.Future[StoredEvent] = self._loop.create_future()

        def done(result: StoredEvent | OutboxError) -> None:
            self._stored(result)
            if stored.done():
                return
            if isinstance(result, OutboxError):
                stored.set_exception(result)
            else:
                stored.set_result(result)

        self._outbox.append(self._draft(key, link_id, payload, expires_at, traceparent), done)
        return await stored

    def post(self, key: BotKey, link_id: str, payload: Payload) -> None:
        """Like `publish`, for a caller who does not wait; a failure is logged."""
        self._outbox.append(self._draft(key, link_id, payload, None, None), self._stored)

    def _draft(
        self, key: BotKey, link_id: str, payload: Payload, expires_at: int | None, traceparent: str | None
    ) -> Draft:
        now = self._now_ns() // 1_000_000
        end = now + self._ttl_ms
        return Draft(
            key,
            link_id,
            payload,
            now,
            end if expires_at is None else min(end, expires_at),
            self._journal.context(traceparent),
            _SUPERSEDES[TYPE_OF[type(payload)], bool(self._sockets.of(key))],
        )

    def _stored(self, event: StoredEvent | OutboxError) -> None:
        """An event is committed: emit it to whoever is there."""
        if isinstance(event, OutboxError):
            log.error("event_not_stored", code=event.code)
            return
        moved_ns = self.moved_ns
        now = self._now_ns()
        if self.moved_ns != moved_ns:  # it was told by the clock of a moment ago
            event = event.moved((self.moved_ns - moved_ns) // 1_000_000)
        delivery = Delivery(event, Mode.LIVE, now)
        key = BotKey(event.key.user_id, event.key.user_id) if self._switches.key_mismatch else event.key
        peers = self._sockets.of(key)
        if self._debug:
            say("emit_attempt", event, sockets=len(peers), looked_for=key_hash(key.user_id, key.bot_id))
        if not peers:
            delivery.started_ns = delivery.stored_ns
            self._misses.miss(delivery, self._sockets.why_missing(key), looked_for=key)
            self._misses.tell(event.key)
            return
        channel = self._channel(key)
        if channel.backlogs:
            channel.hold_back(delivery)
            peers = [peer for peer in peers if peer.live]
        if peers and not self.emit(channel, delivery, peers):
            self._misses.tell(event.key)

    # emitting

    def emit(self, channel: KeyInFlight, delivery: Delivery, peers: Iterable[Socket], mode: Mode = Mode.LIVE) -> bool:
        """Write an event to these sockets: a new attempt, or more sockets of the open one. Whether one took it."""
        if delivery.orphaned:
            self.let_go(delivery)
            if delivery.outcome is not Outcome.PENDING:
                return False
        if not delivery.waiting:
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
                if delivery.sockets < _SIDS_KEPT:
                    delivery.sids += (peer.sid,)
                delivery.sockets += 1
                peer.confirm(delivery)
            else:
                reason = failed
        if self._debug and taken:
            say("event_emitted", event, mode=mode, attempt=delivery.tried + 1, sids=delivery.sids)
        if taken and not delivery.waiting:
            delivery.waiting = True
            channel.inflight[event.seq] = delivery
            self._due.add(delivery)
        elif not delivery.waiting:
            self._misses.miss(delivery, Miss(reason))
        return taken

    def told(self, key: BotKey) -> None:
        """A replay of the key is over: say now what missed in it."""
        self._misses.tell(key)

    def _failed(self, error: Exception) -> None:
        """A mistake of this program about one event; the others must not suffer for it."""
        self._meter.failed()
        log.error("event_failed", error=type(error).__name__, exc_info=error)

    # confirmations

    def acked(self, peer: Socket, seq: int) -> None:
        """The application acknowledged. Unknown, late and repeated numbers do no harm."""
        channel = self._channels.get(peer.key)
        if channel is None or self._switches.drop_acks:
            return
        delivery = channel.take(seq) if seq in channel.inflight else None
        if delivery is not None:
            channel.confirmed = True
            if delivery.confirmed:
                self._settling.discard(delivery)
            delivery.ack_ns = self._now_ns()
            self._settle(delivery, Outcome.ACKED)
            return
        delivery = channel.received.pop(seq, None)
        if delivery is not None:
            channel.confirmed = True
            delivery.ack_ns = self._now_ns()
            self._outbox.upgrade(peer.key, seq, delivery.ack_ns // 1_000_000)
            self._meter.upgraded(delivery)
            self._journal.upgraded(delivery)

    def received(self, peer: Socket, sent: Sequence[Confirmable]) -> None:
        """A client's engine has read these. That ends them, unless the client owes an acknowledgement."""
        if self._switches.drop_receipts:
            return
        now = self._now_ns()
        channel = self._channels.get(peer.key)
        for delivery in cast("Sequence[Delivery]", sent):
            if delivery.outcome is not Outcome.PENDING:
                continue
            delivery.receipt_ns = delivery.receipt_ns or now
            if not peer.must_ack and not delivery.confirmed:
                delivery.confirmed = True
                if channel is not None:
                    channel.confirmed = True
                self._settling.add(delivery)

    def _receipt_stands(self, delivery: Delivery) -> None:
        """No acknowledgement came in the moment that a receipt waits for one."""
        if delivery.outcome is not Outcome.PENDING:
            return
        channel = self._channels.get(delivery.event.key)
        if channel is not None:
            channel.take(delivery.event.seq)
            channel.remember_received(delivery)
        self._settle(delivery, Outcome.RECEIVED)

    def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """An event was confirmed: its last attempt joins the others, and all of it is written once."""
        event = delivery.event
        delivery.outcome = outcome
        receipt_at = delivery.receipt_ns // 1_000_000 or None
        ack_at = delivery.ack_ns // 1_000_000 or None
        if delivery.waiting:
            self._due.discard(delivery)
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
            self._meter.sent(delivery)
        else:  # the attempt was given up before its confirmation came
            delivery.attempts[-1].receipt_at = receipt_at
            delivery.attempts[-1].ack_at = ack_at
        self._outbox.resolve(Resolution(event.key, event.seq, outcome, ack_at or receipt_at or 0, delivery.attempts))
        self._meter.delivered(delivery)
        self._journal.settled(delivery)

    def _overdue(self, delivery: Delivery) -> None:
        """Nobody confirmed an attempt in time: that says "unknown", not "lost"."""
        if not delivery.waiting or delivery.confirmed:
            return
        delivery.failures += 1
        self._misses.miss(delivery, Miss(MissReason.ACK_TIMEOUT))
        channel = self._channels.get(delivery.event.key)
        if channel is None:
            return
        if channel.retry is None:
            delay = self._backoff.delay(delivery.failures)
            channel.retry = self._loop.call_later(delay, self._retry, channel)
        else:
            channel.again = True

    def _retry(self, channel: KeyInFlight) -> None:
        """Send again, in `seq` order, what clients that must acknowledge did not."""

        def send(seq: int) -> None:
            now = self._now_ns() // 1_000_000  # before the event is looked at: this may move it
            delivery = channel.inflight.get(seq)
            if delivery is None or delivery.waiting or delivery.confirmed or delivery.event.expires_at <= now:
                return
            peers = [peer for peer in self._sockets.of(channel.key) if peer.live and peer.must_ack]
            if peers:
                self.emit(channel, delivery, peers, delivery.mode)

        def over() -> None:
            self._misses.tell(channel.key)
            channel.retry = None
            if channel.again:
                channel.retry = self._loop.call_later(self._backoff.delay(1), self._retry, channel)

        channel.again = False
        work = channel.retry = TimeSlicer(sorted(channel.inflight), send, over, clock=self._clock, failed=self._failed)
        work.start()

    def _ended(self, ended: Sequence[Ended]) -> None:
        """The outbox ended events itself: superseded by a newer one, or too old."""
        for end in ended:
            try:
                self._end(end)
            except Exception as error:  # noqa: BLE001  # the others have ended all the same
                self._failed(error)
        for key in {end.key for end in ended}:
            self._misses.tell(key)

    def _end(self, end: Ended) -> None:
        channel = self._channels.get(end.key)
        delivery = channel.take(end.seq) if channel is not None else None
        if delivery is None or delivery.outcome is not Outcome.PENDING:
            return
        if delivery.waiting:
            self._due.discard(delivery)
            if not delivery.confirmed:
                self._misses.miss(delivery, Miss(MissReason.ACK_TIMEOUT))
        self._settling.discard(delivery)
        delivery.outcome = end.outcome
        self._journal.settled(delivery)

    def moved(self, ns: int) -> None:
        """The clock was set by `ns` nanoseconds: what is in memory follows."""
        self.moved_ns += ns
        for channel in self._channels.values():
            channel.moved(ns)

    # sockets come and go

    def joined(self, peer: Socket) -> KeyInFlight:
        """A socket is mapped; what comes from now on waits until its replay is over."""
        channel = self._channel(peer.key)
        channel.backlogs[peer.sid] = Backlog()
        return channel

    def left(self, peer: Socket) -> None:
        """A socket is unmapped. What only it could have confirmed has missed."""
        channel = self._channels.get(peer.key)
        if channel is None:
            return
        self._keep_pace(channel, peer.sid)
        backlog = channel.backlogs.get(peer.sid)
        channel.replay_over(peer.sid)
        if self._sockets.of(peer.key):
            return
        channel.stop_retry()
        if channel.leaving is not None:
            channel.leaving.cancel()  # what is left of it is in flight still
        for delivery in () if backlog is None else backlog.deliveries:
            channel.inflight.setdefault(delivery.event.seq, delivery)
        orphans = list(channel.inflight.values())
        for delivery in orphans:
            delivery.orphaned = True

        def over() -> None:
            self._misses.tell(channel.key)
            channel.leaving = None
            if not self._sockets.of(channel.key) and not channel.backlogs:
                self._channels.pop(channel.key, None)

        work = channel.leaving = TimeSlicer(orphans, self.let_go, over, clock=self._clock, failed=self._failed)
        work.start()

    def let_go(self, delivery: Delivery) -> None:
        """The sockets that could have confirmed an event have left: say so, once."""
        if not delivery.orphaned or delivery.outcome is not Outcome.PENDING:
            return
        delivery.orphaned = False
        if delivery.confirmed:
            self._settling.discard(delivery)
            self._settle(delivery, Outcome.RECEIVED)
        elif delivery.waiting:
            self._due.discard(delivery)
            self._misses.miss(delivery, Miss(MissReason.JUST_DISCONNECTED))
        elif not delivery.tried:
            delivery.started_ns = delivery.stored_ns
            self._misses.miss(delivery, Miss(MissReason.JUST_DISCONNECTED))

    def _keep_pace(self, channel: KeyInFlight, sid: str) -> None:
        replayed = channel.replayed.pop(sid, 0)
        if channel.confirmed:
            channel.confirmed = False
            self._pace.confirmed(channel.key)
        elif replayed:
            self._pace.unconfirmed(channel.key)

    def replay_delay(self, key: BotKey) -> float:
        """Seconds that a replay must wait, for the key's clients come and go without confirming anything."""
        delay = self._pace.delay(key)
        if delay:
            self._meter.slowed()
        return delay

    def _channel(self, key: BotKey) -> KeyInFlight:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = KeyInFlight(key)
        return channel

    def in_flight(self) -> int:
        """Attempts that wait for a confirmation."""
        return sum(d.waiting for channel in self._channels.values() for d in channel.inflight.values())

    def close(self) -> None:
        """Stop all timers; what is pending stays in the outbox."""
        self._due.close()
        self._settling.close()
        for channel in list(self._channels.values()):
            channel.close()
