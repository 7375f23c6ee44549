"""The proof: each named fault moves its panel, fires its alert, and its exemplar opens the trace that explains it.

Real Prometheus, Alertmanager and collector over the real program with stock clients; the panels' own queries are taken
from the dashboards' JSON. Rules run thirty times faster, see `observers`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.dashboards.boards import Panel, panel, panels
from tests.stack.house import House, house, missed, says
from tests.stack.observers import WATCHDOG, Sample

pytestmark = [pytest.mark.slow, pytest.mark.waits, pytest.mark.timeout(600)]


def count(shown: list[Sample], **labels: str) -> float:
    """The sum of a panel's values that have these labels."""
    return sum(value for held, value in shown if labels.items() <= held.items())


def by_type_and_reason(shown: list[Sample]) -> Counter[tuple[str, str]]:
    return Counter({(held["type"], held["reason"]): int(value) for held, value in shown})


def exactly(lost: Counter[tuple[str, str]], before: Iterable[Sample] = ()) -> Callable[[list[Sample]], bool]:
    """A panel shows these misses by type and reason, to the unit, beside those that it showed `before`."""
    known = by_type_and_reason(list(before))
    return lambda shown: {kind: by_type_and_reason(shown)[kind] - known[kind] for kind in lost} == lost


def unanswered(lost: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """Those without an acknowledgement. Others go on: codes change while nobody looks at them any more."""
    return Counter({kind: count for kind, count in lost.items() if kind[1] == "ack_timeout"})


# Each fault: switch it on, drive clients, see panel, alert and trace, switch it off. Returns the alert's name.


async def key_mismatch(it: House) -> str:
    people = [it.newcomer() for _ in range(3)]
    began = time.time()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(it.page(who)) for who in people]
        await it.switch("key_mismatch", on=True)
        for who in people:
            await who.link()
            await who.state("qr")
        # Exactly two events each, connecting and qr, and each of them missed once
        await it.shows("socket-mapping", "Misses in this time range", exactly(await missed(*people)))
        assert await missed(*people) == {
            ("whatsapp_connecting", "key_mismatch"): len(people),
            ("whatsapp_qr", "key_mismatch"): len(people),
        }
        await it.shows("socket-mapping", "Why", lambda shown: count(shown, reason="key_mismatch") == 2 * len(people))
        await it.shows("socket-mapping", "Missing since", lambda shown: bool(shown))
        await it.fires("RoundtripKeyMismatch")
        await it.explained(
            'roundtrip_missed_emits_total{reason="key_mismatch"}',
            began,
            lambda span: span.name.startswith("emit ") and says(span, roundtrip_miss_reason="key_mismatch"),
        )
        await it.switch("key_mismatch", on=False)
        assert not any(client.events for client in clients)
    # Whoever comes again gets the newest code after all
    async with it.page(people[0]) as back:
        await back.count(2)
        assert back.events[-1]["type"] == "whatsapp_qr"
    return "RoundtripKeyMismatch"


async def stale_cleanup(it: House) -> str:
    people = [it.newcomer() for _ in range(3)]
    began = time.time()
    await it.switch("stale_cleanup", on=True)
    async with AsyncExitStack() as stack:
        for who in people:
            async with AsyncExitStack() as old:
                await old.enter_async_context(it.page(who))
                await stack.enter_async_context(it.page(who))  # a reload: the new page comes before the old one goes
        for who in people:
            await who.link()
            await who.state("qr")
            await who.simulate("scan")
            await who.state("connected")
        await it.fires("RoundtripMissedEmits")
        lost = await missed(*people)
        assert sum(lost.values()) >= 4 * len(people), "the pages are connected, and every event misses"
        reason = next(iter(lost))[1]
        await it.shows("socket-mapping", "Misses in this time range", exactly(lost))
        await it.explained(
            f'roundtrip_missed_emits_total{{reason="{reason}"}}',
            began,
            lambda span: span.name.startswith("emit ") and says(span, roundtrip_miss_reason=reason),
        )
        await it.switch("stale_cleanup", on=False)
    return "RoundtripMissedEmits"


