"""Chapter "Metrics": an exemplar opens the trace that explains it. Each one is followed, after a load of many kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from tests.contract.test_traces import attributes
from tests.dashboards.boards import EXEMPLARS
from tests.support.inside import Inside, inside
from tests.support.lives import connect, ended, settled
from tests.support.otlp import Receiver, receiving
from tests.support.py_client import eventually, py_client

Traced = tuple[Inside, Receiver]


@pytest.fixture(params=["always_off", "traceidratio", "always_on"])
async def traced(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", request.param)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with inside(tmp_path, ack_timeout=0.3, ping_interval=1) as program:
            yield program, receiver


async def mixed_load(program: Inside) -> None:
    """Successes, misses for several reasons, replays, receipts without acknowledgements, retries."""
    async with py_client(program.url, "acks"):
        await connect(program.user("acks"))
        await ended(program.user("acks"), 4, "acked")
    async with py_client(program.url, "silent", acking=False):
        await program.user("silent").link()
        await ended(program.user("silent"), 1, "received", within=10)
    await connect(program.user("away"))
    pending = sum(event["outcome"] == "pending" for event in await program.user("away").ledger())
    async with py_client(program.url, "away"):
        await ended(program.user("away"), pending, "acked")
    async with py_client(program.url, "wrong", "wrong"):
        await program.user("wrong").link()
        await program.user("wrong").state("qr")
    async with py_client(program.url, "late", acking=False, acks=True):
        await program.user("late").link()

        async def tried() -> bool:
            return any("ack_timeout" in str(event["attempts"]) for event in await program.user("late").ledger())

        await settled(tried)
    async with py_client(program.url, "late"):
        await settled(lambda: no_more_pending(program))


async def no_more_pending(program: Inside) -> bool:
    return all(event["outcome"] != "pending" for event in await program.user("late").ledger())


async def exemplars(program: Inside) -> list[Sample]:
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with aiohttp.ClientSession() as session, session.get(f"{program.admin_url}/metrics", headers=headers) as got:
        text = await got.text()
    families = parse(text)  # type: ignore[no-untyped-call]  # published without types
    return [sample for family in families for sample in family.samples if sample.exemplar]


def explains(span: Span, sample: Sample) -> bool:
    """Whether a span is one of those that a sample with an exemplar counts."""
    held = attributes(span)
    match sample.name:
        case "roundtrip_missed_emits_total":
            return (
                span.name == f"emit {sample.labels['type']}"
                and held.get("roundtrip.miss.reason") == sample.labels["reason"]
            )
        case "roundtrip_delivery_seconds_bucket":
            return held.get("roundtrip.attempt.mode") == sample.labels["mode"]
        case "roundtrip_receipt_seconds_bucket":
            return span.name.startswith("receipt ")
        case "roundtrip_ack_seconds_bucket":
            return span.name.startswith("ack ")
    return False


async def test_every_exemplar_leads_to_a_span_that_it_counts(traced: Traced) -> None:
    program, receiver = traced
    await mixed_load(program)
    found = await exemplars(program)
    assert found

    def dead() -> list[Sample]:
        return [
            sample
            for sample in found
            if not any(
                explains(span, sample)
                for span in receiver.spans
                if sample.exemplar and span.trace_id.hex() == sample.exemplar.labels["trace_id"]
            )
        ]

    try:
        await eventually(lambda: not dead(), 5)
    finally:
        assert not dead()
    assert any(sample.labels.get("mode") == "replay" for sample in found), "also of replays"
    assert {sample.labels["reason"] for sample in found if "reason" in sample.labels} >= {
        "never_connected",
        "key_mismatch",
        "ack_timeout",
    }
    assert {sample.name for sample in found} <= EXEMPLARS, "dashboards would not ask for them"


async def test_those_that_dashboards_ask_for_have_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        async with inside(tmp_path, ack_timeout=0.3, ping_interval=1) as program:
            await mixed_load(program)
            assert {sample.name for sample in await exemplars(program)} == EXEMPLARS
