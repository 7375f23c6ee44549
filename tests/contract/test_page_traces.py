"""Spans that pages send: which are taken, which are refused, and what becomes of them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.contract.test_traces import attributes, spans
from tests.support.inside import Inside, inside
from tests.support.lives import connect, ended, total
from tests.support.otlp import Receiver, receiving
from tests.support.py_client import PyClient, eventually, py_client

Traced = tuple[Inside, Receiver]
PATH = "/otlp/v1/traces"
ME = {"X-User-Id": "user"}


@pytest.fixture
async def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with inside(tmp_path, browser_traces=True) as program:
            yield program, receiver


def span(event: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The span of a page that handled an event just now, as an exporter of a browser sends it."""
    _, trace, parent, _ = event["traceparent"].split("-")
    now = time.time_ns()
    held = {"messaging.message.id": event["id"], **changes.pop("attributes", {})}
    return {
        "traceId": trace,
        "spanId": uuid.uuid4().hex[:16],
        "parentSpanId": parent,
        "name": "whatever the page calls it",
        "kind": 1,
        "startTimeUnixNano": str(now - 2_000_000),
        "endTimeUnixNano": str(now),
        "attributes": [{"key": name, "value": _value(value)} for name, value in held.items()],
        "droppedAttributesCount": 0,
        "events": [],
        "links": [],
        "status": {"code": 0},
        **changes,
    }


def _value(value: Any) -> dict[str, Any]:
    return {"intValue": value} if isinstance(value, int) else {"stringValue": value}


def request(*sent: Any) -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "somebody else"}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "x"}, "spans": list(sent)}]}]}