async def drop_acks(it: House) -> str:
    people = [it.newcomer() for _ in range(3)]
    # What earlier faults lost must have been scraped, or it would be taken for this one's
    await it.shows("socket-mapping", "Misses in this time range", exactly(unanswered(await it.missed_so_far())))
    before = await it.prometheus.panel(panel("socket-mapping", "Misses in this time range"))
    began = time.time()
    await it.switch("drop_acks", on=True)
    async with AsyncExitStack() as stack:
        for who in people:
            await stack.enter_async_context(it.page(who))
            await who.link()
        await it.fires("RoundtripAcksMissing")
        await it.fires("RoundtripDeliveryBurnFast")
        await it.shows("delivery", "The same, counted", lambda shown: count(shown, cause="ack_timeout") >= len(people))
        await it.explained(
            'roundtrip_missed_emits_total{reason="ack_timeout"}',
            began,
            lambda span: span.name.startswith("emit ") and says(span, error_type="ack_timeout"),
        )
        await it.switch("drop_acks", on=False)

        async def settled() -> bool:
            return not [event for who in people for event in await who.ledger() if event["outcome"] == "pending"]

        await it.until("the retries are acknowledged", settled)
    await it.shows("socket-mapping", "Misses in this time range", exactly(unanswered(await missed(*people)), before))
    return "RoundtripAcksMissing"


async def drop_receipts(it: House) -> str:
    # An older page that never acknowledges: receipts are all that confirms, and they come
    async with it.page(it.newcomer(), acks=False) as old:
        before = it.newcomer()
        async with it.page(before, acks=False) as page:
            await before.link()
            await page.count(2)
        assert not old.events
    began = time.time()
    await it.switch("drop_receipts", on=True)
    async with AsyncExitStack() as stack:
        enough = asyncio.Event()

        async def people_come() -> None:
            while not enough.is_set():
                who = it.newcomer()
                await stack.enter_async_context(it.page(who, acks=False))
                await who.link()
                await asyncio.sleep(1.5)

        coming = asyncio.ensure_future(people_come())
        try:
            await it.fires("RoundtripReceiptsMissing")
        finally:
            enough.set()
            await coming
        await it.shows("delivery", "Confirmations", lambda shown: count(shown) > 0)
        await it.shows("delivery", "Confirmations", lambda shown: count(shown) == 0, target=1)
        await it.explained(
            'roundtrip_missed_emits_total{reason="ack_timeout"}',
            began,
            lambda span: span.name.startswith("emit ") and says(span, error_type="ack_timeout"),
        )
        await it.switch("drop_receipts", on=False)
    return "RoundtripReceiptsMissing"


async def early_disconnect(it: House) -> str:
    began = time.time()
    await it.switch("early_disconnect", on=True, parameter=100)

    enough = asyncio.Event()

    async def pages_come_and_go() -> None:
        while not enough.is_set():
            who = it.newcomer()
            async with it.page(who) as page:
                while page.io.connected:
                    await asyncio.sleep(0.05)
            await who.link()

    coming = [asyncio.ensure_future(pages_come_and_go()) for _ in range(3)]
    try:
        await it.fires("RoundtripSocketChurn")
    finally:
        enough.set()
        await asyncio.gather(*coming)
    await it.shows("socket-mapping", "Sockets that left within 5 seconds", lambda shown: count(shown) >= 5)
    await it.shows(
        "socket-mapping", "Disconnects by reason", lambda shown: count(shown, reason="server disconnect") >= 5
    )
    await it.explained(
        'roundtrip_missed_emits_total{reason="just_disconnected"}',
        began,
        lambda span: says(span, roundtrip_miss_reason="just_disconnected"),
    )
    await it.switch("early_disconnect", on=False)
    return "RoundtripSocketChurn"


