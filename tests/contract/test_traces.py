"""Chapter "Traces": which spans there are, how they hang together, and what they must not say."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import socketio
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.inside import Inside, inside
from tests.support.lives import connect, ended, settled
from tests.support.otlp import Receiver, receiving
from tests.support.py_client import eventually, py_client

Traced = tuple[Inside, Receiver]


@pytest.fixture
async def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    """The program, exporting every span to a receiver."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with inside(tmp_path) as program:
            yield program, receiver


def attributes(span: Span) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        if kind == "array_value":
            held[pair.key] = [one.string_value for one in pair.value.array_value.values]
        else:
            held[pair.key] = getattr(pair.value, kind) if kind else None
    return held


async def spans(receiver: Receiver, name: str, count: int = 1) -> list[Span]:
    await eventually(lambda: len([span for span in receiver.spans if span.name == name]) >= count, 10)
    return [span for span in receiver.spans if span.name == name]


def links_to(span: Span) -> set[bytes]:
    return {link.span_id for link in span.links}


async def test_one_event_from_the_request_to_the_acknowledgement(traced: Traced) -> None:
    program, receiver = traced
    async with py_client(program.url):
        await connect(program.user())
        events = await ended(program.user(), 4, "acked")
    (request,) = await spans(receiver, "PUT /api/bots/{bot_id}/link")
    (create,) = await spans(receiver, "create whatsapp_connecting")
    (emit,) = await spans(receiver, "emit whatsapp_connecting")
    (ack,) = await spans(receiver, "ack whatsapp_connecting")
    assert request.kind == Span.SPAN_KIND_SERVER
    assert create.kind == Span.SPAN_KIND_PRODUCER
    assert emit.kind == Span.SPAN_KIND_CLIENT
    assert create.trace_id == request.trace_id
    assert create.span_id in links_to(emit)
    assert create.span_id in links_to(ack) | {ack.parent_span_id} or emit.span_id in links_to(ack)
    for span in (create, emit, ack):
        assert attributes(span)["messaging.message.id"] == events[0]["id"]
        assert attributes(span)["roundtrip.link.id"] == events[0]["linkId"]
    assert int(attributes(emit)["roundtrip.sockets.found"]) == 1
    _, event, _ = await program.request("GET", f"/api/events/{events[0]['id']}", headers={"X-User-Id": "user"})
    assert event["traceId"] == create.trace_id.hex()


async def test_a_caller_sees_its_own_trace_go_on(traced: Traced) -> None:
    program, receiver = traced
    trace = "0123456789abcdef0123456789abcdef"
    headers = {"X-User-Id": "user", "traceparent": f"00-{trace}-0123456789abcdef-01"}
    await program.request("PUT", "/api/bots/bot/link", headers=headers)
    (request,) = await spans(receiver, "PUT /api/bots/{bot_id}/link")
    (create,) = await spans(receiver, "create whatsapp_connecting")
    assert request.trace_id.hex() == create.trace_id.hex() == trace
    assert request.parent_span_id.hex() == "0123456789abcdef"


async def test_a_miss_says_why_in_its_span(traced: Traced) -> None:
    program, receiver = traced
    await program.user().link()
    (emit,) = await spans(receiver, "emit whatsapp_connecting")
    held = attributes(emit)
    assert held["roundtrip.miss.reason"] == held["error.type"] == "never_connected"
    assert int(held["roundtrip.sockets.found"]) == 0
    assert emit.status.code == 2


@pytest.mark.parametrize("emitter", [True, False], ids=["the caller took the userId", "the page took the userId"])
async def test_a_mismatch_says_what_was_looked_for_and_what_was_there(traced: Traced, emitter: bool) -> None:
    """In the span, the log's line, the ledger and the timeline alike; never as ids."""
    program, receiver = traced
    asked, there = ("user", "bot") if emitter else ("bot", "user")
    async with py_client(program.url, "user", there):
        await program.user().link(asked)
        (emit,) = await spans(receiver, "emit whatsapp_connecting")
    async with py_client(program.url, "user", asked):  # a span under the other key, for its hash
        await program.user().link(there)
        (_, other) = await spans(receiver, "emit whatsapp_connecting", 2)
    held = attributes(emit)
    looked_for, connected = held["roundtrip.looked_for"], held["roundtrip.connected"]
    assert looked_for == held["roundtrip.key.hash"]
    assert connected == [attributes(other)["roundtrip.key.hash"]]
    assert (held["roundtrip.looked_for.is_user"], held["roundtrip.connected.is_user"]) == (emitter, not emitter)
    event = (await program.user().ledger(asked))[0]
    told = (await program.user().call("GET", f"/api/events/{event['id']}"))[1]
    for attempt in (event["attempts"][0], told["attempts"][0]):
        assert (attempt["lookedFor"], attempt["connected"]) == (looked_for, connected)
        flags = (attempt.get("lookedForIsUser", False), attempt.get("connectedIsUser", False))
        assert flags == (emitter, not emitter)
    await eventually(lambda: any(line.body.string_value == "emit_missed" for line in receiver.logs), 10)
    line = next(line for line in receiver.logs if line.body.string_value == "emit_missed")
    said = {pair.key: pair.value for pair in line.attributes}
    assert said["looked_for"].string_value == looked_for
    assert [value.string_value for value in said["connected"].array_value.values] == connected
    assert said["looked_for_is_user"].bool_value is emitter


