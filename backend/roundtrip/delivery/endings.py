"""How events end of which several nodes of a shared store have sockets: confirmed on each, and counted once.

Which confirmation was the first is the store's to say, and so is whether a client of another node confirmed what nobody
did here.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from roundtrip.delivery.confirmation import Confirmations
from roundtrip.delivery.inflight import InFlight, KeyInFlight
from roundtrip.delivery.metrics import DeliverySpans
from roundtrip.delivery.state import Delivery, DeliveryState
from roundtrip.delivery.wire import Elsewhere, Ending, Whereabouts
from roundtrip.errors import IllegalTransitionError
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Mode, Outcome, Resolution

PATIENCE: Final = 0.25
"""Seconds that a confirmation is not written for which other nodes read the event: its payload is deleted with it."""


class Endings:
    """One node's. Lives on the event loop."""

    def __init__(
        self,
        outbox: Outbox,
        inflight: InFlight,
        confirmations: Confirmations,
        spans: DeliverySpans,
        elsewhere: Elsewhere,
    ) -> None:
        self._outbox = outbox
        self._inflight = inflight
        self._confirmations = confirmations
        self._spans = spans
        self._elsewhere = elsewhere
        self._unwritten: dict[tuple[BotKey, int], tuple[KeyInFlight, Delivery, Resolution]] = {}

    def settled(self, channel: KeyInFlight | None, delivery: Delivery, resolution: Resolution) -> bool:
        """An event was confirmed here. Whether other nodes may confirm it too, and it is written and counted here."""
        if channel is None:
            return False
        if channel.shared:
            self._unwritten[resolution.key, resolution.seq] = channel, delivery, resolution
            asyncio.get_running_loop().call_later(PATIENCE, self._write, resolution.key, resolution.seq)
            return True
        if delivery.mode is Mode.REPLAY and self._elsewhere.others:  # the client may have come from another node
            self._resolve(channel, delivery, resolution)
            return True
        return False

    def has_settled(self, key: BotKey, seq: int) -> bool:
        """Whether an event that the store has as pending was confirmed here."""
        return (key, seq) in self._unwritten

    def _write(self, key: BotKey, seq: int) -> None:
        entry = self._unwritten.pop((key, seq), None)
        if entry is None:
            return
        channel = self._inflight.keys.get(key)
        if channel is not None and channel.held_back:
            channel.resolved.add(seq)  # a replay may have read it before
        self._resolve(*entry)

    def _resolve(self, channel: KeyInFlight, delivery: Delivery, resolution: Resolution) -> None:
        self._outbox.resolve(resolution)
        self._elsewhere.ask(resolution.key, resolution.seq, partial(self._resolved, channel, delivery))

    def _resolved(self, channel: KeyInFlight, delivery: Delivery, ending: Ending | None) -> None:
        event = delivery.event
        if ending is None or ending.here:
            self._confirmations.confirmed(delivery)
            if channel.shared:  # it has ended for the others too
                self._elsewhere.announce(event.key, True, partial(_also, channel))
            return
        if not delivery.foreign and delivery.mode is Mode.LIVE and delivery.tried == 1:
            self._spans.created(Delivery(event, Mode.LIVE, delivery.stored_ns))  # the other node does not
        if delivery.state is DeliveryState.ACKED and ending.outcome is Outcome.RECEIVED:
            self._outbox.upgrade(event.key, event.seq, delivery.ack_ns // 1_000_000)

    def waited(self, channel: KeyInFlight | None, delivery: Delivery) -> bool:
        """Nobody here confirmed an event in time. Whether a client of another node may have: the store is asked."""
        if channel is None or not channel.shared:
            return False
        key, seq = delivery.event.key, delivery.event.seq
        self._elsewhere.ask(key, seq, partial(self._waited, delivery))
        return True

    def _waited(self, delivery: Delivery, ending: Ending | None) -> None:
        event = delivery.event
        if ending is not None:
            self.ended(event.key, event.seq, ending)
            return
        try:
            self._confirmations.unconfirmed(delivery)
        except IllegalTransitionError as error:
            self._confirmations.failed(error)
        self._confirmations.misses.flush(event.key)

    def ended(self, key: BotKey, seq: int, ending: Ending | None) -> None:
        """What became of an event that is in flight here, as the store has it."""
        if ending is not None:
            self._confirmations.ended_elsewhere(key, seq, ending)

    def close(self) -> None:
        """Write what was confirmed."""
        for key, seq in list(self._unwritten):
            self._write(key, seq)


def _also(channel: KeyInFlight, found: Whereabouts) -> None:
    channel.shared = bool(found.nodes)