async def slow_outbox(it: House) -> str:
    began = time.time()
    who = it.newcomer()
    async with it.page(who) as page:
        await it.switch("slow_outbox", on=True, parameter=1.2)
        await who.link()
        await page.count(2, within=15)
        await it.fires("RoundtripOutboxSlow")
        await it.shows("backend", "Outbox write time", lambda shown: count(shown) > 1, target=1)
        await it.explained(
            "roundtrip_delivery_seconds_bucket",
            began,
            lambda span: (
                span.name.startswith("create ") and span.end_time_unix_nano - span.start_time_unix_nano > 1_000_000_000
            ),
        )
        await it.switch("slow_outbox", on=False)
    return "RoundtripOutboxSlow"


async def outbox_down(it: House) -> str:
    await it.switch("outbox_down", on=True)
    for _ in range(3):
        status, problem = await it.newcomer().call("PUT", "/api/bots/bot/link")
        assert (status, problem["code"]) == (503, "outbox_unavailable")
    await it.fires("RoundtripOutboxFailing")
    await it.shows("backend", "Failed commits", lambda shown: count(shown) > 0)

    # No event was stored, so none has an exemplar: the refused request's own trace says why
    async def refused() -> bool:
        return any("PUT" in span.name and span.status.code == 2 for span in it.sink.spans())

    await it.until("the refused request's trace is kept", refused)
    await it.switch("outbox_down", on=False)
    await it.newcomer().link()
    return "RoundtripOutboxFailing"


async def whatsapp_flap(it: House) -> str:
    people = [it.newcomer() for _ in range(3)]
    async with AsyncExitStack() as stack:
        for who in people:
            await stack.enter_async_context(it.page(who))
            await who.link()
            await who.state("qr")
            await who.simulate("scan")
            await who.state("connected")
        began = time.time()
        await it.switch("whatsapp_flap", on=True, parameter=0.5)
        await it.fires("RoundtripLinkFlapping")
        await it.shows("whatsapp-links", "Flaps", lambda shown: count(shown) >= 3)
        # A short loss is no event, so it has no exemplar; that the link flaps is told once, and that has one
        await it.explained(
            'roundtrip_delivery_seconds_bucket{mode="live"}',
            began,
            lambda span: span.name == "create whatsapp_degraded",
        )
        await it.switch("whatsapp_flap", on=False)
    return "RoundtripLinkFlapping"


async def host_death(it: House) -> str:
    people = [it.newcomer() for _ in range(3)]
    async with AsyncExitStack() as stack:
        for who in people:
            await stack.enter_async_context(it.page(who))
            await who.link()
            await who.state("qr")
            await who.simulate("scan")
            await who.state("connected")
        began = time.time()
        await it.switch("host_death", on=True, parameter=2.0)
        await it.fires("RoundtripHostDies")
        await it.shows("whatsapp-links", "Workers that ended", lambda shown: count(shown) >= 3)
        # Each gap is too short to be told; that they do not end is told once, and that event has an exemplar
        await it.explained(
            'roundtrip_delivery_seconds_bucket{mode="live"}',
            began,
            lambda span: span.name == "worker move",
        )
        await it.switch("host_death", on=False)
    return "RoundtripHostDies"


FAULTS: dict[str, Callable[[House], Awaitable[str]]] = {
    fault.__name__: fault
    for fault in (
        host_death,  # its links flap, which takes longest to be over
        key_mismatch,
        stale_cleanup,
        drop_receipts,
        drop_acks,
        early_disconnect,
        slow_outbox,
        outbox_down,
        whatsapp_flap,
    )
}


@pytest.mark.waits(150)
async def test_each_fault_moves_its_panel_fires_its_alert_and_is_explained_by_a_trace(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        fired = {}
        for name, prove in FAULTS.items():
            try:
                fired[name] = await prove(it)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"{name}: {error}") from error
            assert it.webhook.told("RoundtripFaultActive", "firing")
        for alert in (*fired.values(), "RoundtripFaultActive"):
            await it.resolves(alert)


