"""The spans of plain deliveries, made without span objects: byte for byte what the builder and the encoder make."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from roundtrip.delivery.state import Delivery, DeliveryState
from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, MissReason, Mode, StoredEvent
from roundtrip.telemetry.event_encoding import EventEncoder
from roundtrip.telemetry.otlp_encoding import EncodedSpans, count, encode
from roundtrip.telemetry.span_builder import SpanBuilder
from roundtrip.telemetry.span_records import Settled

RESOURCE, SCOPE = Resource({"service.name": "one"}), InstrumentationScope("roundtrip", "1")

hexadecimal = st.text("0123456789abcdef", min_size=16, max_size=16)
traceparents = st.builds("00-{}{}-{}-{}".format, hexadecimal, hexadecimal, hexadecimal, st.sampled_from(["00", "01"]))
malformed = st.sampled_from(["", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01"])
nanoseconds = st.integers(1, 2_000_000_000_000_000_000)
names = st.sampled_from(["a", "b", "ü", "9" * 9])
attempts = st.builds(
    Attempt,
    at=st.integers(0, 1 << 40),
    mode=st.sampled_from([Mode.LIVE, Mode.LIVE, Mode.REPLAY]),
    sockets=st.integers(1, 3),
    reason=st.sampled_from([None, None, None, MissReason.ACK_TIMEOUT]),
)


@st.composite
def records(draw: st.DrawFn) -> Settled:
    event = StoredEvent(
        BotKey(draw(names), draw(names)),
        draw(st.integers(1, 1 << 40)),
        draw(st.uuids().map(str) | st.just("no uuid") | st.just("ü" * 36)),
        draw(st.sampled_from(EventType)),
        draw(names),
        draw(st.integers(0, 1 << 40)),
        0,
        draw(traceparents | malformed),
        b"{}",
    )
    delivery = Delivery(event, draw(st.sampled_from(Mode)), draw(nanoseconds))
    delivery.started_ns = draw(nanoseconds)
    delivery.receipt_ns = draw(st.just(0) | nanoseconds)
    delivery.ack_ns = draw(st.just(0) | nanoseconds)
    delivery.replay_parent = draw(st.none() | traceparents)
    delivery.state = draw(st.sampled_from([DeliveryState.ACKED, DeliveryState.RECEIVED, DeliveryState.EXPIRED]))
    for attempt in draw(st.lists(attempts, max_size=2)) if draw(st.booleans()) else [Attempt(at=1, mode=Mode.LIVE)]:
        delivery.finish(attempt)
    return Settled(delivery, draw(st.none() | traceparents | malformed))


@settings(deadline=None)
@given(st.lists(records(), min_size=1, max_size=8))
def test_the_bytes_are_those_of_the_built_spans(some: list[Settled]) -> None:
    builder, encoder = SpanBuilder(RESOURCE, SCOPE), EventEncoder(RESOURCE, SCOPE)
    for record in [*some, *some]:  # the first one of its kind is built, and remembered
        built, encoded = list(builder.build(record)), list(encoder.build(record))
        assert encode(encoded) == encode(built)
        assert count(encoded) == len(built)


@pytest.mark.parametrize("receipt_ns", [0, 1_700_000_000_003_000_000])
@pytest.mark.parametrize("state", [DeliveryState.ACKED, DeliveryState.RECEIVED])
def test_a_plain_delivery_is_not_built(state: DeliveryState, receipt_ns: int) -> None:
    encoder = EventEncoder(RESOURCE, SCOPE)
    for seq in (1, 2, 200, 1 << 40):
        traceparent = f"00-{seq:032x}-{seq:016x}-01"
        event = StoredEvent(
            BotKey("u", "b"),
            seq,
            "0193a2b4-7c11-7abc-8def-0123456789ab",
            EventType.CONNECTED,
            "l",
            seq,
            0,
            traceparent,
            b"",
        )
        delivery = Delivery(event, Mode.LIVE, 1_700_000_000_000_000_000)
        delivery.started_ns, delivery.receipt_ns = 1_700_000_000_001_000_000, receipt_ns
        delivery.ack_ns = 1_700_000_000_004_000_000 if state is DeliveryState.ACKED else 0
        delivery.state = state
        delivery.finish(Attempt(at=1, mode=Mode.LIVE, sockets=1))
        made = list(encoder.build(Settled(delivery, None)))
        plain = bool(delivery.receipt_ns or delivery.ack_ns)
        assert (
            [type(span) is EncodedSpans for span in made] == [seq > 1] * len(made)
            if plain
            else not any(type(span) is EncodedSpans for span in made)
        )
