"""Who gets in, how often, and how long a token holds: the limits and tokens of the running program."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import socketio
from socketio.exceptions import ConnectionError as NotLetIn

from tests.support import tokens
from tests.support.inside import Inside, inside
from tests.support.lives import connect, settled, total
from tests.support.py_client import py_client

POLL = "/socket.io/?EIO=4&transport=polling"


async def handshake(program: Inside, origin: str | None) -> tuple[int, str | None]:
    """An Engine.IO handshake as a page of this origin makes it: the status, and which origin may read the answer."""
    status, _, headers = await program.request("GET", POLL, headers={} if origin is None else {"Origin": origin})
    return status, headers.get("access-control-allow-origin")


async def test_a_page_of_another_origin_gets_no_socket(tmp_path: Path) -> None:
    async with inside(tmp_path, cors_origins=("https://app.example",)) as program:
        assert (await handshake(program, "https://evil.example"))[0] == 400
        assert await handshake(program, "https://app.example") == (200, "https://app.example")
        assert await handshake(program, program.url) == (200, program.url), "the program's own page"
        assert (await handshake(program, None))[0] == 200, "a program names no origin"
        assert (await handshake(program, program.url.replace("http://", "http://x.")))[0] == 400


async def test_with_a_star_every_origin_gets_one(tmp_path: Path) -> None:
    async with inside(tmp_path, cors_origins=("*",)) as program:
        assert (await handshake(program, "https://anybody.example"))[0] == 200


async def test_a_flood_of_requests_on_one_socket_is_dropped_and_counted(tmp_path: Path) -> None:
    async with (
        inside(tmp_path, events_per_socket=0.01, events_per_socket_burst=5) as program,
        py_client(program.url) as page,
        py_client(program.url) as other,
    ):
        for _ in range(20):
            await page.io.emit("status")

        async def counted() -> bool:
            return (
                total(await program.user().metrics(), "roundtrip_rate_limited_total", limit="events_per_socket") >= 15
            )

        await settled(counted)
        assert 2 <= len(page.snapshots) <= 6
        before = len(other.snapshots)
        await other.io.emit("status")
        await other.until(lambda: len(other.snapshots) > before)  # the flood is its own socket's only
        await connect(program.user())
        await page.count(4)  # and takes no event from it


async def test_connections_have_a_rate_by_address(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "handshakes_per_address": 0.01,
        "handshakes_per_address_burst": 2,
        "forwarded_allow_ips": ("127.0.0.1/8",),  # a network is named by any of its addresses
    }
    async with inside(tmp_path, **settings) as program:

        async def come(address: str) -> None:
            client = socketio.AsyncClient(reconnection=False)
            try:
                await client.connect(
                    program.url,
                    headers={"X-Forwarded-For": address},
                    auth={"userId": f"user-{address}", "botId": "bot"},
                    transports=["websocket"],
                )
            finally:
                await client.disconnect()

        for _ in range(2):
            await come("192.0.2.1")
        with pytest.raises(NotLetIn):
            await come("192.0.2.1")
        await come("192.0.2.2")  # behind the same proxy, and not the same person
        refused = total(await program.user().metrics(), "roundtrip_rate_limited_total", limit="handshakes_per_address")
        assert refused == 1


async def test_a_user_connects_only_so_often(tmp_path: Path) -> None:
    async with inside(tmp_path, handshakes_per_user=0.01, handshakes_per_user_burst=1) as program:
        async with py_client(program.url):
            pass
        with pytest.raises(NotLetIn):
            async with py_client(program.url, bot="another"):
                pass
        async with py_client(program.url, "another"):
            pass


async def token_page(url: str, token: str) -> socketio.AsyncClient:
    client = socketio.AsyncClient(reconnection=False)
    await client.connect(url, auth={"token": token, "botId": "bot"}, transports=["websocket"])
    return client


@pytest.mark.waits
@pytest.mark.slow
async def test_a_token_that_ran_out_ends_its_socket_unless_it_is_renewed(tmp_path: Path) -> None:
    key = tokens.private_key("ES256")

    def token(life: float, **claims: Any) -> str:
        return tokens.token(key, algorithm="ES256", kid=None, exp=int(time.time() + life), **claims)

    settings: dict[str, Any] = {
        "auth": "jwt",
        "jwt_public_key": tokens.public_pem(key),
        "jwt_leeway": 0,
        "token_grace": 2,
    }
    async with inside(tmp_path, **settings) as program:
        idle = await token_page(program.url, token(4))
        busy = await token_page(program.url, token(4))
        told: list[Any] = []
        busy.on("auth_expired", told.append)
        refused = await busy.call("auth", {"token": token(60, sub="somebody-else")}, timeout=5)
        assert (refused["ok"], refused["code"]) == (False, "forbidden")
        assert (await busy.call("auth", {"token": "nonsense"}, timeout=5))["code"] == "unauthorized"
        assert (await busy.call("auth", {"token": token(60)}, timeout=5))["ok"] is True
        async with asyncio.timeout(30):
            while idle.connected:
                await asyncio.sleep(0.05)
        assert busy.connected
        assert told == [], "whoever renewed in time is not reminded"
        await busy.disconnect()
        await idle.disconnect()


async def test_a_packet_that_does_not_arrive_in_time_is_not_waited_for(tmp_path: Path) -> None:
    async with inside(tmp_path, body_timeout=0.2) as program:
        _, opened, _ = await program.request("GET", POLL)
        sid = json.loads(opened[1:])["sid"]
        host, port = program.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST {POLL}&sid={sid} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: text/plain\r\n"
            "Content-Length: 10\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
            answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith("HTTP/1.1 408 ")
        assert '"slow_request"' in answer


async def test_a_stop_does_not_wait_for_keys_that_do_not_come(tmp_path: Path) -> None:
    asked = asyncio.Event()
    leave = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await leave.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    token = tokens.token(tokens.private_key("ES256"), algorithm="ES256", kid="unknown")
    async with inside(tmp_path, auth="jwt", jwks_url=f"http://127.0.0.1:{port}/keys") as program:
        headers = {"Authorization": f"Bearer {token}"}
        waiting = asyncio.ensure_future(program.request("GET", "/api/bots/bot/link", headers=headers))
        await asyncio.wait_for(asked.wait(), 5)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    leave.set()
    await asyncio.gather(waiting, return_exceptions=True)
    server.close()
