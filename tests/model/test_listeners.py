"""Who is told of what happens: what tests record, and the program's span recorder and counters, promise the same.

And who is asked where sockets are: the courier machine's map, and the registry.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from roundtrip.delivery.metrics import DeliveryCounters, DeliveryMetrics, DeliverySpans, Misses
from roundtrip.delivery.state import ENDED, Delivery
from roundtrip.delivery.wire import Miss, Sockets
from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, MissReason, Mode, Outcome, StoredEvent
from roundtrip.sockets.messages import SocketCounters, SocketMetrics
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry.metrics import Metrics
from roundtrip.telemetry.setup import configure_tracing
from tests.support.fake_sockets import KEYS, FakeSocket, FakeSockets
from tests.support.sockets import Notes
from tests.support.traces import LABEL_SETS

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
KEY = BotKey("user", "bot")


class Listeners:
    """Whoever plays each part."""

    def __init__(self, event_spans: Any, meter: Any, socket_meter: Any) -> None:
        self.event_spans: Any = event_spans
        self.meter: Any = meter
        self.socket_meter: Any = socket_meter


def noted() -> Listeners:
    notes = Notes()
    return Listeners(notes, notes, notes)


def untraced() -> Listeners:
    metrics = Metrics(LABEL_SETS, "test")
    event_spans = configure_tracing("test", metrics.telemetry_dropped["traces"].inc, {}).event_spans
    return Listeners(event_spans, DeliveryCounters(metrics, event_spans.exemplar), SocketCounters(metrics))


def traced() -> Listeners:
    metrics = Metrics(LABEL_SETS, "test")
    dropped = metrics.telemetry_dropped["traces"].inc
    event_spans = configure_tracing("test", dropped, {}, InMemorySpanExporter()).event_spans
    return Listeners(event_spans, DeliveryCounters(metrics, event_spans.exemplar), SocketCounters(metrics))


@pytest.fixture(params=[noted, untraced, traced])
def listeners(request: pytest.FixtureRequest) -> Listeners:
    made: Callable[[], Listeners] = request.param
    return made()


def _calls(kind: type) -> dict[str, list[str]]:
    """The parameters of each method."""
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


def test_each_part_is_played_word_for_word(listeners: Listeners) -> None:
    for part, who in (
        (DeliverySpans, listeners.event_spans),
        (DeliveryMetrics, listeners.meter),
        (SocketMetrics, listeners.socket_meter),
    ):
        promised = _calls(part)
        assert promised
        for name, parameters in promised.items():
            assert ["self", *inspect.signature(getattr(who, name)).parameters] == parameters, name


@pytest.mark.parametrize("parent", [None, PARENT])
def test_a_context_is_a_traceparent_in_its_parents_trace(listeners: Listeners, parent: str | None) -> None:
    context = listeners.event_spans.context(parent)
    assert TRACEPARENT.fullmatch(context)
    if parent is not None:
        assert context[3:35] == parent[3:35]


@pytest.mark.parametrize("parent", [None, PARENT])
def test_a_replay_has_a_traceparent_or_none_and_its_end_may_be_told(listeners: Listeners, parent: str | None) -> None:
    context = listeners.event_spans.replay(KEY, "sid", parent)
    assert context is None or TRACEPARENT.fullmatch(context)
    for count in (0, 3):
        assert listeners.event_spans.replayed(KEY, context, 1, count) is None


def _delivery(context: str) -> Delivery:
    event = StoredEvent(KEY, 1, "0190", EventType.CONNECTED, "link", 1_000, 61_000, context, b"{}")
    return Delivery(event, Mode.LIVE, 2_000_000_000)


@pytest.mark.parametrize("reason", list(MissReason))
def test_any_miss_is_taken(listeners: Listeners, reason: MissReason) -> None:
    sent = _delivery(listeners.event_spans.context(None))
    attempt = Attempt(1_500, Mode.LIVE, 1, reason)
    sent.finish(attempt)
    misses = Misses(sent.event, attempt, 1)
    misses.count = 2
    assert listeners.event_spans.attempted(sent, attempt) is None
    assert listeners.event_spans.round_missed(misses) is None
    assert listeners.meter.missed(sent, attempt) is None


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.PENDING])
def test_any_end_is_taken(listeners: Listeners, outcome: Outcome) -> None:
    sent = _delivery(listeners.event_spans.context(None))
    sent.state, sent.started_ns = ENDED[outcome], 3_000_000_000
    confirmed = outcome in {Outcome.ACKED, Outcome.RECEIVED}
    if confirmed:
        sent.ack_ns = sent.receipt_ns = 4_000_000_000
        sent.finish(Attempt(1_500, Mode.LIVE, 1, None))
        assert listeners.meter.sent(sent) is None
        assert listeners.meter.delivered(sent) is None
        assert listeners.meter.upgraded(sent) is None
        assert listeners.event_spans.upgraded(sent) is None
    assert listeners.event_spans.settled(sent) is None


def test_what_befalls_sockets_is_taken(listeners: Listeners) -> None:
    meter = listeners.socket_meter
    assert meter.connected("accepted") is None
    assert meter.disconnected("client", 1.0) is None
    assert meter.packet_refused("binary") is None
    assert meter.packet_too_large() is None
    assert meter.step_failed() is None
    assert listeners.meter.slowed() is None
    assert listeners.meter.failed() is None


class MapOfTheRegistry:
    def __init__(self) -> None:
        self.map: Any = Registry()

    def add(self, socket: FakeSocket) -> None:
        self.map.add(socket)

    def remove(self, socket: FakeSocket) -> None:
        assert self.map.remove(socket)


class MapOfTheCourierMachine:
    def __init__(self) -> None:
        self.map: Any = FakeSockets()

    def add(self, socket: FakeSocket) -> None:
        self.map.by_key[socket.key][socket.sid] = socket

    def remove(self, socket: FakeSocket) -> None:
        del self.map.by_key[socket.key][socket.sid]


@pytest.mark.parametrize("make", [MapOfTheRegistry, MapOfTheCourierMachine])
def test_a_map_knows_who_is_there(make: Callable[[], Any]) -> None:
    owner = make()
    sockets: Sockets = owner.map
    key, other = KEYS[0], KEYS[1]
    assert len(sockets.of(key)) == 0
    assert sockets.why_missing(key) == Miss(MissReason.NEVER_CONNECTED)
    first, second = FakeSocket("one", key, must_ack=True), FakeSocket("two", key, must_ack=False)
    owner.add(first)
    owner.add(second)
    there: Any = sockets.of(key)
    assert list(there) == [first, second], "in the order in which they came"
    assert list(sockets.of(other)) == []
    owner.remove(first)
    assert list(there) == [second], "a live view"
    owner.remove(second)
    assert not sockets.of(key)
    sockets.missed(key, "connected", "0190", Miss(MissReason.NEVER_CONNECTED))
