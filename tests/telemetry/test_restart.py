"""The context crosses the outbox: what was created before a crash is linked from its replay after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.otlp import Receiver, receiving
from tests.support.program import api, running
from tests.support.py_client import eventually, py_client


def named(receiver: Receiver, name: str, event_id: str | None = None) -> list[Span]:
    return [span for span in receiver.spans if span.name == name and (event_id is None or event_of(span) == event_id)]


def event_of(span: Span) -> str:
    return next((pair.value.string_value for pair in span.attributes if pair.key == "messaging.message.id"), "")


@pytest.mark.slow
async def test_a_replay_after_kill_9_links_to_the_create_before_it(tmp_path: Path) -> None:
    with receiving() as receiver:
        settings: dict[str, Any] = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_TRACES_SAMPLER": "always_off",
            "OTEL_BSP_SCHEDULE_DELAY": 50,
            "simulated_speed": 20,
        }
        async with running(tmp_path, **settings) as program, api(program) as own:
            await own.link()
            await own.state("qr")
            await own.simulate("scan")
            await own.state("connected")
            await eventually(lambda: named(receiver, "create whatsapp_connected"), 10)
            program.kill()
            await program.ended()
        async with running(tmp_path, **settings) as program:
            async with py_client(program.url) as client:
                await client.until(lambda: any(event["type"] == "whatsapp_connected" for event in client.events))
                event = next(event for event in client.events if event["type"] == "whatsapp_connected")
                await eventually(lambda: named(receiver, "ack whatsapp_connected", event["id"]), 10)
            program.terminate()
            await program.ended()
    [create] = named(receiver, "create whatsapp_connected", event["id"])
    missed, replayed = named(receiver, "emit whatsapp_connected", event["id"])
    [ack] = named(receiver, "ack whatsapp_connected", event["id"])
    [connect] = named(receiver, "socket connect")
    [replay] = named(receiver, "replay")
    assert event["traceparent"].split("-")[1:3] == [create.trace_id.hex(), create.span_id.hex()]
    assert (missed.trace_id, missed.parent_span_id) == (create.trace_id, create.span_id)
    assert missed.status.message == "never_connected"
    assert replayed.trace_id != create.trace_id, "a replay is a trace of its own"
    assert {(link.trace_id, link.span_id) for span in (missed, replayed, ack) for link in span.links} == {
        (create.trace_id, create.span_id)
    }
    assert [span.parent_span_id for span in (replayed, replay)] == [replay.span_id, connect.span_id]
