"""Sockets that stay: stock clients see no disconnect for longer than any deadline, and silent ones do not stay."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.acceptance.test_crash import publish
from tests.support.node_client import node_client
from tests.support.program import Program, api, running
from tests.support.publishing import COMMAND
from tests.support.py_client import PyClient, py_client
from tests.support.raw_client import raw_client

TRANSPORTS = {"upgrade": ["polling", "websocket"], "websocket": ["websocket"], "polling": ["polling"]}
MOODS = ("idle", "busy")
PAUSE = 0.5
"""Seconds between two events of a busy client."""


class Stayer:
    """One stock client: what it heard of events, and when it was disconnected and why."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.left: list[tuple[float, str]] = []
        self.ids: set[str] = set()

    async def ask(self) -> None:
        """The client says something itself."""


@asynccontextmanager
async def _javascript(url: str, name: str, transports: list[str]) -> AsyncIterator[Stayer]:
    async with node_client(url, {"userId": name, "botId": "bot"}, transports=transports, reconnection=False) as client:
        began = time.time()
        await client.heard("status")

        class Javascript(Stayer):
            async def ask(self) -> None:
                await client.do(do="emit", name="status")
                self.look()

            def look(self) -> None:
                gone = [line for line in client.said if line["on"] == "disconnect"]
                self.left = [(round(line["at"] / 1000 - began, 1), line["reason"]) for line in gone]
                self.ids = {event["id"] for event in client.events}

        stayer = Javascript(name)
        stop = asyncio.ensure_future(_looking(stayer))
        try:
            yield stayer
        finally:
            stop.cancel()
            await asyncio.gather(stop, return_exceptions=True)


async def _looking(stayer: Stayer) -> None:
    while True:
        stayer.look()  # type: ignore[attr-defined]  # of the JavaScript client only
        await asyncio.sleep(0.05)


@asynccontextmanager
async def _python(url: str, name: str, transports: list[str]) -> AsyncIterator[Stayer]:
    async with py_client(url, name, transports=transports) as client:
        began = time.monotonic()

        class Python(Stayer):
            async def ask(self) -> None:
                if client.io.connected:
                    await client.io.emit("status")

        stayer = Python(name)
        _note(client, stayer, began)
        yield stayer


def _note(client: PyClient, stayer: Stayer, began: float) -> None:
    def left(reason: str) -> None:
        stayer.left.append((round(time.monotonic() - began, 1), str(reason)))

    client.io.on("disconnect", left)
    heard = client._event

    async def event(payload: dict[str, str]) -> None:
        stayer.ids.add(payload["id"])
        await heard(payload)

    client.io.on("whatsapp_connection_event", event)


LANGUAGES = {"js": _javascript, "python": _python}


Lost = dict[str, list[tuple[float, str]]]
"""By client: when it was disconnected, in seconds, and why."""


async def endure(program: Program, seconds: float) -> tuple[Lost, int, int]:
    """Keep twelve stock clients connected; ends early with the first one that is disconnected. Who was, how many
    clients there were, and how many events the busy ones got."""
    async with AsyncExitStack() as stack:
        stayers: list[Stayer] = []
        for (language, start), (name, transports), mood in itertools.product(
            LANGUAGES.items(), TRANSPORTS.items(), MOODS
        ):
            stayers.append(await stack.enter_async_context(start(program.url, f"{language}-{name}-{mood}", transports)))
        busy = [stayer for stayer in stayers if stayer.name.endswith("busy")]
        told: dict[str, set[str]] = {stayer.name: set() for stayer in busy}
        end = time.monotonic() + seconds
        for turn in itertools.count():
            if time.monotonic() >= end or any(stayer.left for stayer in stayers):
                break
            for user, _, event_id in await publish(program, list(told)):
                told[user].add(event_id)
            if turn % 10 == 0:
                await asyncio.gather(*(stayer.ask() for stayer in busy))
            await asyncio.sleep(PAUSE)
        lost = {stayer.name: list(stayer.left) for stayer in stayers if stayer.left}
        if not lost:
            async with asyncio.timeout(10):
                while any(told[stayer.name] - stayer.ids for stayer in busy):
                    await asyncio.sleep(0.05)
        return lost, len(stayers), sum(map(len, told.values()))


@pytest.mark.slow
@pytest.mark.waits(150)
@pytest.mark.timeout(300)
async def test_stock_clients_stay_for_three_times_the_longest_deadline_at_default_settings(tmp_path: Path) -> None:
    async with running(tmp_path, command=COMMAND) as program:
        lost, _, _ = await endure(program, 150)
        assert lost == {}


@pytest.mark.slow
@pytest.mark.waits(55)
@pytest.mark.timeout(180)
async def test_stock_clients_stay_for_fifty_rounds_of_a_quick_heartbeat(tmp_path: Path) -> None:
    async with running(tmp_path, command=COMMAND, ping_interval=1, ping_timeout=1) as program, api(program) as admin:
        lost, clients, events = await endure(program, 52)
        assert lost == {}
        metrics = await admin.metrics()
        connects = sum(value for name, value in metrics.items() if name.startswith("roundtrip_socket_connects_total"))
        assert connects == clients, "each connected once"
        resolved = sum(value for name, value in metrics.items() if name.startswith("roundtrip_events_resolved_total"))
        assert resolved == events


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.parametrize("transport", ["websocket", "polling"])
@pytest.mark.parametrize("still", ["says nothing", "asks for the status", "acknowledges"])
async def test_a_client_that_stops_answering_is_closed_in_time(tmp_path: Path, transport: str, still: str) -> None:
    """It answers for three rounds first. Whatever else it says, a PING without a PONG ends it, and its mapping."""
    interval, timeout, late = 1.0, 1.0, 2.5
    async with (
        running(tmp_path, command=COMMAND, ping_interval=interval, ping_timeout=timeout) as program,
        api(program) as admin,
        raw_client(program.url, transport) as client,
    ):
        assert (await client.join(userId="user", botId="bot")).startswith("40")
        await client.until(lambda: client.closed or sum(packet.text == "3" for packet in client.sent) >= 3)
        assert client.closed is None
        client.answering = False
        stopped = time.monotonic()
        async with asyncio.timeout(interval + timeout + late):
            while (await admin.admin("/debug/sockets"))["totals"]["sockets"]:
                if still == "asks for the status":
                    await client.send('42["status"]')
                elif still == "acknowledges":
                    for user, seq, _ in await publish(program, ["user"]):
                        assert user == "user"
                        await client.send(f"43{seq}[]")
                await asyncio.sleep(0.1)
        print(f"closed after {time.monotonic() - stopped:.2f} s")
        await client.until(lambda: client.closed, within=3)
        assert time.monotonic() - stopped >= timeout, "it had its time"
        reasons = {name: value for name, value in (await admin.metrics()).items() if "socket_disconnects" in name}
        assert reasons['roundtrip_socket_disconnects_total{reason="ping timeout"}'] == 1, reasons
