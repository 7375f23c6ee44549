"""Connections of a listener: quotas; one without a descriptor is counted, answered if possible, never a busy loop."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web

from roundtrip.api.listener import listen
from roundtrip.limits.connections import ConnectionLimits, ConnectionRules
from tests.support.program import BACKEND, api, running


def test_connections_of_one_ipv6_network_are_counted_together() -> None:
    port = ConnectionLimits(ConnectionRules(per_address=2))
    assert [port.acquire(f"2001:db8::{number}") for number in range(3)] == [True, True, False]
    assert port.acquire("2001:db8:0:1::1")
    port.release("2001:db8::1")
    assert port.acquire("2001:db8::9")
    assert port.open == 3


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Every descriptor of this process is in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers, no paths
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)


@asynccontextmanager
async def listening(**rules: int | bool) -> AsyncIterator[tuple[int, list[str]]]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="served")

    app = web.Application()
    app.router.add_get("/", answer)
    refused: list[str] = []
    runner = await listen(app, "127.0.0.1", 0, ConnectionLimits(ConnectionRules(**rules), None, refused.append), 0.1)  # type: ignore[arg-type]
    try:
        yield runner.addresses[0][1], refused
    finally:
        await runner.cleanup()


def clients(stack: ExitStack, count: int) -> list[socket.socket]:
    """Sockets that have their descriptors already."""
    made = [stack.enter_context(socket.socket()) for _ in range(count)]
    for client in made:
        client.setblocking(False)
    return made


async def request(client: socket.socket, number: int, within: float = 10) -> bytes:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(within):
        await loop.sock_connect(client, ("127.0.0.1", number))
        try:
            await loop.sock_sendall(client, GET)
            return await loop.sock_recv(client, 4096)
        except ConnectionError:
            return b""


async def refused_and_served_again() -> None:
    with ExitStack() as stack:
        async with listening() as (number, refused):
            crowd, later = clients(stack, 20), clients(stack, 1)
            with without_descriptors():
                answers = await asyncio.gather(*(request(client, number) for client in crowd))
                assert not [answer for answer in answers if b"served" in answer]
                assert [answer for answer in answers if answer.startswith(b"HTTP/1.1 429 ")]
                assert refused == ["descriptors"] * 20
            assert b"served" in await request(later[0], number)


async def test_a_connection_without_descriptor_is_refused_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    await refused_and_served_again()
    assert "".join(capsys.readouterr()).count("connection_without_descriptor") == 1


def test_the_same_on_the_loop_that_the_program_runs_on() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(refused_and_served_again())


async def test_a_reserve_serves_the_admin_listener_and_beyond_it_nothing_spins() -> None:
    with ExitStack() as stack:
        async with listening(reserve=3, serve_reserve=True) as (number, refused):
            first, waiting_client = clients(stack, 3), clients(stack, 1)[0]
            with without_descriptors():
                answers = await asyncio.gather(*(request(client, number) for client in first))
                assert all(b"served" in answer for answer in answers)
                assert refused == []
                cpu = time.process_time()
                waiting = asyncio.create_task(request(waiting_client, number, within=20))
                await asyncio.sleep(1.2)
                assert time.process_time() - cpu < 0.6
                assert not waiting.done()
                assert 1 <= len(refused) <= 4
                first[0].shutdown(socket.SHUT_RDWR)
                assert b"served" in await waiting  # the descriptor that came back went to the one who waited


async def test_a_public_listener_that_is_full_leaves_the_admin_one_in_reach(tmp_path: Path) -> None:
    command = ("sh", "-c", 'ulimit -n 360; exec "$@"', "sh")
    async with running(tmp_path, command=(*command, *BACKEND), max_connections=5000) as program, api(program) as user:
        assert '"descriptors_too_few"' in program.text().replace(" ", "")
        port = int(program.url.rpartition(":")[2])
        with ExitStack() as stack:
            answers = await asyncio.gather(*(request(client, port) for client in clients(stack, 260)))
            assert 100 <= sum(answer.startswith(b"HTTP/1.1 200 ") for answer in answers) <= 180
            assert sum(answer.startswith(b"HTTP/1.1 429 ") for answer in answers) >= 50
            metrics = await user.metrics()
            async with aiohttp.ClientSession() as session, session.get(f"{program.admin_url}/readyz") as response:
                assert response.status == 200
        assert metrics['roundtrip_rate_limited_total{limit="connections"}'] >= 80
        assert metrics['roundtrip_rate_limited_total{limit="descriptors"}'] == 0
