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

    __slots__ = ("deliveries", "overflowed", "since_ns")

    def __init__(self, since_ns: int = 0) -> None:
        self.since_ns = since_ns
        """When the socket connected. Nanoseconds since the epoch."""
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
        "accounted",
        "confirmed",
        "held_back",
        "inflight",
        "key",
        "leaving",
        "orphans",
        "overlooked",
        "received",
        "replayed",
        "resolved",
        "retry",
        "retry_again",
        "shared",
        "since_ns",
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
        self.since_ns = 0
        """Since when the key has had a socket. Nanoseconds since the epoch."""
        self.overlooked: dict[int, int] = {}
        """Events that missed although the key has a socket, until they end: when they were created, by seq. Nanoseconds
        since the epoch."""
        self.accounted: int | None = None
        """On a shared store: the `seq` up to which the live sockets were sent all that was pending. None while there
        are none."""
        self.shared = False
        """Whether another node has sockets of the key too, as far as is known."""

    def hold_back(self, delivery: Delivery) -> None:
        """Keep a live event for the sockets whose replay runs."""
        for held_back in self.held_back.values():
            held_back.add(delivery)

    def take(self, seq: int) -> Delivery | None:
        """An event ended: it is in flight no more, and no replay may send it."""
        if self.held_back:
            self.resolved.add(seq)
        if self.overlooked:
            self.overlooked.pop(seq, None)
        return self.inflight.pop(seq, None)

    def waits_since(self, now_ns: int) -> int:
        """Since when an event has waited although the key has a socket, `now_ns` if none does. A replay counts from its
        socket's connect: what it has not read yet may be pending."""
        since = min((held_back.since_ns for held_back in self.held_back.values()), default=now_ns)
        if self.inflight:
            oldest = next(iter(self.inflight.values()))  # in the order in which they were sent first
            since = min(since, max(self.since_ns, oldest.event.created_at * 1_000_000))
        if self.overlooked:
            since = min(since, max(self.since_ns, next(iter(self.overlooked.values()))))
        return since

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
        self.since_ns += ns
        for held_back in self.held_back.values():
            held_back.since_ns += ns
        self.overlooked = {seq: created + ns for seq, created in self.overlooked.items()}

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

    def longest_wait_ns(self, now_ns: int) -> int:
        """For how long an event of any key has waited although the key has a socket, 0 when none does."""
        waiting = (c for c in self.keys.values() if (c.inflight or c.held_back or c.overlooked) and c.leaving is None)
        return max(0, now_ns - min((channel.waits_since(now_ns) for channel in waiting), default=now_ns))

    def moved(self, ns: int) -> None:
        """The clock was set by `ns` nanoseconds."""
        for channel in self.keys.values():
            channel.moved(ns)

    def close(self) -> None:
        for channel in list(self.keys.values()):
            channel.close()
