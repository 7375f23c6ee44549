"""What is in flight: per key, the events in memory because a socket may yet confirm them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Final

from roundtrip.delivery.deadlines import TimeSlicer
from roundtrip.delivery.state import Delivery
from roundtrip.identity import BotKey

REMEMBERED: Final = 256
"""Received events of a key whose late acknowledgement still raises their grade."""

HELD_BACK_LIMIT: Final = 1_000
"""Live events that are held back in memory while a socket's replay runs; past it they are read from the outbox."""


class HeldBack:
    """The live events of one key that came while a socket's replay runs, in `seq` order."""

    __slots__ = ("deliveries", "overflowed")

    def __init__(self) -> None:
        self.deliveries: deque[Delivery] = deque()
        self.overflowed = False
        """Some were not kept: the outbox has them."""

    def add(self, delivery: Delivery) -> None:
        if len(self.deliveries) >= HELD_BACK_LIMIT:
            self.overflowed = True
        if not self.overflowed:
            self.deliveries.append(delivery)


class KeyInFlight:
    """What is in flight for one key. It exists while the key has sockets."""

    __slots__ = (
        "confirmed",
        "held_back",
        "inflight",
        "key",
        "leaving",
        "orphans",
        "received",
        "replayed",
        "resolved",
        "retry",
        "retry_again",
    )

    def __init__(self, key: BotKey) -> None:
        self.key = key
        self.inflight: dict[int, Delivery] = {}
        """Pending and written to a socket, by seq."""
        self.received: OrderedDict[int, Delivery] = OrderedDict()
        """Ended by a receipt, by seq."""
        self.held_back: dict[str, HeldBack] = {}
        """By sid, of the sockets whose replay runs."""
        self.resolved: set[int] = set()
        """Events that ended while a replay runs, which may have read them before."""
        self.retry: asyncio.TimerHandle | TimeSlicer[int] | None = None
        """A retry that waits for its time, or is under way."""
        self.retry_again = False
        """An attempt timed out while a retry was under way, which may have passed it by."""
        self.orphans: set[Delivery] = set()
        """Deliveries all of whose sockets have left, and whose attempts are not ended yet."""
        self.leaving: TimeSlicer[Delivery] | None = None
        """Ends the attempts of the orphans."""
        self.replayed: dict[str, int] = {}
        """By sid, how many events the socket's replay has sent."""
        self.confirmed = False
        """Something was confirmed since a socket last left."""

    def hold_back(self, delivery: Delivery) -> None:
        """Keep a live event for the sockets whose replay runs."""
        for held_back in self.held_back.values():
            held_back.add(delivery)

    def take(self, seq: int) -> Delivery | None:
        """An event ended: it is in flight no more, and no replay may send it."""
        if self.held_back:
            self.resolved.add(seq)
        return self.inflight.pop(seq, None)

    def remember_received(self, delivery: Delivery) -> None:
        self.received[delivery.event.seq] = delivery
        if len(self.received) > REMEMBERED:
            self.received.popitem(last=False)

    def replay_over(self, sid: str) -> None:
        self.held_back.pop(sid, None)
        if not self.held_back:
            self.resolved.clear()

    def moved(self, ns: int) -> None:
        """The clock was set by `ns` nanoseconds."""
        held = [delivery for held_back in self.held_back.values() for delivery in held_back.deliveries]
        for delivery in {*self.inflight.values(), *self.received.values(), *held}:
            delivery.moved(ns)

    def stop_retry(self) -> None:
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.retry_again = False

    def close(self) -> None:
        """Cancel the retry; finish writing the misses of sockets that left."""
        self.stop_retry()
        if self.leaving is not None:
            self.leaving.finish()
            self.leaving = None


class InFlight:
    """What is in flight, by key."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: dict[BotKey, KeyInFlight] = {}

    def of(self, key: BotKey) -> KeyInFlight:
        """The key's own, made when it is first asked for."""
        channel = self.keys.get(key)
        if channel is None:
            channel = self.keys[key] = KeyInFlight(key)
        return channel

    def waiting(self) -> int:
        """Open attempts of all keys."""
        return sum(d.state.waiting for channel in self.keys.values() for d in channel.inflight.values())

    def moved(self, ns: int) -> None:
        """The clock was set by `ns` nanoseconds."""
        for channel in self.keys.values():
            channel.moved(ns)

    def close(self) -> None:
        for channel in list(self.keys.values()):
            channel.close()