async def test_the_seeds_fault_looks_for_another_key_than_the_events_own(traced: Traced) -> None:
    program, receiver = traced
    await program.fault("key_mismatch")
    async with py_client(program.url):
        await program.user().link()
        (emit,) = await spans(receiver, "emit whatsapp_connecting")
    held = attributes(emit)
    assert held["roundtrip.miss.reason"] == "key_mismatch"
    assert held["roundtrip.connected"] == [held["roundtrip.key.hash"]] != [held["roundtrip.looked_for"]]
    assert held["roundtrip.looked_for.is_user"] is True
    (attempt,) = (await program.user().ledger())[0]["attempts"]
    assert attempt["lookedFor"] == held["roundtrip.looked_for"]


async def test_what_misses_later_has_its_request_as_root_though_nothing_plain_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with inside(tmp_path) as program:
            user = program.user()
            async with py_client(program.url):
                await user.link()
                await user.state("qr")
                await ended(user, 2, "acked")
                # The request and the link's start are exported long before anything goes wrong
                (request,) = await spans(receiver, "PUT /api/bots/{bot_id}/link")
                (start,) = await spans(receiver, "link start")
                await program.fault("key_mismatch")
                await user.simulate("scan")
                (emit,) = await spans(receiver, "emit whatsapp_paired")
        trace = [span for span in receiver.spans if span.trace_id == emit.trace_id]
        ids = {span.span_id for span in trace}
        assert [span.name for span in trace if span.parent_span_id not in ids] == [request.name]
        assert start in trace
        assert not [span for span in trace if span.name.endswith("whatsapp_connecting")], "a plain success is not kept"


async def test_a_refused_handshake_has_a_span_with_its_code(traced: Traced) -> None:
    program, receiver = traced
    trace = "0123456789abcdef0123456789abcdef"
    auth = {"userId": "user", "traceparent": f"00-{trace}-0123456789abcdef-01"}
    client = socketio.AsyncClient(reconnection=False)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(program.url, auth=auth, transports=["websocket"])
    (span,) = await spans(receiver, "socket connect")
    held = attributes(span)
    assert (held["error.type"], held["roundtrip.socket.mapped"]) == ("bot_id_missing", False)
    assert (span.status.code, span.trace_id.hex()) == (2, trace)
    assert span.parent_span_id.hex() == "0123456789abcdef"
    assert "user.hash" not in held, "nobody has proved to be that user"


async def test_a_request_has_the_stable_attributes_and_keeps_its_tracestate(traced: Traced) -> None:
    program, receiver = traced
    headers = {
        "X-User-Id": "user",
        "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        "tracestate": "vendor=x,other=y",
    }
    await program.request("PUT", "/api/bots/bot%204711/link?secret=1", headers=headers)
    (span,) = await spans(receiver, "PUT /api/bots/{bot_id}/link")
    held = attributes(span)
    assert (held["http.request.method"], held["http.route"]) == ("PUT", "/api/bots/{bot_id}/link")
    assert (held["url.scheme"], held["server.address"]) == ("http", "127.0.0.1")
    assert held["server.port"] == int(program.url.rsplit(":", 1)[1])
    assert held["http.response.status_code"] == 202
    assert re.fullmatch(r"/api/bots/[0-9a-f]{16}/link", held["url.path"]), "the bot's id is hashed"
    assert re.fullmatch(r"[0-9a-f]{16}", held["network.peer.address"]), "so is the caller's address"
    assert "4711" not in str(span)
    assert span.trace_state == "vendor=x,other=y"


