"""Acknowledgements that come after their attempt was given up or its event had ended: their spans still join."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from roundtrip.backoff import Backoff
from roundtrip.events import Connected
from roundtrip.identity import BotKey
from tests.support.drafts import entry_with
from tests.support.traces import Scene, render
from tests.telemetry.helpers import tree

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


async def test_an_acknowledgement_after_its_attempt_was_given_up(new_scene: Callable[..., Scene]) -> None:
    s = new_scene(backoff=Backoff(60.0, 60.0))  # the acknowledgement comes before the next attempt
    peer = await s.connect(KEY, "sid", must_ack=True)
    await s.courier.publish(KEY, "link-1", CONNECTED)
    await entry_with(s.outbox, KEY, 1, lambda entry: entry.attempts)
    s.ack(peer, 1, 80)
    assert render(await s.spans()) == tree(
        """
        trace
          create whatsapp_connected [PRODUCER] 0 to 0 ms
              messaging.message.id=event 1
              messaging.operation.name=create
              messaging.operation.type=create
              roundtrip.event.seq=1
              roundtrip.link.id=link-1
            emit whatsapp_connected [CLIENT] 0 to 0 ms → create whatsapp_connected !ack_timeout
                error.type=ack_timeout
                messaging.message.id=event 1
                messaging.operation.name=emit
                messaging.operation.type=send
                roundtrip.attempt.mode=live
                roundtrip.attempt.number=1
                roundtrip.link.id=link-1
                roundtrip.miss.reason=ack_timeout
                roundtrip.sockets.found=1
              ack whatsapp_connected [CLIENT] 0 to 80 ms → create whatsapp_connected
                  messaging.message.id=event 1
                  messaging.operation.name=ack
                  messaging.operation.type=settle
                  roundtrip.link.id=link-1
        trace
          socket connect [SERVER] 0 to 0 ms
              roundtrip.socket.mapped=True
              roundtrip.socket.replayed=0
        """
    )


async def test_an_acknowledgement_after_a_receipt_had_ended_the_event(new_scene: Callable[..., Scene]) -> None:
    s = new_scene()
    peer = await s.connect(KEY, "sid")
    await s.courier.publish(KEY, "link-1", CONNECTED)
    s.receipt(peer, 1)
    await entry_with(s.outbox, KEY, 1, lambda entry: entry.resolved_at)
    s.ack(peer, 1, 700)
    spans = await s.spans()
    assert [span.name for span in spans if span.name.startswith(("ack", "receipt"))] == [
        "receipt whatsapp_connected",
        "ack whatsapp_connected",
    ]
    [emit] = [span for span in spans if span.name.startswith("emit")]
    assert all(span.parent == emit.context for span in spans if span.name.startswith(("ack", "receipt")))


@pytest.mark.parametrize("late_ms", [10, 80, 700])
async def test_each_span_is_built_once_however_late_the_acknowledgement(
    new_scene: Callable[..., Scene], late_ms: float
) -> None:
    s = new_scene(backoff=Backoff(60.0, 60.0))
    peer = await s.connect(KEY, "sid", must_ack=True)
    await s.courier.publish(KEY, "link-1", CONNECTED)
    await entry_with(s.outbox, KEY, 1, lambda entry: entry.attempts)
    s.receipt(peer, 1)
    s.ack(peer, 1, late_ms)
    ids = [span.context.span_id for span in await s.spans() if span.context]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("late", [True, False], ids=["after the attempt was given up", "before"])
async def test_a_receipt_that_is_measured_has_its_span(new_scene: Callable[..., Scene], late: bool) -> None:
    """`receipt_seconds` takes its time, and its exemplar must open a receipt."""
    s = new_scene(backoff=Backoff(60.0, 60.0))
    peer = await s.connect(KEY, "sid", must_ack=True)
    await s.courier.publish(KEY, "link-1", CONNECTED)
    if not late:
        s.receipt(peer, 1)
    await entry_with(s.outbox, KEY, 1, lambda entry: entry.attempts)
    if late:
        s.receipt(peer, 1)
    s.ack(peer, 1, 80)
    assert s.metrics.registry.get_sample_value("roundtrip_receipt_seconds_count") == 1
    spans = await s.spans()
    (emit,) = [span for span in spans if span.name.startswith("emit")]
    (receipt,) = [span for span in spans if span.name.startswith("receipt")]
    assert receipt.parent == emit.context


async def test_an_event_that_expires_in_the_middle_of_its_first_attempt_is_created_once(
    new_scene: Callable[..., Scene],
) -> None:
    s = new_scene()
    await s.connect(KEY, "sid")
    end = s.clock.ns // 1_000_000 + 50
    await s.courier.publish(KEY, "link-1", CONNECTED, expires_at=end)
    s.clock.pass_ms(51)
    await entry_with(s.outbox, KEY, 1, lambda entry: entry.resolved_at)
    names = [span.name for span in await s.spans()]
    assert names.count("create whatsapp_connected") == 1
    assert names.count("emit whatsapp_connected") == 1
