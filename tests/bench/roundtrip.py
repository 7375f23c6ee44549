"""Roundtrip's whole path of an event, driven from inside: outbox, courier, sockets, metrics and telemetry.

`python -m tests.bench.roundtrip SOCKETS SECONDS` speaks as `tests.bench.peers.bare` does. The environment decides on
telemetry: with an OTLP endpoint it is on, and `OTEL_TRACES_SAMPLER` says how much is kept. Further variables, for the
other modules of the bench: `BENCH_IDLE` more sockets get no events; the outbox is in `BENCH_FOLDER`; and with
`BENCH_PACE` so many events a second are published in all, instead of one in flight for each socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from roundtrip.api.debug.console import Console, ConsoleParts
from roundtrip.api.health import Readiness
from roundtrip.api.listener import listen
from roundtrip.backoff import Backoff
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.metrics import DeliveryCounters
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.state import Delivery
from roundtrip.events import Connected
from roundtrip.faults import Faults
from roundtrip.identity import BotKey
from roundtrip.label_sets import label_sets
from roundtrip.limits.connections import ConnectionLimits, ConnectionRules
from roundtrip.limits.rates import Limits, Rules
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.runtime import GarbageCollection, connection_capacity
from roundtrip.settings import Settings
from roundtrip.sockets import peer
from roundtrip.sockets.access import SocketAccess
from roundtrip.sockets.messages import SocketCounters
from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import SocketServer
from roundtrip.telemetry import setup
from tests.bench.run import start_publishing
from tests.support.sockets import idle, trusted

EVENT: Final = Connected("+15550100", "Ada Lovelace", False)
"""Of a type whose traces are sampled: those that report trouble are always kept."""


LINK: Final = "0190b0f05f647b1a9c595f2b8f1f9c3e"

PACE: Final = float(os.environ.get("BENCH_PACE", "0"))
IDLE: Final = int(os.environ.get("BENCH_IDLE", "0"))


class Counter(DeliveryCounters):
    """Counts what was confirmed, and sends the next event of that key."""

    count = 0
    courier: Courier
    running = True
    found: array[float] = array("d")
    """With a pace: seconds from each event's creation to its confirmation, as `delivery_seconds` has them."""

    def delivered(self, delivery: Delivery) -> None:
        super().delivered(delivery)
        Counter.count += 1
        if PACE:
            Counter.found.append(max(0.0, delivery.ack_ns / 1e9 - delivery.event.created_at / 1000))
        elif Counter.running:
            start_publishing(Counter.courier, delivery.event.key, delivery.event.link_id, EVENT)


async def publish_evenly(courier: Courier, keys: Sequence[BotKey]) -> None:
    """`PACE` events a second in all, to one key after the other, for ever."""
    started, sent = time.perf_counter(), 0
    while True:
        due = int((time.perf_counter() - started) * PACE)
        for number in range(sent, due):
            start_publishing(courier, keys[number % len(keys)], LINK, EVENT)
        sent = max(sent, due)
        await asyncio.sleep(0.001)


def choose_receipts(which: str) -> None:
    """`spared` is what ships: a client that acknowledges in time is not asked. `each` asks after every event, `never`
    asks nobody."""
    if which == "each":
        peer.ACK_WAIT = 0.0  # type: ignore[misc]  # a constant, but for this comparison
    elif which == "never":
        setattr(peer.Peer, "confirm", lambda *_: None)  # noqa: B010  # for this comparison


class NoLinks:
    """The console's view of a process without links."""

    def links(self) -> list[LinkView]:
        return []

    def snapshot(self, key: BotKey) -> Snapshot:
        raise LookupError(key)


def look(which: str, stack: ExitStack, parts: ConsoleParts) -> None:
    """`closed` takes the console's readings, `open` has one listener besides, as a browser's tab is one."""
    if which == "off":
        return
    console = stack.enter_context(Console(parts))
    if which == "open":
        listener: asyncio.Queue[bytes | None] = asyncio.Queue()
        console.hub.add(listener)


async def main(sockets: int, seconds: float) -> None:
    limited = os.environ.get("BENCH_LIMITS", "on") == "on"
    choose_receipts(os.environ.get("BENCH_RECEIPTS", "spared"))
    ring_bytes = int(os.environ.get("BENCH_RING_BYTES", "0"))
    telemetry = setup.start(label_sets(), "bench", level="WARNING", ring_bytes=ring_bytes)
    with tempfile.TemporaryDirectory(prefix="roundtrip-bench-") as own:
        folder = os.environ.get("BENCH_FOLDER", own)
        outbox = SqliteOutbox(Path(folder), max_bytes=1 << 40)
        await outbox.start()
        outbox.on_write = telemetry.metrics.outbox_write.observe
        registry, faults = Registry(), Faults(allowed=False)
        courier = Counter.courier = Courier(
            outbox,
            registry,
            telemetry.event_spans,
            Counter(telemetry.metrics, telemetry.event_spans.exemplar),
            faults,
            event_ttl=3600,
            ack_timeout=5,
            backoff=Backoff(5, 60),
        )
        replayer = Replayer(outbox, courier, telemetry.event_spans, idle, watermark=1 << 19)
        server = SocketServer(
            registry,
            courier,
            replayer,
            trusted,
            SocketCounters(telemetry.metrics),
            faults,
            cors_origins=(),
            max_sockets_per_key=16,
            send_queue_limit=1 << 20,
            ping_interval=25,
            ping_timeout=20,
            max_packet=65536,
            door=SocketAccess(trusted, Limits(Rules.of(Settings(auth="trusted")), lambda _limit: None))
            if limited
            else None,
        )
        app = web.Application()
        server.attach(app)
        if limited:
            most = max(connection_capacity(sockets + IDLE), 10_000)
            runner = await listen(
                app, "127.0.0.1", 0, ConnectionLimits(ConnectionRules(most, most)), shutdown_timeout=1
            )
        else:
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector = GarbageCollection(lambda _seconds: None)
        collector.start()
        settings = Settings(auth="trusted", data_dir=Path(folder))
        parts = ConsoleParts(settings, telemetry, registry, NoLinks(), outbox, faults, Readiness({}))
        look(os.environ.get("BENCH_CONSOLE", "off"), looking := ExitStack(), parts)
        print(runner.addresses[0][1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        assert len(registry) == sockets + IDLE, (len(registry), sockets, IDLE)
        keys = [BotKey(f"user-{number}", "bot") for number in range(sockets)]
        pacing = asyncio.ensure_future(publish_evenly(courier, keys)) if PACE else None
        for key in keys if pacing is None else ():
            start_publishing(courier, key, LINK, EVENT)
        await asyncio.sleep(0.5)
        Counter.found = array("d")
        Counter.count, start = 0, time.perf_counter()
        await asyncio.sleep(seconds)
        rate = Counter.count / (time.perf_counter() - start)
        lost = telemetry.metrics.telemetry_dropped["traces"]._value.get()
        p99 = statistics.quantiles(Counter.found, n=100)[98] if pacing is not None else None
        print(json.dumps({"rate": rate, "spans_lost": lost, "p99": p99}), flush=True)
        Counter.running = False
        if pacing is not None:
            pacing.cancel()
        looking.close()
        await server.close()
        courier.close()
        await runner.cleanup()
        await outbox.close()
        await telemetry.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
