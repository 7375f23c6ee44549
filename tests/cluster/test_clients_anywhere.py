"""Several whole programs on one PostgreSQL, from outside: stock clients and the public API on any of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import socketio

from tests.support.inside import Inside, inside
from tests.support.otlp import Receiver, receiving
from tests.support.py_client import eventually, py_client

Programs = Callable[..., Any]


@pytest.fixture
def programs(database: str, tmp_path: Path) -> Programs:
    """Starts programs of these names on one store."""

    @asynccontextmanager
    async def started(*names: str, **settings: Any) -> AsyncIterator[list[Inside]]:
        async with AsyncExitStack() as stack:
            running = []
            for name in names:
                options = {"store": database, "node_id": name, "simulated_scan_after": 0.3} | settings
                running.append(await stack.enter_async_context(inside(tmp_path / name, **options)))
            yield running

    return started


async def test_a_page_on_one_node_sees_what_happens_on_another(programs: Programs) -> None:
    async with programs("a", "b") as (a, b), py_client(b.url, auth={"acks": True}) as page:
        async with asyncio.timeout(5):
            while not all(socket["live"] for key in (await sockets(b))["keys"] for socket in key["sockets"]):
                await asyncio.sleep(0.01)
        await a.user().link()
        await page.until(lambda: page.events and page.events[-1]["type"] == "whatsapp_connected", 10)
        assert page.seqs == list(range(1, len(page.seqs) + 1))
        assert not any(event["replayed"] for event in page.events)

        async def acked() -> bool:
            return all(event["outcome"] == "acked" for event in await b.user().ledger())

        async with asyncio.timeout(5):
            while not await acked():
                await asyncio.sleep(0.02)
        events = await b.user().ledger()
        assert [event["seq"] for event in events] == page.seqs
        assert {attempt["node"] for event in events for attempt in event["attempts"]} == {"b"}
        timeline = (await a.user().call("GET", f"/api/events/{events[0]['id']}"))[1]
        assert [attempt["node"] for attempt in timeline["attempts"]] == ["b"]

        async def sums(name: str) -> float:
            return sum([total(await program.user().metrics(), name) for program in (a, b)])

        async with asyncio.timeout(5):
            while await sums("roundtrip_events_resolved_total") < len(events):
                await asyncio.sleep(0.05)
        assert await sums("roundtrip_events_created_total") == len(events)
        assert await sums("roundtrip_events_resolved_total") == len(events)
        assert await sums("roundtrip_missed_emits_total") == 0
        assert await sums("roundtrip_delivery_seconds_count") == len(events)


async def sockets(program: Inside) -> Any:
    return (await program.admin("GET", "/debug/sockets"))[1]


def total(metrics: dict[str, float], name: str) -> float:
    return sum(value for sample, value in metrics.items() if sample.split("{")[0] == name)


async def test_a_page_under_the_wrong_bot_on_another_node_is_a_key_mismatch(programs: Programs) -> None:
    async with programs("a", "b") as (a, b), py_client(b.url, bot="wrong"):
        await a.user().link()
        await a.user().state("connected")
        events = await a.user().ledger()
        reasons = {attempt["reason"] for event in events for attempt in event["attempts"]}
        assert reasons == {"key_mismatch"}
        assert all(len(event["attempts"]) == 1 for event in events)


async def accepted(client: socketio.AsyncClient, url: str, **auth: str) -> bool:
    try:
        await client.connect(url, auth={"userId": "user", "botId": "bot", **auth}, transports=["websocket"])
    except socketio.exceptions.ConnectionError:
        return False
    return True


@pytest.mark.parametrize("per_user", [False, True], ids=["per key", "per user"])
async def test_the_limit_of_sockets_holds_over_nodes(programs: Programs, per_user: bool) -> None:
    limit: dict[str, int] = {"max_sockets_per_user" if per_user else "max_sockets_per_key": 3}
    async with programs("a", "b", **limit) as (a, b):
        clients: list[socketio.AsyncClient] = []

        async def connect(program: Inside) -> bool:
            clients.append(socketio.AsyncClient(reconnection=False))
            return await accepted(clients[-1], program.url, botId=f"bot{len(clients)}" if per_user else "bot")

        try:
            for program in (a, b, a):
                assert await connect(program)
                await asyncio.sleep(0.15)  # presence is written within some 20 ms
            assert not await connect(a)
            assert not await connect(b)
            await clients[1].disconnect()
            await asyncio.sleep(0.15)
            assert await connect(a)
            for client in clients:
                await client.disconnect()
            await asyncio.sleep(0.15)
            let_in = await asyncio.gather(*(connect(program) for program in (a, b) * 6))  # all at once
            assert 3 <= sum(let_in) <= 4
        finally:
            for client in clients:
                await client.disconnect()


async def test_a_trace_over_three_nodes_is_one_story(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Created on A, emitted on B to a page that never answers, acknowledged on C."""
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with programs("a", "b", "c", simulated_scan_after=None) as (a, b, c):
            async with py_client(b.url, acking=False, acks=True) as silent:
                await a.user().link()
                await silent.until(lambda: len(silent.events) >= 2)
                wanted = silent.events[-1]
            async with py_client(c.url, acks=True) as page:
                await page.until(lambda: wanted["id"] in [event["id"] for event in page.events])
                await eventually(lambda: "c" in {node for node, _ in spans_of(receiver, wanted["id"])}, 10)
        story = spans_of(receiver, wanted["id"])
        kind = wanted["type"]
        assert {("a", f"create {kind}"), ("b", f"emit {kind}"), ("c", f"emit {kind}"), ("c", f"ack {kind}")} <= story
        assert len([one for one in story if one[1].startswith("create")]) == 1


def spans_of(receiver: Receiver, event_id: str) -> set[tuple[str, str]]:
    """Node and name of each span of an event."""
    return {
        (attribute(of.resource.attributes, "service.instance.id"), span.name)
        for request in receiver.traces
        for of in request.resource_spans
        for within in of.scope_spans
        for span in within.spans
        if attribute(span.attributes, "messaging.message.id") == event_id
    }


def attribute(pairs: Any, name: str) -> str:
    return next((str(pair.value.string_value) for pair in pairs if pair.key == name), "")
