"""The canary of a running program: what it finds, and that nothing of it shows elsewhere. All connections are real."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import socketio
from aiohttp import web

from roundtrip.canary.lane import CanaryLane
from roundtrip.canary.page import Stage
from roundtrip.sockets.server import SocketServer
from roundtrip.telemetry.labels import LabelSets
from tests.support.inside import Inside, inside
from tests.support.nginx import UPGRADES, nginx
from tests.support.ports import free_port
from tests.support.py_client import PyClient, py_client
from tests.support.tokens import ISSUER, private_key, public_pem

QUICK = 0.2
"""Seconds between two rounds, and that one may take, where they fail."""

CALM = 1.0
"""The same where they must not, however busy the machine is."""

FAILURES = {stage: f'roundtrip_canary_failures_total{{stage="{stage}"}}' for stage in Stage}
DELIVERED = "roundtrip_canary_delivery_seconds_count"
FAILING = "roundtrip_canary_failing"

OF_USERS = re.compile(
    r"roundtrip_(sockets|mapped_keys|socket_|events_|emit_|missed_|delivery_|receipt_|ack_|oldest_|links|replays_|"
    r"packets_|rate_limited|malformed|task_failures)"
)


async def until(program: Inside, within: float = 10, **at_least: float) -> dict[str, float]:
    """Wait until failures in each of these stages, or `delivered` rounds, are at least so many; all samples."""
    wanted = {FAILURES.get(Stage(name)) if name != "delivered" else DELIVERED: n for name, n in at_least.items()}
    samples: dict[str, float] = {}
    async with asyncio.timeout(within):
        while any(samples.get(str(name), 0) < n for name, n in wanted.items()):
            await asyncio.sleep(0.02)
            samples = await program.user().metrics()
    return samples


def failed_in(samples: dict[str, float]) -> set[Stage]:
    return {stage for stage, name in FAILURES.items() if samples[name]}


def farthest(samples: dict[str, float]) -> Stage:
    """The last stage that a round failed in. On a busy machine one may run out of its little time before."""
    return max(failed_in(samples), key=list(Stage).index)


@asynccontextmanager
async def listener() -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """Accepts and never answers; the connections that are open now."""
    connected: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        connected.remove(writer)
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connected
    finally:
        server.close()


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    """Another server at `/socket.io/`; its address."""
    app = web.Application()
    app.router.add_get("/socket.io/", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


JWT = {"auth": "jwt", "jwt_public_key": public_pem(private_key("ES256")), "jwt_issuer": ISSUER}


EVERYWHERE = JWT | {"host": "0.0.0.0"}  # noqa: S104  # as in a container


@pytest.mark.parametrize("identity", [{}, JWT, EVERYWHERE], ids=["trusted", "jwt", "any address"])
async def test_each_round_is_measured_and_no_number_of_users_moves(tmp_path: Path, identity: dict[str, Any]) -> None:
    async with inside(tmp_path, canary_interval=CALM, **identity) as program:
        before = await program.user().metrics()
        samples = await until(program, delivered=2)
        _, debug, _ = await program.admin("GET", "/debug/sockets")
    assert failed_in(samples) == set()
    assert samples[FAILING] == 0
    moved = {name for name, value in samples.items() if OF_USERS.match(name) and value != before[name]}
    assert moved == set()
    assert debug["totals"] == {"sockets": 0, "mappedKeys": 0, "users": 0, "rememberedKeys": 0}
    assert not debug["keys"]
    assert not debug["misses"]


async def test_it_is_off_at_0(tmp_path: Path) -> None:
    async with inside(tmp_path, canary_interval=0):
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "canary"]


async def test_a_listener_that_accepts_and_never_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with listener() as (url, connected), inside(tmp_path, canary_interval=QUICK, canary_url=url) as program:
        samples = await until(program, upgrade=2)
        assert farthest(samples) is Stage.UPGRADE
        assert samples[FAILING] >= 2
        assert samples[DELIVERED] == 0
        await until(program, upgrade=4)
        assert len(connected) <= 1, "each round closes its connection"
    line = next(line for line in capsys.readouterr().err.splitlines() if "canary_failed" in line)
    assert json.loads(line) | {"stage": "upgrade", "failures": 1, "error": "no answer in time"} == json.loads(line)


async def test_a_port_that_nobody_listens_on(tmp_path: Path) -> None:
    async with listener() as (url, _):
        pass
    async with inside(tmp_path, canary_interval=QUICK, canary_url=url) as program:
        assert farthest(await until(program, connect=2)) is Stage.CONNECT


async def test_a_proxy_that_drops_upgrades_and_one_that_passes_them(tmp_path: Path) -> None:
    """Both are one nginx, which as it comes is of the first kind."""
    port = free_port()
    async with nginx(tmp_path, [f"127.0.0.1:{port}"], "", UPGRADES) as (drops, passes):
        async with inside(tmp_path / "a", port=port, canary_interval=QUICK, canary_url=drops) as program:
            assert farthest(await until(program, upgrade=2)) is Stage.UPGRADE
        async with inside(tmp_path / "b", port=port, canary_interval=CALM, canary_url=passes) as program:
            assert failed_in(await until(program, delivered=1)) == set()


async def test_an_outbox_that_hangs_and_recovers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with inside(tmp_path, canary_interval=QUICK) as program:
        await until(program, delivered=1)
        await program.fault("slow_outbox", parameter=0.4)
        samples = await until(program, store=2)
        assert farthest(samples) is Stage.STORE
        await program.fault("slow_outbox", on=False)
        await until(program, delivered=samples[DELIVERED] + 2)
        async with asyncio.timeout(10):
            while (await program.user().metrics())[FAILING]:
                await asyncio.sleep(0.02)
    assert "canary_recovered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "stage"),
    [("outbox_down", "store"), ("key_mismatch", "delivery"), ("drop_acks", "ack")],
)
async def test_it_loses_what_users_lose(tmp_path: Path, fault: str, stage: str) -> None:
    async with inside(tmp_path, canary_interval=QUICK, faults=fault) as program:
        before = await program.user().metrics()
        samples = await until(program, **{stage: 2})
        assert farthest(samples) == stage
        moved = {name for name in samples if OF_USERS.match(name) and samples[name] != before[name]}
        assert moved == set(), "nor do its failures show as a user's"


async def test_another_server_answers(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.send_str("hello")
        await websocket.receive()
        return websocket

    async with serving(answer) as url, inside(tmp_path, canary_interval=QUICK, canary_url=url) as program:
        assert farthest(await until(program, handshake=2)) is Stage.HANDSHAKE


# the credential


async def test_another_node_refuses_it_and_says_so(tmp_path: Path) -> None:
    async with (
        inside(tmp_path / "other", canary_interval=0) as other,
        inside(tmp_path / "own", canary_interval=QUICK, canary_url=other.url) as own,
    ):
        assert farthest(await until(own, handshake=2)) is Stage.HANDSHAKE
        samples = await other.user().metrics()
        refusals = {name: n for name, n in samples.items() if name.startswith("roundtrip_socket_connects_total") and n}
        assert set(refusals) == {'roundtrip_socket_connects_total{result="canary_elsewhere"}'}


async def test_behind_a_proxy_over_two_nodes_it_finds_its_own(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    async with nginx(tmp_path, [f"127.0.0.1:{port}" for port in ports], UPGRADES) as [url]:
        settings = {"canary_interval": CALM, "canary_url": url}
        async with (
            inside(tmp_path / "one", port=ports[0], **settings) as one,
            inside(tmp_path / "two", port=ports[1], **settings) as two,
        ):
            for node in (one, two):
                assert failed_in(await until(node, delivered=2)) == set()


@asynccontextmanager
async def thief() -> AsyncIterator[tuple[str, asyncio.Queue[str]]]:
    """A server that reads each canary's credential, and never answers."""
    credentials: asyncio.Queue[str] = asyncio.Queue()

    async def answer(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        opening = {"sid": "x", "upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 1}
        await websocket.send_str(f"0{json.dumps(opening)}")
        credentials.put_nowait(json.loads((await websocket.receive_str()).removeprefix("40"))["token"])
        await websocket.receive()
        return websocket

    async with serving(answer) as url:
        yield url, credentials


@pytest.mark.parametrize("identity", [{}, JWT], ids=["trusted", "jwt"])
async def test_its_credential_is_good_for_no_users_key_and_only_once(tmp_path: Path, identity: dict[str, Any]) -> None:
    async with (
        thief() as (url, credentials),
        inside(tmp_path, canary_interval=0.5, canary_url=url, **identity) as program,
    ):
        credential = await credentials.get()
        async with py_client(program.url, "victim", "bot", token=credential) as client:
            assert [(one["userId"], one["botId"]) for one in client.snapshots] == [(" canary", "node")]
            _, debug, _ = await program.admin("GET", "/debug/sockets")
            assert debug["totals"]["sockets"] == 0, "it is mapped under no user's key"
        for used in (credential, "canary.", "canary.é"):
            assert await refusal(program.url, used) == "canary_elsewhere"


async def refusal(url: str, token: str) -> Any:
    """The code by which a token is refused."""
    client = PyClient()
    refusals: list[Any] = []
    client.io.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.io.connect(
            url, auth={"token": token, "userId": "victim", "botId": "bot"}, transports=["websocket"]
        )
    return refusals[0]["data"]["code"]


# it goes on, and stops


async def test_whatever_a_round_raises_the_next_one_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = CanaryLane.publish
    calls: list[object] = []

    async def broken(lane: CanaryLane) -> Any:
        calls.append(lane)
        if len(calls) <= 2:
            raise ZeroDivisionError
        return await publish(lane)

    monkeypatch.setattr(CanaryLane, "publish", broken)
    async with inside(tmp_path, canary_interval=QUICK) as program:
        samples = await until(program, delivered=1)
    assert samples[FAILURES[Stage.STORE]] >= 2


async def test_a_stop_does_not_wait_for_a_round_and_drains_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = SocketServer.drain
    running_then: list[list[str]] = []

    async def spy(server: SocketServer, seconds: float) -> None:
        running_then.append([task.get_name() for task in asyncio.all_tasks()])
        await drain(server, seconds)

    monkeypatch.setattr(SocketServer, "drain", spy)
    async with listener() as (url, connected):
        async with inside(tmp_path, canary_interval=2, canary_url=url) as program:
            async with asyncio.timeout(10):
                while not connected:
                    await asyncio.sleep(0.02)
            began = asyncio.get_running_loop().time()
            del program
        assert asyncio.get_running_loop().time() - began < 1
    [names] = running_then
    assert "canary" not in names


def test_the_stages_are_those_of_the_label() -> None:
    labels = next(field for field in fields(LabelSets) if field.name == "canary_stages")
    assert labels.default == tuple(Stage)
