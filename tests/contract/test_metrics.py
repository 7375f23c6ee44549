"""Chapter "Metrics": the names, what moves them, and that nothing of a person is in them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from socketio.exceptions import ConnectionError as ConnectionRefused

from tests.support.inside import Inside, inside
from tests.support.lives import connect, ended, settled, total
from tests.support.py_client import py_client

NAMES = {
    "roundtrip_sockets": {"transport"},
    "roundtrip_mapped_keys": set(),
    "roundtrip_socket_connects_total": {"result"},
    "roundtrip_socket_disconnects_total": {"reason"},
    "roundtrip_socket_lifetime_seconds_count": set(),
    "roundtrip_events_created_total": {"type"},
    "roundtrip_events_resolved_total": {"type", "outcome"},
    "roundtrip_events_pending": {"type"},
    "roundtrip_oldest_pending_event_age_seconds": set(),
    "roundtrip_oldest_pending_event_with_socket_age_seconds": set(),
    "roundtrip_ready": {"check"},
    "roundtrip_events_due_total": set(),
    "roundtrip_events_overdue_total": {"cause"},
    "roundtrip_links_flapping": set(),
    "roundtrip_event_ttl_seconds": set(),
    "roundtrip_store_up": set(),
    "roundtrip_outbox_limit_bytes": set(),
    "roundtrip_outbox_oldest_batch_age_seconds": set(),
    "roundtrip_emit_attempts_total": {"type", "mode", "result"},
    "roundtrip_missed_emits_total": {"type", "reason"},
    "roundtrip_delivery_seconds_count": {"mode", "grade"},
    "roundtrip_receipt_seconds_count": set(),
    "roundtrip_ack_seconds_count": set(),
    "roundtrip_outbox_write_seconds_count": set(),
    "roundtrip_links": {"state"},
    "roundtrip_link_transitions_total": {"to", "reason"},
    "roundtrip_link_pairing_seconds_count": set(),
    "roundtrip_link_restarts_total": set(),
    "roundtrip_event_loop_lag_seconds_count": set(),
    "roundtrip_telemetry_dropped_total": {"signal"},
    "roundtrip_fault_active": {"fault"},
    "roundtrip_build_info": set(),
}


@pytest.mark.parametrize("name", sorted(NAMES))
async def test_a_metric_of_the_contract_is_there_from_the_start(program: Inside, name: str) -> None:
    samples = await program.user().metrics()
    found = [sample for sample in samples if sample.partition("{")[0] == name]
    kind = name.removesuffix("_count")
    typed = re.search(rf"^# TYPE {kind} ", (await program.admin("GET", "/metrics"))[1], re.MULTILINE)
    assert found or typed, f"{name} is missing"
    for sample in found:
        assert NAMES[name] <= set(re.findall(r'(\w+)="', sample)), sample


async def test_each_refused_request_is_counted_under_its_limit(tmp_path: Path) -> None:
    async with inside(tmp_path, max_body=2048, max_json_depth=3, max_links_per_user=1) as program:
        user = program.user()
        await user.link("one")
        for body, limit in (
            (b'{"phoneNumber": "' + b"1" * 3000 + b'"}', "body_size"),
            (b"[" * 10 + b"]" * 10, "json_depth"),
            (b"{}", "links_per_user"),
        ):
            name = f'roundtrip_rate_limited_total{{limit="{limit}"}}'
            before = (await user.metrics())[name]
            status, _, _ = await program.request("PUT", "/api/bots/two/link", headers={"X-User-Id": "user"}, data=body)
            assert status >= 400
            assert (await user.metrics())[name] == before + 1, limit


@pytest.mark.parametrize("way", ["websocket", "POST", "POST in chunks"])
async def test_a_packet_that_is_too_large_is_counted_where_it_is_closed(tmp_path: Path, way: str) -> None:
    async with inside(tmp_path, max_packet=2048) as program:
        url = f"{program.url}/socket.io/?EIO=4&transport="
        packet = "4" + "x" * 4096
        if way == "websocket":
            async with program.session.ws_connect(f"{url}websocket", max_msg_size=0) as ws:
                await ws.send_str('40{"userId":"user","botId":"bot"}')
                await ws.send_str(packet)
                while (await ws.receive(10)).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert ws.close_code == 1009
        else:
            _, opened, _ = await program.request("GET", f"{url}polling")
            sid = json.loads(opened[1:])["sid"]

            async def pieces() -> AsyncIterator[bytes]:
                yield packet[:2000].encode()
                yield packet[2000:].encode()

            body: Any = packet if way == "POST" else pieces()
            status, _, _ = await program.request("POST", f"{url}polling&sid={sid}", data=body)
            assert status == 400

        async def counted() -> bool:
            samples = await program.user().metrics()
            return samples['roundtrip_rate_limited_total{limit="packet_size"}'] == 1

        await settled(counted)
        samples = await program.user().metrics()
        assert total(samples, "roundtrip_packets_refused_total") == 0, "it is a limit, and the protocol was kept"
        expected = {"protocol_error": 1.0} if way == "websocket" else {}
        name = "roundtrip_socket_disconnects_total"
        assert {reason: 1.0 for reason in ("protocol_error",) if total(samples, name, reason=reason)} == expected


async def test_a_socket_moves_its_metrics(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url), py_client(program.url, transports=["polling"]):
        samples = await user.metrics()
        assert samples['roundtrip_sockets{transport="websocket"}'] == 1
        assert samples['roundtrip_sockets{transport="polling"}'] == 1
        assert samples["roundtrip_mapped_keys"] == 1
        assert total(samples, "roundtrip_socket_connects_total") == 2

    async def gone() -> bool:
        samples = await user.metrics()
        return total(samples, "roundtrip_sockets") == 0 and total(samples, "roundtrip_socket_disconnects_total") == 2

    await settled(gone)
    assert (await user.metrics())["roundtrip_mapped_keys"] == 0


async def test_a_refusal_is_counted_by_its_code(tmp_path: Path) -> None:
    async with inside(tmp_path, max_sockets_per_key=1) as program, py_client(program.url):
        with pytest.raises(ConnectionRefused):
            async with py_client(program.url):
                pass
        samples = await program.user().metrics()
        assert total(samples, "roundtrip_socket_connects_total", result="too_many_sockets") == 1


async def test_an_acknowledged_event_moves_its_metrics(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url):
        await connect(user)
        await ended(user, 4, "acked")
    samples = await user.metrics()
    for type_ in ("whatsapp_connecting", "whatsapp_qr", "whatsapp_paired", "whatsapp_connected"):
        assert total(samples, "roundtrip_events_created_total", type=type_) == 1
        assert total(samples, "roundtrip_events_resolved_total", type=type_, outcome="acked") == 1
        assert total(samples, "roundtrip_emit_attempts_total", type=type_, mode="live", result="sent") == 1
    assert total(samples, "roundtrip_missed_emits_total") == 0
    assert total(samples, "roundtrip_delivery_seconds_count", mode="live", grade="acked") == 4
    assert total(samples, "roundtrip_ack_seconds_count") == 4
    assert total(samples, "roundtrip_outbox_write_seconds_count") > 0
    assert total(samples, "roundtrip_link_pairing_seconds_count") == 1


async def test_requests_are_counted_by_route_on_both_listeners(program: Inside) -> None:
    user = program.user()
    await user.link("one")
    await user.link("two")
    for path in ("/api/bots/one/events?limit=0", "/nothing/here", "/%2e%2e/etc"):
        await program.request("GET", path, headers={"X-User-Id": "user"})
    await program.request("PATCH", "/api/bots/one/link")
    async with py_client(program.url):
        pass
    await program.admin("GET", "/debug/sockets")

    def counted(samples: dict[str, float], **labels: str) -> float:
        return total(samples, "http_server_request_duration_seconds_count", **labels)

    def series(samples: dict[str, float]) -> set[str]:
        return {name for name in samples if name.startswith("http_server_request_duration_seconds_count")}

    await user.metrics()  # so that this route has its series
    samples = await user.metrics()
    route = "/api/bots/{bot_id}/link"
    assert counted(samples, method="PUT", route=route, status_class="2xx") == 2
    assert counted(samples, method="GET", route="/api/bots/{bot_id}/events", status_class="4xx") == 1
    assert counted(samples, method="GET", route="/debug/sockets", status_class="2xx") == 1
    assert counted(samples, method="GET", route="other", status_class="4xx") == 2
    assert counted(samples, method="other", status_class="4xx") == 1
    for number in range(20):
        await program.request("GET", f"/nothing/{number}")
        await program.request("PUT", f"/api/bots/{number}/link", headers={"X-User-Id": f"u{number}"})
    after = await user.metrics()
    assert counted(after, method="GET", route="other") == 22
    assert series(after) == series(samples), "nobody can add a series"


async def test_a_miss_and_its_replay_move_theirs(program: Inside) -> None:
    user = program.user()
    await connect(user)
    samples = await user.metrics()
    assert total(samples, "roundtrip_missed_emits_total", reason="never_connected") == 4
    assert total(samples, "roundtrip_emit_attempts_total", result="missed", mode="live") == 4
    pending = total(samples, "roundtrip_events_pending")
    assert pending > 0
    assert samples["roundtrip_oldest_pending_event_age_seconds"] > 0
    async with py_client(program.url):
        await ended(user, int(pending), "acked")
    samples = await user.metrics()
    assert total(samples, "roundtrip_emit_attempts_total", result="sent", mode="replay") == pending
    assert total(samples, "roundtrip_delivery_seconds_count", mode="replay") == pending
    assert total(samples, "roundtrip_delivery_seconds_count", mode="live") == 0
    assert total(samples, "roundtrip_events_pending") == 0
    assert samples["roundtrip_oldest_pending_event_age_seconds"] == 0


async def test_what_waits_for_nobody_is_old_and_what_a_socket_does_not_get_is_noticed(program: Inside) -> None:
    user = program.user()
    await connect(user)
    samples = await user.metrics()
    assert samples["roundtrip_oldest_pending_event_age_seconds"] > 0
    assert samples["roundtrip_oldest_pending_event_with_socket_age_seconds"] == 0, "nobody is there"
    assert total(samples, "roundtrip_events_due_total") == 0
    other = program.user("other")
    await program.fault("key_mismatch")
    async with py_client(program.url, "other"):
        await other.link()
        await other.state("qr")
        first = (await user.metrics())["roundtrip_oldest_pending_event_with_socket_age_seconds"]
        assert first > 0, "the page is connected, and its events wait"
        samples = await user.metrics()
        assert samples["roundtrip_oldest_pending_event_with_socket_age_seconds"] > first
        assert total(samples, "roundtrip_events_overdue_total", cause="key_mismatch") >= 2
        assert total(samples, "roundtrip_events_due_total") == total(samples, "roundtrip_events_overdue_total")
        await program.fault("key_mismatch", on=False)

        async def nothing_waits() -> bool:
            return (await user.metrics())["roundtrip_oldest_pending_event_with_socket_age_seconds"] == 0

        async with py_client(program.url, "other"):  # a replay brings them
            await settled(nothing_waits)


async def test_a_commit_that_hangs_is_seen_while_it_hangs(program: Inside) -> None:
    user = program.user()
    await program.fault("slow_outbox", parameter=4)
    link = asyncio.ensure_future(user.link())
    deadline = time.monotonic() + 10
    while (samples := await user.metrics())["roundtrip_outbox_oldest_batch_age_seconds"] < 2.5:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    while samples['roundtrip_ready{check="outbox"}'] != 0:
        assert time.monotonic() < deadline
        await program.admin("GET", "/readyz")
        samples = await user.metrics()
    await program.fault("slow_outbox", on=False)
    await link
    while (await user.metrics())["roundtrip_outbox_oldest_batch_age_seconds"] > 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_a_link_is_counted_in_exactly_one_state(program: Inside) -> None:
    user = program.user()
    for action, state in ((None, "qr"), ("scan", "connected"), ("logout", "logged_out")):
        if action is None:
            await user.link()
        else:
            await user.simulate(action)
        await user.state(state)
        samples = await user.metrics()
        assert total(samples, "roundtrip_links", state=state) == 1
        assert total(samples, "roundtrip_links") == 1
        assert total(samples, "roundtrip_link_transitions_total", to=state) == 1


async def test_nothing_of_a_person_is_a_label(program: Inside) -> None:
    user = program.user("linnet-user")
    async with py_client(program.url, "linnet-user", "linnet-bot"):
        await connect(user, "linnet-bot")
    number = (await user.snapshot("linnet-bot"))["phoneNumber"]
    _, text, _ = await program.admin("GET", "/metrics")
    assert "linnet" not in text
    assert number not in text
    assert number[1:] not in text
    assert "2@" not in text


async def test_openmetrics_carries_exemplars(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url):
        await connect(user)
        await ended(user, 4, "acked")
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    status, text, answered = await program.admin("GET", "/metrics", headers=headers)
    assert status == 200
    assert answered["content-type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