async def send(program: Inside, *sent: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    status, answer, _ = await program.request("POST", PATH, json=request(*sent), headers=headers or ME)
    return status, answer


async def events(program: Inside, user: str = "user") -> list[dict[str, Any]]:
    """Connect a link with a page open; the events as the page got them, each settled."""
    async with py_client(program.url, user) as page:
        await connect(program.user(user))
        await page.count(4)
        await ended(program.user(user), 4, "acked")
        return list(page.events)


async def results(program: Inside) -> dict[str, float]:
    samples = await program.user().metrics()
    name = "roundtrip_page_spans_total"
    found = {sample.split('"')[1]: value for sample, value in samples.items() if sample.startswith(name)}
    return {result: value for result, value in found.items() if value}


def resource(receiver: Receiver, wanted: Span) -> dict[str, str]:
    for batch in receiver.traces:
        for of in batch.resource_spans:
            if any(one.span_id == wanted.span_id for within in of.scope_spans for one in within.spans):
                return {pair.key: pair.value.string_value for pair in of.resource.attributes}
    raise LookupError


async def test_the_page_is_the_end_of_the_events_trace(traced: Traced) -> None:
    program, receiver = traced
    (first, *_) = await events(program)
    sent = span(
        first, attributes={"roundtrip.attempt.number": 1, "roundtrip.page.visibility": "visible", "secret": "x"}
    )
    assert await send(program, sent) == (200, {})
    (process,) = await spans(receiver, "process whatsapp_connecting")
    (create,) = await spans(receiver, "create whatsapp_connecting")
    assert (process.trace_id, process.parent_span_id) == (create.trace_id, create.span_id)
    assert process.span_id.hex() == sent["spanId"]
    assert process.kind == Span.SPAN_KIND_CONSUMER
    held = attributes(process)
    assert (held["messaging.operation.type"], held["messaging.message.id"]) == ("process", first["id"])
    assert held["roundtrip.link.id"] == first["linkId"]
    assert held["user.hash"] == attributes(create)["user.hash"]
    assert held["roundtrip.page.visibility"] == "visible"
    assert "secret" not in held, "only what is listed is taken"
    assert (process.end_time_unix_nano - process.start_time_unix_nano) == 2_000_000
    of_page, own = resource(receiver, process), resource(receiver, create)
    assert (of_page["service.name"], own["service.name"]) == ("roundtrip-page", "roundtrip")
    assert "service.instance.id" not in of_page, "a page is no process of ours"
    assert await results(program) == {"accepted": 1}
    _, kept, _ = await program.admin("GET", f"/debug/traces/{create.trace_id.hex()}")
    (seen,) = [one for one in kept["spans"] if one["name"] == "process whatsapp_connecting"]
    assert (seen["service"], seen["kind"], seen["parentId"]) == ("roundtrip-page", "CONSUMER", create.span_id.hex())
    _, story, _ = await program.admin("GET", f"/debug/console/events/{first['id']}")
    assert seen in story["traces"]["spans"]


async def test_what_failed_in_the_page_is_seen(traced: Traced) -> None:
    program, receiver = traced
    (first, second, *_) = await events(program)
    failed = span(first, status={"code": 2, "message": "private"}, attributes={"error.type": "TypeError"})
    assert await send(program, failed, span(second, status={"code": 2})) == (200, {})
    (process,) = await spans(receiver, "process whatsapp_connecting")
    assert (process.status.code, process.status.message) == (2, "TypeError")
    assert attributes(process)["error.type"] == "TypeError"
    (unnamed,) = await spans(receiver, "process whatsapp_qr")
    assert attributes(unnamed)["error.type"] == "_OTHER"


def _wrong(event: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Spans that are refused, by the reason."""
    create = int(event["traceparent"].split("-")[2], 16)
    golden = 0x9E3779B97F4A7C15
    hour = 3600 * 10**9
    return {
        "no_event": [span(event, attributes={"messaging.message.id": text}) for text in ("", "1", "x" * 5000)]
        + [span(event) | {"attributes": []}],
        "unknown_event": [span(event, attributes={"messaging.message.id": str(uuid.uuid4())})],
        "other_trace": [span(event, traceId="0" * 31 + "1"), span(event, parentSpanId="0" * 15 + "1")],
        "malformed": [
            span(event, spanId="0" * 16),
            span(event, spanId="xyz"),
            span(event, traceId="é" * 32),
            span(event, startTimeUnixNano="-5"),
            span(event, startTimeUnixNano="9" * 19),
            span(event, startTimeUnixNano="٣"),
            span(event, attributes={"roundtrip.attempt.number": 1 << 60}),
            span(event, spanId=f"{create:016x}"),  # the ids of the backend's own spans are not a page's to take
            *(span(event, spanId=f"{create ^ (n * golden & (1 << 64) - 1):016x}") for n in (1, 5, 6, 7)),
        ],
        "time": [
            span(event, startTimeUnixNano=1),
            span(event, startTimeUnixNano=str(time.time_ns()), endTimeUnixNano=str(time.time_ns() - 10**9)),
            span(event, endTimeUnixNano=str(time.time_ns() + hour)),
        ],
    }


async def test_what_is_not_the_pages_own_is_refused_and_the_rest_is_taken(traced: Traced) -> None:
    program, receiver = traced
    (first, second, *_) = await events(program)
    wrong = _wrong(first)
    for reason, sent in wrong.items():
        status, answer = await send(program, *sent, span(second))
        assert status == 200
        partial = answer["partialSuccess"]
        assert partial["rejectedSpans"] == str(len(sent)), (reason, answer)
        assert str(len(sent)) in partial["errorMessage"]
    expected = {reason: float(len(sent)) for reason, sent in wrong.items()}
    assert await results(program) == expected | {"accepted": len(wrong)}
    await spans(receiver, "process whatsapp_qr", len(wrong))
    assert not [one for one in receiver.spans if one.name == "process whatsapp_connecting"]
    await eventually(lambda: any(line.body.string_value == "page_spans_refused" for line in receiver.logs), 10)


async def test_another_users_event_is_as_unknown_as_one_that_never_was(traced: Traced) -> None:
    program, _ = traced
    (first, *_) = await events(program)
    other = {"X-User-Id": "somebody"}
    _, theirs = await send(program, span(first), headers=other)
    _, nobodys = await send(program, span(first, attributes={"messaging.message.id": str(uuid.uuid4())}), headers=other)
    assert theirs == nobodys
    assert await results(program) == {"unknown_event": 2}


async def test_a_request_is_bounded(traced: Traced) -> None:
    program, _ = traced
    (first, *_) = await events(program)
    status, answer = await send(program, *(span(first) for _ in range(40)))
    assert (status, answer["partialSuccess"]["rejectedSpans"]) == (200, "8")
    status, answer = await send(program, span(first, attributes={"x": "y" * 70_000}))
    assert (status, answer["code"]) == (413, "body_too_large")
    for body in ("{", "[]", '{"resourceSpans": 1}', json.dumps(request({"traceId": 1}))):
        status, answer, _ = await program.request("POST", PATH, data=body, headers=ME)
        assert (status, answer["code"]) == (400, "body_invalid"), body
    deep = '{"a":' * 50 + "1" + "}" * 50
    status, answer, _ = await program.request("POST", PATH, data=deep, headers=ME)
    assert (status, answer["code"]) == (400, "json_too_deep")


async def test_requests_have_a_rate_by_user(traced: Traced) -> None:
    program, _ = traced
    answers = [await program.request("POST", PATH, json={}, headers=ME) for _ in range(45)]
    refused = [headers for status, _, headers in answers if status == 429]
    assert refused
    assert int(refused[0]["retry-after"]) > 0
    limited = total(await program.user().metrics(), "roundtrip_rate_limited_total", limit="page_traces_per_user")
    assert limited == len(refused)
    assert (await program.request("POST", PATH, json={}, headers={"X-User-Id": "other"}))[0] == 200


async def test_it_is_authenticated_as_the_api_is(traced: Traced) -> None:
    program, _ = traced
    status, answer, _ = await program.request("POST", PATH, json={})
    assert (status, answer["code"]) == (401, "unauthorized")


async def test_a_page_of_an_allowed_origin_may_send(tmp_path: Path) -> None:
    origin = {"Origin": "https://app.example"}
    asked = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    async with inside(tmp_path, browser_traces=True, cors_origins=("https://app.example",)) as program:
        status, _, headers = await program.request("OPTIONS", PATH, headers=asked)
        assert (status, headers["access-control-allow-origin"]) == (204, "https://app.example")
        status, _, headers = await program.request("POST", PATH, json={}, headers=ME | origin)
        assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example")
        status, _, _ = await program.request("OPTIONS", PATH, headers=asked | {"Origin": "https://evil.example"})
        assert status == 403


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    async with inside(tmp_path) as program:
        status, answer, _ = await program.request("POST", PATH, json={}, headers=ME)
        assert (status, answer["code"]) == (404, "browser_traces_off")
        _, config, _ = await program.request("GET", "/api/config")
        assert config["browserTraces"] is False


async def test_no_span_is_without_its_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not sampled has no last span either; what is kept for its trouble has."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with inside(tmp_path, browser_traces=True) as program:
            (plain, *_) = await events(program)
            assert await send(program, span(plain)) == (200, {})  # a sampling decision is no refusal
            assert await results(program) == {"not_sampled": 1}
            await program.user().simulate("logout")
            await ended(program.user(), 4, "acked")
            async with py_client(program.url) as page:  # the one that it missed is replayed
                replayed = await _replayed(page)
                await ended(program.user(), 5, "acked")
            assert await send(program, span(replayed)) == (200, {})
            (process,) = await spans(receiver, f"process {replayed['type']}")
            (create,) = await spans(receiver, f"create {replayed['type']}")
        assert process.parent_span_id == create.span_id
        assert not [one for one in receiver.spans if one.name.endswith("whatsapp_connecting")]


async def test_the_ring_keeps_it_without_a_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    async with inside(tmp_path, browser_traces=True) as program:
        (first, *_) = await events(program)
        assert await send(program, span(first)) == (200, {})
        assert await results(program) == {"accepted": 1}
        _, traces, _ = await program.admin("GET", f"/debug/traces?event={first['id']}")
        assert [trace["spans"] for trace in traces["traces"]] == [4], "create, emit, ack and process"


async def _replayed(page: PyClient) -> dict[str, Any]:
    await page.count(1)
    found: dict[str, Any] = page.events[0]
    assert found["replayed"]
    return found
