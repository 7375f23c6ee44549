"""The delivery parts on a real port, without links or HTTP API: what tests of sockets and courier need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from roundtrip.backoff import Backoff
from roundtrip.clock import SYSTEM
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.metrics import Misses
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.state import Delivery
from roundtrip.faults import Faults as Switches
from roundtrip.identity import BotKey, Principal, parse_user_id
from roundtrip.links.payloads import Snapshot
from roundtrip.links.record import LinkState
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.memory import MemoryOutbox
from roundtrip.outbox.records import Attempt
from roundtrip.sockets.access import Handshake
from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import SocketServer


class Notes:
    """Spans and all counters, which record what they are called with."""

    def __init__(self) -> None:
        self.missed_: list[Attempt] = []
        self.settled_: list[Delivery] = []
        self.replays: list[int] = []
        self.connects: list[str] = []
        self.disconnects: list[str] = []
        self.lifetimes: list[float] = []
        self.refused: list[str] = []
        self.failed_steps = 0
        self.upgrades = 0
        self.attempts_sent = 0
        self.slowed_ = 0
        self.failed_ = 0
        self.rounds: list[Misses] = []

    def context(self, parent: str | None) -> str:
        return parent or "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

    def attempted(self, delivery: Delivery, attempt: Attempt) -> None:
        self.missed_.append(attempt)

    def slowed(self) -> None:
        self.slowed_ += 1

    def failed(self) -> None:
        self.failed_ += 1

    def created(self, delivery: Delivery) -> None:
        pass

    def settled(self, delivery: Delivery) -> None:
        self.settled_.append(delivery)

    def upgraded(self, delivery: Delivery) -> None:
        self.upgrades += 1

    def replay(self, key: BotKey, sid: str, connect_parent: str | None) -> str | None:
        return connect_parent

    def replayed(self, key: BotKey, replay_parent: str | None, started_ns: int, count: int) -> None:
        self.replays.append(count)

    def sent(self, delivery: Delivery) -> None:
        self.attempts_sent += 1

    def missed(self, delivery: Delivery, attempt: Attempt) -> None:
        pass

    def round_missed(self, misses: Misses) -> None:
        self.rounds.append(misses)

    def delivered(self, delivery: Delivery) -> None:
        pass

    def connected(self, result: str) -> None:
        self.connects.append(result)

    def disconnected(self, reason: str, lifetime: float) -> None:
        self.disconnects.append(reason)
        self.lifetimes.append(lifetime)

    def step_failed(self) -> None:
        self.failed_steps += 1

    def packet_refused(self, what: str) -> None:
        self.refused.append(what)

    def packet_too_large(self) -> None:
        self.refused.append("too large")


class Faults(Switches):
    """The program's own switches, all of which may be moved."""

    def __init__(self) -> None:
        super().__init__(allowed=True)


@dataclass
class Stage:
    """Everything between an event and a socket, listening on loopback."""

    outbox: Any
    registry: Registry
    courier: Courier
    replayer: Replayer
    server: SocketServer
    url: str
    notes: Notes = field(default_factory=Notes)
    faults: Faults = field(default_factory=Faults)


async def trusted(shake: Handshake) -> Principal:
    return Principal(parse_user_id(shake.user_id))


async def idle(key: BotKey, seq: int) -> msgspec.Struct:
    return Snapshot(key.user_id, key.bot_id, None, LinkState.IDLE, seq, "2026-01-01T00:00:00.000Z")


@asynccontextmanager
async def stage(outbox: Outbox | None = None, **options: Any) -> AsyncIterator[Stage]:
    """`options` override the settings of the courier and the socket server."""
    notes, faults, registry = Notes(), Faults(), Registry()
    outbox = outbox if outbox is not None else MemoryOutbox()
    courier = Courier(
        outbox,
        registry,
        notes,
        notes,
        faults,
        event_ttl=options.get("event_ttl", 3600.0),
        ack_timeout=options.get("ack_timeout", 5.0),
        backoff=options.get("backoff", Backoff(0.1, 1.0)),
    )
    limit = options.get("send_queue_limit", 1 << 20)
    replayer = Replayer(outbox, courier, notes, idle, watermark=limit // 2)
    server = SocketServer(
        registry,
        courier,
        replayer,
        options.get("admit", trusted),
        notes,
        faults,
        cors_origins=options.get("cors_origins", ()),
        max_sockets_per_key=options.get("max_sockets_per_key", 16),
        send_queue_limit=limit,
        ping_interval=options.get("ping_interval", 25),
        ping_timeout=options.get("ping_timeout", 20),
        max_packet=65536,
        door=options.get("door"),
        clock=options.get("clock", SYSTEM),
    )
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield Stage(outbox, registry, courier, replayer, server, url, notes, faults)
    finally:
        await server.close()
        courier.close()
        await runner.cleanup()