async def test_a_tracestate_is_kept_on_the_whole_story(traced: Traced) -> None:
    """Also on what the link does later; not on the traces of others."""
    program, receiver = traced
    trace = "0123456789abcdef0123456789abcdef"
    headers = {
        "X-User-Id": "user",
        "traceparent": f"00-{trace}-0123456789abcdef-01",
        "tracestate": "vendor=x,other=y",
    }
    async with py_client(program.url), py_client(program.url, "other"):
        await program.request("PUT", "/api/bots/bot/link", headers=headers)
        await program.user().state("qr")
        await program.user().simulate("scan")
        await connect(program.user("other"))
        await ended(program.user(), 4, "acked")
        await ended(program.user("other"), 4, "acked")
    await spans(receiver, "ack whatsapp_connected", 2)
    await spans(receiver, "ack whatsapp_connecting", 2)
    story = [span for span in receiver.spans if span.trace_id.hex() == trace]
    wanted = {f"{what} whatsapp_{type_}" for what in ("create", "emit", "ack") for type_ in ("connecting", "connected")}
    assert wanted | {"link start"} <= {span.name for span in story}
    assert {span.trace_state for span in story} == {"vendor=x,other=y"}
    assert {span.trace_state for span in receiver.spans if span not in story} == {""}


@pytest.mark.parametrize("state", ["=,=;", "a=" + "x" * 600, "\u00fc"])
async def test_a_wrong_tracestate_does_no_harm(traced: Traced, state: str) -> None:
    program, receiver = traced
    headers = {"X-User-Id": "user", "traceparent": f"00-{7:032x}-{8:016x}-01", "tracestate": state}
    status, _, _ = await program.request("PUT", "/api/bots/bot/link", headers=headers)
    assert status == 202
    (span,) = await spans(receiver, "PUT /api/bots/{bot_id}/link")
    assert (span.trace_id.hex(), span.trace_state) == (f"{7:032x}", "")


async def test_a_replay_is_linked_to_what_it_replays(traced: Traced) -> None:
    program, receiver = traced
    user = program.user()
    await connect(user)
    async with py_client(program.url) as page:
        await page.until(lambda: page.events and page.events[-1]["type"] == "whatsapp_connected")
        await ended(user, len(page.events), "acked")
        (create,) = await spans(receiver, "create whatsapp_connected")
        emits = await spans(receiver, "emit whatsapp_connected", 2)
    assert all(create.span_id in links_to(emit) for emit in emits)
    (socket,) = await spans(receiver, "socket connect")
    assert socket.end_time_unix_nano - socket.start_time_unix_nano < 10_000_000_000


async def test_a_socket_takes_up_its_pages_trace(traced: Traced) -> None:
    program, receiver = traced
    trace = "fedcba9876543210fedcba9876543210"
    async with py_client(program.url, traceparent=f"00-{trace}-0123456789abcdef-01"):
        (socket,) = await spans(receiver, "socket connect")
    assert socket.trace_id.hex() == trace


async def test_no_span_names_a_person(traced: Traced) -> None:
    program, receiver = traced
    user = program.user("canary-user")
    async with py_client(program.url, "canary-user"):
        await connect(user)
        await ended(user, 4, "acked")
    number = (await user.snapshot())["phoneNumber"]
    await spans(receiver, "ack whatsapp_connected")
    hashes = {attributes(span).get("user.hash") for span in receiver.spans} - {None}
    assert len(hashes) == 1
    everything = b"".join(span.SerializeToString() for span in receiver.spans)
    for private in ("canary-user", number, number[1:], "2@"):
        assert private.encode() not in everything


@pytest.mark.parametrize(
    ("attributes", "node_id", "expected"),
    [("service.instance.id=outer", "inner", "outer"), ("", "inner", "inner"), ("", None, None)],
)
async def test_traces_logs_and_metrics_name_one_and_the_same_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attributes: str, node_id: str | None, expected: str | None
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", attributes)
        async with inside(tmp_path, node_id=node_id) as program:
            await program.user().link()
            metrics = await program.user().metrics()
    named = [
        {pair.key: pair.value.string_value for pair in of.resource.attributes}["service.instance.id"]
        for path, body in receiver.bodies
        for of in (
            ExportTraceServiceRequest.FromString(body).resource_spans
            if path == "/v1/traces"
            else ExportLogsServiceRequest.FromString(body).resource_logs
        )
    ]
    (info,) = [name for name in metrics if name.startswith("roundtrip_build_info")]
    assert {path for path, _ in receiver.bodies} == {"/v1/traces", "/v1/logs"}
    assert len(set(named)) == 1
    assert f'service_instance_id="{named[0]}"' in info
    assert expected is None or named[0] == expected


async def test_what_arrived_is_counted(traced: Traced) -> None:
    program, receiver = traced
    await program.user().link()
    await spans(receiver, "create whatsapp_connecting")

    async def all_counted() -> bool:
        return (await program.user().metrics())["roundtrip_spans_exported_total"] == len(receiver.spans)

    await settled(all_counted)


async def test_a_queue_size_that_is_no_number_keeps_nothing_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "nonsense")
        async with inside(tmp_path) as program:
            await program.user().link()
        await spans(receiver, "create whatsapp_connecting")
