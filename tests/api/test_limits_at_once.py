"""Every limit over HTTP, asked at once by many: what holds one by one must hold when nobody waits for anybody."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import pytest

from roundtrip.api.requests import BodyLimits
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.rates import Limits, Rate, Rules
from roundtrip.links.payloads import Snapshot
from roundtrip.links.record import LinkState
from tests.api.test_listener import connected, ended, listening
from tests.support.api import Api, PretendedLinks, api
from tests.support.program import api as program_api
from tests.support.program import running
from tests.support.py_client import eventually

SEVERAL = 40


def limits(refused: list[str] | None = None, **changes: object) -> Limits:
    rules: dict[str, object] = {
        "handshakes_per_address": Rate(0.001, 7),
        "handshakes_per_user": Rate(0.001, 7),
        "pairings_per_hour": 7.0,
        "sockets_per_user": 7,
        "events_per_socket": Rate(0.001, 7),
        **changes,
    }
    return Limits(Rules(**rules), [].append if refused is None else refused.append)  # type: ignore[arg-type]


async def at_once(served: Api, method: str, paths: list[str], **options: Any) -> Counter[tuple[int, str]]:
    """Ask for all paths at once: how often which status and code came."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        served.session, before = session, served.session
        try:
            answers = await asyncio.gather(*(served.call(method, path, **options) for path in paths))
        finally:
            served.session = before
    return Counter((status, data.get("code", "") if isinstance(data, dict) else "") for status, data, _ in answers)


async def test_handshakes_of_an_address() -> None:
    refused: list[str] = []
    async with api(limits=limits(refused), proxies=Proxies(["127.0.0.1"])) as served:
        for client in ("10.0.0.1", "2001:db8::1"):
            refused.clear()
            headers = {"X-Forwarded-For": client}
            paths = ["/socket.io/?EIO=4&transport=polling"] * SEVERAL
            found = await at_once(served, "GET", paths, headers=headers)
            assert found == {(404, "not_found"): 7, (429, "rate_limited"): SEVERAL - 7}  # no Socket.IO is attached here
            assert refused == ["handshakes_per_address"] * (SEVERAL - 7)


async def test_pairings_of_a_user() -> None:
    async with api(limits=limits()) as served:
        found = await at_once(served, "PUT", [f"/api/bots/b{number}/link" for number in range(SEVERAL)])
        assert found == {(202, ""): 7, (429, "rate_limited"): SEVERAL - 7}
        assert (await served.call("PUT", "/api/bots/b/link", user="eve"))[0] == 202


async def test_one_pairing_asked_for_many_times_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start takes a moment; a second click meanwhile costs nothing, as one after it costs nothing."""
    gate = asyncio.Event()
    plain = PretendedLinks.start

    async def slowly(self: PretendedLinks, *arguments: Any) -> Snapshot:
        await gate.wait()
        return await plain(self, *arguments)

    monkeypatch.setattr(PretendedLinks, "start", slowly)
    async with api(limits=limits()) as served:
        asking = asyncio.create_task(at_once(served, "PUT", ["/api/bots/one/link"] * SEVERAL))
        await asyncio.sleep(0.1)
        gate.set()
        assert await asking == {(202, ""): SEVERAL}
        for number in range(6):
            assert (await served.call("PUT", f"/api/bots/b{number}/link"))[0] == 202
        assert (await served.call("PUT", "/api/bots/last/link"))[0] == 429


async def test_a_pairing_that_failed_is_paid_for() -> None:
    async with api(limits=limits()) as served:
        for _ in range(7):
            served.links.error = RuntimeError("no")
            assert (await served.call("PUT", "/api/bots/one/link"))[0] == 500
        assert (await served.call("PUT", "/api/bots/one/link"))[0] == 429
        assert all(state is LinkState.CONNECTING for state in served.links.states.values())


async def test_bodies_that_are_too_large_too_deep_or_too_slow() -> None:
    path = "/api/bots/b/link"
    async with api(body_limits=BodyLimits(2000, 3, 0.5)) as served:
        for body, expected in (
            (b'{"x": "' + b"y" * 3000 + b'"}', (413, "body_too_large")),
            (b'{"x": [[[1]]]}', (400, "json_too_deep")),
            (b"{", (400, "body_invalid")),
        ):
            assert await at_once(served, "PUT", [path] * SEVERAL, data=body) == {expected: SEVERAL}
        number = int(served.url.rpartition(":")[2])

        async def slow() -> bytes:
            async with connected(number) as (reader, writer):
                writer.write(b"PUT " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nX-User-Id: u\r\n")
                writer.write(b"Content-Length: 9\r\n\r\n{")
                return await ended(reader)

        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(slow() for _ in range(SEVERAL)))
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
        assert asyncio.get_running_loop().time() - began < 4
        assert served.links.asked == []


async def test_heads_that_do_not_come() -> None:
    async with listening(head_seconds=0.4) as (number, port, refused):

        async def half() -> bytes:
            async with connected(number) as (reader, writer):
                writer.write(b"\r\n\r\nGET / HT")
                return await ended(reader)

        assert set(await asyncio.gather(*(half() for _ in range(SEVERAL)))) == {b""}
        assert refused == ["slow_request"] * SEVERAL
        await eventually(lambda: port.open == 0)


@pytest.mark.parametrize(
    ("rule", "limit"), [("connections", "connections"), ("per_address", "connections_per_address")]
)
async def test_connections(rule: str, limit: str) -> None:
    rules: dict[str, Any] = {rule: 7}
    async with listening(**rules) as (number, port, refused):
        done = asyncio.Event()
        waiting = 0

        async def come() -> bytes:
            nonlocal waiting
            async with connected(number) as (reader, writer):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                try:
                    line = await reader.readline()
                except ConnectionResetError:
                    line = b""
                waiting += 1
                await done.wait()
                return line

        coming = [asyncio.create_task(come()) for _ in range(SEVERAL)]
        await eventually(lambda: waiting == SEVERAL)
        assert port.open == 7
        done.set()
        lines = await asyncio.gather(*coming)
        assert sum(b" 200 " in line for line in lines) == 7
        assert refused == [limit] * (SEVERAL - 7)
        await eventually(lambda: port.open == 0)


async def test_the_limits_of_a_running_program(tmp_path: Any) -> None:
    async with running(tmp_path, pairings_per_hour=7, max_links_per_user=100) as program, program_api(program) as user:
        calls = (user.call("PUT", f"/api/bots/b{number}/link") for number in range(SEVERAL))
        found = Counter(status for status, _ in await asyncio.gather(*calls))
        assert found == {202: 7, 429: SEVERAL - 7}
        assert (await user.metrics())['roundtrip_rate_limited_total{limit="pairings_per_hour"}'] == SEVERAL - 7
