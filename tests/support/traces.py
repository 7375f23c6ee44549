"""Whole traces with fixed ids and a fixed clock, as text that can be compared as a whole."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from roundtrip.backoff import Backoff
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.metrics import DeliveryCounters
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.state import Delivery
from roundtrip.identity import BotKey
from roundtrip.label_sets import label_sets
from roundtrip.outbox.memory import MemoryOutbox
from roundtrip.outbox.records import MissReason
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry import redaction
from roundtrip.telemetry.metrics import Metrics
from roundtrip.telemetry.setup import configure_tracing
from tests.support.sockets import Faults, idle

START_NS = 1_800_000_000_000_000_000
LEFT_OUT = {
    "messaging.system",
    "messaging.destination.template",
    "user.hash",
    "roundtrip.key.hash",
    "roundtrip.looked_for",
    "roundtrip.looked_for.is_user",
}
"""The same on every span; a test of its own sees to them."""

QUICK = Backoff(0.02, 0.02)

LABEL_SETS = label_sets()


class Clock:
    """Moves only by `pass_ms`. Times are nanoseconds since the epoch."""

    def __init__(self) -> None:
        self.ns = START_NS

    def monotonic(self) -> float:
        return self.ns / 1e9

    def wall(self) -> float:
        return self.ns / 1e9

    def wall_ns(self) -> int:
        return self.ns

    def __call__(self) -> int:
        return self.ns

    def pass_ms(self, ms: float) -> None:
        self.ns += int(ms * 1_000_000)


class FakePeer:
    """A socket that takes everything; the test confirms in its name."""

    def __init__(self, key: BotKey, sid: str, *, must_ack: bool = False) -> None:
        self.key = key
        self.sid = sid
        self.must_ack = must_ack
        self.live = False
        self.closed = False
        self.backlog = 0
        self.transport = "websocket"
        self.connected_at = 0.0
        self.sent: list[Any] = []

    def send(self, frame: object) -> MissReason | None:
        return MissReason.SEND_FAILED if self.closed else None

    def confirm(self, sent: object) -> None:
        self.sent.append(sent)


class Scene:
    """One run of the process: courier, event spans and metrics over an outbox that outlives it."""

    def __init__(
        self, clock: Clock, outbox: MemoryOutbox, bits: Callable[[int], int], backoff: Backoff, **environ: str
    ) -> None:
        self.clock = clock
        self.outbox = outbox
        self.exporter = InMemorySpanExporter()
        self.metrics = Metrics(LABEL_SETS, "test")
        dropped = self.metrics.telemetry_dropped["traces"].inc
        self.tracing = configure_tracing("test", dropped, environ, self.exporter, clock, bits)
        self.registry = Registry()
        self.faults = Faults()
        event_spans = self.tracing.event_spans
        self.courier = Courier(
            outbox,
            self.registry,
            event_spans,
            DeliveryCounters(self.metrics, event_spans.exemplar),
            self.faults,
            event_ttl=3600.0,
            ack_timeout=0.05,
            backoff=backoff,
            clock=clock,
        )
        self.replayer = Replayer(outbox, self.courier, event_spans, idle, watermark=1 << 20, clock=clock)

    async def connect(self, key: BotKey, sid: str, *, must_ack: bool = False, parent: str | None = None) -> FakePeer:
        """Map a socket and bring it up to date."""
        peer = FakePeer(key, sid, must_ack=must_ack)
        self.registry.add(cast("Any", peer))
        channel = self.courier.joined(cast("Any", peer))
        await self.replayer.run(cast("Any", peer), channel, parent)
        return peer

    def disconnect(self, peer: FakePeer) -> None:
        peer.closed = True
        self.registry.remove(cast("Any", peer))
        self.courier.left(cast("Any", peer))

    def ack(self, peer: FakePeer, seq: int, after_ms: float = 0) -> None:
        self.clock.pass_ms(after_ms)
        self.courier.confirmations.acked(cast("Any", peer), seq)

    def receipt(self, peer: FakePeer, after_ms: float = 0) -> None:
        """Confirm all that was sent to this socket so far."""
        self.clock.pass_ms(after_ms)
        sent = cast("list[Delivery]", peer.sent)
        peer.sent = []
        self.courier.confirmations.received(cast("Any", peer), sent)

    async def spans(self) -> list[ReadableSpan]:
        """End this run; what it exported."""
        self.courier.close()
        await asyncio.to_thread(self.tracing.close)
        return list(self.exporter.get_finished_spans())


@contextmanager
def scenes() -> Iterator[Callable[..., Scene]]:
    """Makes runs of one process, one after another, over one outbox, with one clock and one row of ids."""
    clock = Clock()
    bits = itertools.count(1)
    uuids = itertools.count(1)
    outbox = MemoryOutbox(clock=clock, make_id=lambda _at: str(UUID(int=next(uuids))))
    redaction.configure("test")

    def fixed_bits(count: int) -> int:
        number = next(bits)
        return (number << 128 | number << 64 | number) & (1 << count) - 1

    def new_scene(backoff: Backoff = QUICK, **environ: str) -> Scene:
        return Scene(clock, outbox, fixed_bits, backoff, **environ)

    yield new_scene
    redaction.configure(None)


def render(spans: Sequence[ReadableSpan]) -> str:
    """All traces, oldest first, each as a tree. Times are milliseconds since the first span's start."""
    ids = {span.context.span_id: span for span in spans if span.context}
    origin = min((span.start_time or 0 for span in spans), default=0)
    lines: list[str] = []

    def line(span: ReadableSpan, depth: int) -> None:
        start, end = ((at or 0) - origin for at in (span.start_time, span.end_time))
        links = "".join(f" → {_named(ids, link.context.span_id)}" for link in span.links)
        status = f" !{span.status.description}" if span.status.description else ""
        lines.append(f"{'  ' * depth}{span.name} [{span.kind.name}] {start / 1e6:g} to {end / 1e6:g} ms{links}{status}")
        for name, value in sorted((span.attributes or {}).items()):
            if name not in LEFT_OUT:
                shown = f"event {int(UUID(str(value)))}" if name == "messaging.message.id" else value
                lines.append(f"{'  ' * depth}    {name}={shown}")
        for child in _in_order(other for other in spans if other.parent and span.context == _own(other.parent, ids)):
            line(child, depth + 1)

    roots = _in_order(span for span in spans if span.parent is None or span.parent.span_id not in ids)
    for trace_id in dict.fromkeys(span.context.trace_id for span in roots if span.context):
        lines.append("trace")
        for root in roots:
            if root.context and root.context.trace_id == trace_id:
                line(root, 1)
    return "\n".join(lines)


def _in_order(spans: Iterator[ReadableSpan]) -> list[ReadableSpan]:
    return sorted(spans, key=lambda span: (span.start_time or 0, span.end_time or 0, span.name))


def _own(parent: Any, ids: dict[int, ReadableSpan]) -> Any:
    span = ids.get(parent.span_id)
    return span.context if span and span.context and span.context.trace_id == parent.trace_id else None


def _named(ids: dict[int, ReadableSpan], span_id: int) -> str:
    span = ids.get(span_id)
    return span.name if span else "(not kept)"
