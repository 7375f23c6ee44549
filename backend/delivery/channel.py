"""The deliveries of one key that are in memory, because a socket may yet confirm them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from backend.delivery.journal import Delivery
from backend.delivery.slices import Slices
from backend.identity import BotKey

REMEMBERED: Final = 256
"""Receipted events of a key whose late acknowledgement still raises their grade."""

BACKLOG: Final = 1_000
"""Live events that a socket's replay holds back in memory; past it they are read from the outbox instead."""


class Backlog:
    """What came while a socket's replay runs, in `seq` order."""

    __slots__ = ("deliveries", "overflowed")

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.overflowed = False
        """Some were not kept: the outbox has them."""

    def add(self, delivery: Delivery) -> None:
        if len(self.deliveries) >= BACKLOG:
            self.overflowed = True
        if not self.overflowed:
            self.deliveries.append(delivery)


class Channel:
    """What is in flight for one key. It exists while the key has sockets."""

    __slots__ = (
        "again",
        "backlogs",
        "confirmed",
        "inflight",
        "key",
        "leaving",
        "received",
        "replayed",
        "resolved",
        "retry",
    )

    def __init__(self, key: BotKey) -> None:
        self.key = key
        self.inflight: dict[int, Delivery] = {}
        """Written to a socket and pending, by seq."""
        self.received: OrderedDict[int, Delivery] = OrderedDict()
        """Ended by a receipt, by seq."""
        self.backlogs: dict[str, Backlog] = {}
        """By sid, of the sockets whose replay runs."""
        self.resolved: set[int] = set()
        """Ended while a replay runs, which may have read them before."""
        self.retry: asyncio.TimerHandle | Slices[int] | None = None
        """A retry that waits for its time, or is under way."""
        self.again = False
        """An attempt ran out while a retry was under way, which may have passed it by."""
        self.leaving: Slices[Delivery] | None = None
        """The misses of what only the last socket could have confirmed, while they are being written."""
        self.replayed: dict[str, int] = {}
        """By sid, how many events the socket's replay has sent."""
        self.confirmed = False
        """Something was confirmed since a socket last left."""

    def hold_back(self, delivery: Delivery) -> None:
        """Keep a live event for the sockets whose replay runs."""
        for backlog in self.backlogs.values():
            backlog.add(delivery)

    def take(self, seq: int) -> Delivery | None:
        """An event ended: it is in flight no more, and no replay may send it."""
        if self.backlogs:
            self.resolved.add(seq)
        return self.inflight.pop(seq, None)

    def remember_received(self, delivery: Delivery) -> None:
        self.received[delivery.event.seq] = delivery
        if len(self.received) > REMEMBERED:
            self.received.popitem(last=False)

    def replay_over(self, sid: str) -> None:
        self.backlogs.pop(sid, None)
        if not self.backlogs:
            self.resolved.clear()

    def moved(self, ns: int) -> None:
        """The clock was set by so much: tell all times by the new one."""
        held = [delivery for backlog in self.backlogs.values() for delivery in backlog.deliveries]
        for delivery in {*self.inflight.values(), *self.received.values(), *held}:
            delivery.moved(ns)

    def stop_retry(self) -> None:
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.again = False

    def close(self) -> None:
        """Nothing happens by itself any more; misses that are being written are written to the end."""
        self.stop_retry()
        if self.leaving is not None:
            self.leaving.finish()
            self.leaving = None