NOTHING_IS_WRONG = {
    "socket-mapping: Why [0]": "nothing is missing",
    "socket-mapping: Why [1]": "everybody is there",
    "socket-mapping: Which events": "nothing is missing",
    "socket-mapping: Missing since": "nothing is missing",
    "socket-mapping: Firing alerts": "no alert fires",
    "socket-mapping: Misses in this time range": "nothing was missed",
    "socket-mapping: Missed emits by reason": "nothing was missed",
    "socket-mapping: Key mismatches by event": "nothing was missed",
    "socket-mapping: Refusals by limit": "nobody exceeds a limit",
    "socket-mapping: Refused packets": "nobody breaks the socket protocol",
    "delivery: Expired and discarded": "nothing expired",
    "delivery: What consumed the error budget": "everything was confirmed in time",
    "delivery: The same, counted": "everything was confirmed in time",
    "backend: Collector: spans in and out [4]": "the collector counts what found no room when there is some",
    "delivery: Pending events by type": "nothing waits",
    "whatsapp-links: Links that need a person": "all links are well",
    "whatsapp-links: Restarts and worker exits [1]": "no worker ended",
    "whatsapp-links: Restarts and worker exits [2]": "no link keeps crashing",
    "whatsapp-links: Workers that ended": "no worker ended",
    "backend: Faults switched on": "no fault is on",
    "backend: Requests that are none": "nobody sends what is no HTTP request",
    "backend: Logins to the console": "the key is asked for beyond loopback only",
    "backend: Collector: spans in and out [1]": "the collector counts refusals when there are some",
    "backend: Collector: spans in and out [3]": "the collector counts failures when there are some",
    "backend: Span durations": "needs a Prometheus with an OTLP receiver; see test_collector",
}
"""Queries that are empty when all is well."""


async def _standard_walk(it: House) -> None:
    """Three people link with a page open, one over polling, one with a page that never acknowledges."""
    async with AsyncExitStack() as stack:
        for acks, polling in ((True, False), (True, True), (False, False)):
            who = it.newcomer()
            page = await stack.enter_async_context(it.page(who, acks=acks, polling=polling))
            await who.link()
            await who.state("qr")
            await who.simulate("scan")
            await who.state("connected")
            await page.count(4)  # connecting, qr, paired, connected
        await asyncio.sleep(6)  # pages stay open past the five seconds of a socket that leaves early


async def _empty(it: House, where: set[str]) -> set[str]:
    """Which of these queries of panels show nothing now."""
    found = set()
    for one in panels():
        for number, name in enumerate(_names(one)):
            if name in where and not await it.prometheus.panel(one, number):
                found.add(name)
    return found


def _names(one: Panel) -> list[str]:
    """A panel's queries: by its own name, numbered where there are several."""
    queries = len(one.queries)
    return [str(one)] if queries == 1 else [f"{one} [{number}]" for number in range(queries)]


def _every_query() -> set[str]:
    single = {str(panel) for panel in panels() if len(panel.queries) == 1}
    return single | {
        f"{panel} [{n}]" for panel in panels() if len(panel.queries) > 1 for n in range(len(panel.queries))
    }


async def test_a_calm_run_fills_every_panel_and_fires_no_alert(tmp_path: Path) -> None:
    assert set(NOTHING_IS_WRONG) <= _every_query()
    async with house(tmp_path, ping_interval=2) as it:  # a polling page says goodbye with its next poll
        empty = _every_query() - set(NOTHING_IS_WRONG)
        walk = asyncio.ensure_future(_standard_walk(it))
        until = time.monotonic() + 40
        while empty and time.monotonic() < until:
            empty = await _empty(it, empty)
            await asyncio.sleep(0.5)
        await walk
        assert not empty, "these never showed anything"
        assert await it.prometheus.firing() == set()
        told = {one["labels"]["alertname"] for message in it.webhook.messages for one in message["alerts"]}
        assert told <= {WATCHDOG}
        await it.shows("socket-mapping", "Misses by a defect, last 5 minutes", lambda shown: count(shown) == 0)
        await it.shows("delivery", "Ledger balance", lambda shown: count(shown) == 0)
