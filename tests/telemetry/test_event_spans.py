"""Which events' traces are kept, and the recorder as the courier sees it."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER

from roundtrip.delivery.metrics import DeliverySpans
from roundtrip.events import PUBLIC_TYPES, Connected, Degraded
from roundtrip.identity import BotKey
from roundtrip.telemetry.event_spans import ALWAYS_KEPT
from tests.support.traces import Scene

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


class TestKeeping:
    """With the head sampler off, only what is interesting is exported."""

    OFF = {OTEL_TRACES_SAMPLER: "always_off"}  # noqa: RUF012  # a constant

    async def test_a_plain_success_is_not_kept(self, new_scene: Callable[..., Scene]) -> None:
        s = new_scene(**self.OFF)
        peer = await s.connect(KEY, "sid")
        await s.courier.publish(KEY, "link-1", CONNECTED)
        s.ack(peer, 1, 5)
        assert await s.spans() == []

    async def test_a_miss_and_its_replay_are(self, new_scene: Callable[..., Scene]) -> None:
        s = new_scene(**self.OFF)
        await s.courier.publish(KEY, "link-1", CONNECTED)
        s.ack(await s.connect(KEY, "sid"), 1, 5)
        assert [span.name.split()[0] for span in await s.spans()] == [
            "create",
            "emit",
            "socket",
            "replay",
            "emit",
            "ack",
        ]

    async def test_a_slow_one_is(self, new_scene: Callable[..., Scene]) -> None:
        s = new_scene(**self.OFF)
        peer = await s.connect(KEY, "sid")
        await s.courier.publish(KEY, "link-1", CONNECTED)
        s.ack(peer, 1, 1001)
        assert [span.name.split()[0] for span in await s.spans()] == ["create", "emit", "ack"]

    async def test_one_that_reports_trouble_with_the_link_is(self, new_scene: Callable[..., Scene]) -> None:
        s = new_scene(**self.OFF)
        peer = await s.connect(KEY, "sid")
        await s.courier.publish(KEY, "link-1", Degraded())
        s.ack(peer, 1, 5)
        wanted = [f"{what} whatsapp_degraded" for what in ("create", "emit", "ack")]
        assert [span.name for span in await s.spans()] == wanted

    def test_those_always_kept_are_event_types(self) -> None:
        assert {one.wire for one in PUBLIC_TYPES} > ALWAYS_KEPT

    async def test_a_trace_that_is_not_kept_is_no_exemplar(self, new_scene: Callable[..., Scene]) -> None:
        off, on = new_scene(**self.OFF), new_scene()
        plain = off.tracing.event_spans.context(None)
        assert off.tracing.event_spans.exemplar(plain, False) is None
        assert off.tracing.event_spans.exemplar(plain, True) == {"trace_id": plain[3:35]}
        sampled = on.tracing.event_spans.context(None)
        assert on.tracing.event_spans.exemplar(sampled, False) == {"trace_id": sampled[3:35]}
        await off.spans()
        await on.spans()


async def test_the_recorder_implements_the_couriers_protocol(new_scene: Callable[..., Scene]) -> None:
    s = new_scene()
    event_spans: DeliverySpans = s.tracing.event_spans
    assert len(event_spans.context(None)) == 55
    await s.spans()
