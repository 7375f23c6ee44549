"""The table of settings: each with a value that is not its default, and one effect that is seen from outside.

It proves that the program hands each setting to the right part. A new setting without a row fails.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import socketio
from aiohttp import web
from yarl import URL

from tests.support.api import serving
from tests.support.ports import free_port
from tests.support.program import BACKEND, Api, Program, api, running
from tests.support.py_client import PyClient
from tests.support.tokens import ISSUER, USER, jwk, jwks, private_key, public_pem, token
from tests.whatsapp.scenario import NUMBER, scenario

SCRIPTED = (sys.executable, "-m", "tests.support.scripted_backend")
HASH_KEY = "a key for hashes, long enough"
ADMIN_KEY = "an admin key, long enough"
SERVICE_KEY = "the key of a service"


@dataclass
class Scene:
    """A program that runs with the values of a group of rows."""

    program: Program
    user: Api
    session: aiohttp.ClientSession
    folder: Path
    values: Mapping[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        named = {name.replace("_", "-"): value for name, value in ({"X_User_Id": "user"} | headers).items()}
        async with self.session.get(URL(self.program.url + path, encoded=True), headers=named) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers

    async def ask(self, method: str, path: str, user: str, body: Any = None) -> tuple[int, Any]:
        headers = {"X-User-Id": user}
        async with self.session.request(method, self.program.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def shake(self, **headers: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """A polling handshake; the OPEN packet."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.program.url}/socket.io/?EIO=4&transport=polling"
        async with self.session.get(url, headers=named) as answer:
            text = await answer.text()
            return answer.status, json.loads(text.removeprefix("0")), answer.headers

    async def connect(self, user: str = "user", bot: str = "bot", **auth: Any) -> PyClient | str:
        """A client, or the message of its refusal."""
        client = PyClient(acking=auth.pop("acking", True))
        refusals: list[Any] = []
        client.io.on("connect_error", refusals.append)
        try:
            auth = {"userId": user, "botId": bot, **auth} if "token" not in auth else {"botId": bot, **auth}
            count = self.extra["count"] = self.extra.get("count", 0) + 1
            headers = {"X-Forwarded-For": f"9.9.{count // 250}.{count % 250}"}  # each its own, where that is believed
            await client.io.connect(self.program.url, auth=auth, headers=headers, transports=["websocket"])
        except socketio.exceptions.ConnectionError:
            await until(lambda: refusals)
            await client.io.shutdown()
            return str(refusals[0]["message"] if isinstance(refusals[0], dict) else refusals[0])
        self.extra.setdefault("clients", []).append(client)
        return client

    async def raw(self, sent: bytes, source: str = "127.0.0.1", within: float = 15) -> tuple[bytes, float]:
        """What a connection from an address gets until it is closed, and the seconds that took."""
        url = URL(self.program.url)
        reader, writer = await asyncio.open_connection(url.host, url.port, local_addr=(source, 0))
        began = time.monotonic()
        try:
            async with asyncio.timeout(within):
                writer.write(sent)
                try:
                    return await reader.read(), time.monotonic() - began
                except ConnectionResetError:
                    return b"", time.monotonic() - began
        finally:
            writer.close()

    async def view(self, bot: str) -> dict[str, Any]:
        links = (await self.user.admin("/debug/links"))["links"]
        found: dict[str, Any] = next(link for link in links if link["botId"] == bot)
        return found

    async def states(self, bot: str, user: str = "user") -> list[str]:
        """Every type of event so far."""
        return [event["type"].removeprefix("whatsapp_") for event in await self.user.ledger(bot)]


async def until(condition: Callable[[], Any], within: float = 15) -> Any:
    async with asyncio.timeout(within):
        while not (found := condition()):
            await asyncio.sleep(0.02)
    return found


async def seen(condition: Callable[[], Awaitable[Any]], within: float = 15) -> Any:
    async with asyncio.timeout(within):
        while not (found := await condition()):
            await asyncio.sleep(0.03)
    return found


Effect = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    value: Any
    effect: Effect


# where it is reached, what it says


async def host(s: Scene) -> None:
    assert URL(s.program.url).host == "127.0.0.2"
    assert (await s.get("/healthz"))[0] == 200


async def port(s: Scene) -> None:
    assert URL(s.program.url).port == s.values["port"]


async def admin_host(s: Scene) -> None:
    assert URL(s.program.admin_url).host == "127.0.0.3"
    assert await s.user.admin("/healthz")


async def admin_port(s: Scene) -> None:
    assert URL(s.program.admin_url).port == s.values["admin_port"]


async def data_dir(s: Scene) -> None:
    assert {"outbox.db", "links.db", "sessions"} <= {path.name for path in s.folder.iterdir()}


async def auth(s: Scene) -> None:
    assert (await s.get("/api/config"))[1]["auth"] == "trusted"


async def driver(s: Scene) -> None:
    assert (await s.get("/api/config"))[1]["driver"] == "simulated"


async def scans_by_itself(s: Scene) -> None:
    await s.user.link("scanned")
    await s.user.state("connected", "scanned")


async def cors(s: Scene) -> None:
    assert (await s.get("/api/config", Origin="https://app.example"))[2]["Access-Control-Allow-Origin"] == (
        "https://app.example"
    )


async def active_fault(s: Scene) -> None:
    assert (await s.user.metrics())['roundtrip_fault_active{fault="drop_receipts"}'] == 1


async def debug_lines(s: Scene) -> None:
    assert isinstance(await s.connect(bot="debug"), PyClient)
    await until(lambda: '"debug"' in s.program.text())


async def hashed(s: Scene) -> None:
    await s.user.link("hashed")
    text = b"key" + b"".join(b"\0%d\0%b" % (len(part), part) for part in (b"user", b"hashed"))
    expected = hmac.digest(HASH_KEY.encode(), text, "sha256").hex()[:16]
    await until(lambda: expected in s.program.text())


async def no_ring(s: Scene) -> None:
    async with s.session.get(f"{s.program.admin_url}/debug/traces") as answer:
        assert await answer.json() == {"traces": [], "kept": 0, "ring": False}


async def spans_of_pages(s: Scene) -> None:
    assert await s.ask("POST", "/otlp/v1/traces", "user", {}) == (200, {})


async def named(s: Scene) -> None:
    assert any('service_instance_id="node-7"' in name for name in await s.user.metrics())


async def trace_links(s: Scene) -> None:
    await s.user.link("traced")
    events = await seen(lambda: s.user.ledger("traced"))
    story = (await s.get(f"/api/events/{events[0]['id']}"))[1]
    assert re.match(r"https://traces\.example/[0-9a-f]{32}$", story["traceUrl"]), story


PLACE = {
    "host": Row("127.0.0.2", host),
    "port": Row(free_port, port),
    "admin_host": Row("127.0.0.3", admin_host),
    "admin_port": Row(free_port, admin_port),
    "data_dir": Row(None, data_dir),
    "auth": Row("trusted", auth),
    "whatsapp_driver": Row("simulated", driver),
    "simulated_scan_after": Row(0.05, scans_by_itself),
    "cors_origins": Row("https://other.example,https://app.example", cors),
    "faults": Row("drop_receipts", active_fault),
    "log_level": Row("DEBUG", debug_lines),
    "node_id": Row("node-7", named),
    "pii_hash_key": Row(HASH_KEY, hashed),
    "trace_url_template": Row("https://traces.example/{trace_id}", trace_links),
    "trace_ring_bytes": Row(0, no_ring),
    "browser_traces": Row("true", spans_of_pages),
}


# limits


async def links_per_user(s: Scene) -> None:
    answers = [await s.ask("PUT", f"/api/bots/{bot}/link", "many-links") for bot in "abc"]
    assert [status for status, _ in answers] == [202, 202, 429]
    assert answers[2][1]["code"] == "too_many_links"


async def pairings(s: Scene) -> None:
    statuses = []
    for _ in range(4):
        status, problem = await s.ask("PUT", "/api/bots/again/link", "pairs-often")
        statuses.append(status)
        await s.ask("DELETE", "/api/bots/again/link", "pairs-often")
    assert statuses == [202, 202, 202, 429]
    assert problem["code"] == "rate_limited"


async def body_size(s: Scene) -> None:
    status, problem = await s.ask("PUT", "/api/bots/bot/link", "body", {"x": "y" * 2000})
    assert (status, problem["code"]) == (413, "body_too_large")
    assert "1500" in problem["detail"]


async def body_depth(s: Scene) -> None:
    assert (await s.ask("PUT", "/api/bots/bot/link", "body", {"x": {"y": {}}}))[0] == 202
    assert (await s.ask("PUT", "/api/bots/bot/link", "body", {"x": {"y": {"z": {}}}}))[1]["code"] == "json_too_deep"


async def body_time(s: Scene) -> None:
    head = b"PUT /api/bots/bot/link HTTP/1.1\r\nHost: localhost\r\nX-User-Id: slow\r\nContent-Length: 9\r\n\r\n{"
    answer, _ = await s.raw(head)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.4 s" in answer


async def head_time(s: Scene) -> None:
    answer, took = await s.raw(b"GET / HT", within=5)
    assert answer == b""
    assert 0.2 < took < 5


async def handshakes_by_address(s: Scene) -> None:
    answers = [await s.shake(X_Forwarded_For="2.2.2.2") for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429]


async def rate_of_an_address(s: Scene) -> None:
    answers = [await s.shake(X_Forwarded_For="3.3.3.3") for _ in range(4)]
    assert 90 <= int(answers[-1][2]["Retry-After"]) <= 100


async def proxies(s: Scene) -> None:
    for number in range(5):
        assert (await s.shake(X_Forwarded_For=f"4.4.4.{number}"))[0] == 200


async def handshakes_by_user(s: Scene) -> None:
    refusals = [await s.connect("shakes", f"bot{number}") for number in range(4)]
    assert [isinstance(client, PyClient) for client in refusals] == [True, True, True, False]
    assert refusals[3] == "Too many new sockets of this user; wait a moment."


async def rate_of_a_user(s: Scene) -> None:
    for number in range(3):
        assert isinstance(await s.connect("shakes-slowly", f"bot{number}"), PyClient)
    await asyncio.sleep(0.2)  # by default, many more would be allowed by now
    assert await s.connect("shakes-slowly", "bot3") == "Too many new sockets of this user; wait a moment."


async def sockets_per_key(s: Scene) -> None:
    for _ in range(2):
        assert isinstance(await s.connect("one-key"), PyClient)
    assert "2 sockets already" in str(await s.connect("one-key"))


async def requests_of_a_socket(s: Scene) -> None:
    client = await s.connect("asks")
    assert isinstance(client, PyClient)
    await client.until(lambda: client.snapshots)
    for _ in range(6):
        await client.io.emit("status")
    metric = 'roundtrip_rate_limited_total{limit="events_per_socket"}'
    await seen(lambda: counted(s, metric, 3))
    assert 3 <= len(client.snapshots) <= 4  # the first came by itself


async def counted(s: Scene, metric: str, least: float) -> bool:
    return (await s.user.metrics())[metric] >= least


async def opened(s: Scene) -> dict[str, Any]:
    return (await s.shake(X_Forwarded_For="5.5.5.5"))[1]


async def packet(s: Scene) -> None:
    assert (await opened(s))["maxPayload"] == 2048


async def interval(s: Scene) -> None:
    assert (await opened(s))["pingInterval"] == 7000


async def ping_time(s: Scene) -> None:
    assert (await opened(s))["pingTimeout"] == 6000


LIMITS = {
    "max_links_per_user": Row(2, links_per_user),
    "pairings_per_hour": Row(3.0, pairings),
    "max_body": Row(1500, body_size),
    "max_json_depth": Row(3, body_depth),
    "body_timeout": Row(0.4, body_time),
    "header_timeout": Row(0.3, head_time),
    "handshakes_per_address": Row(0.01, rate_of_an_address),
    "handshakes_per_address_burst": Row(3, handshakes_by_address),
    "forwarded_allow_ips": Row("127.0.0.1", proxies),
    "handshakes_per_user": Row(0.001, rate_of_a_user),
    "handshakes_per_user_burst": Row(3, handshakes_by_user),
    "max_sockets_per_key": Row(2, sockets_per_key),
    "events_per_socket": Row(0.001, requests_of_a_socket),
    "events_per_socket_burst": Row(3, requests_of_a_socket),
    "max_packet": Row(2048, packet),
    "ping_interval": Row(7.0, interval),
    "ping_timeout": Row(6.0, ping_time),
}


async def of_one_user(s: Scene) -> None:
    for bot in ("a", "b"):
        assert isinstance(await s.connect("places", bot), PyClient)
    assert "2 sockets already" in str(await s.connect("places", "c"))
    assert isinstance(await s.connect("others", "a"), PyClient)


async def of_one_address(s: Scene) -> None:
    url = URL(s.program.url)
    held = [await asyncio.open_connection(url.host, url.port, local_addr=("127.0.0.9", 0)) for _ in range(6)]
    try:
        assert (await s.raw(b"", "127.0.0.9"))[0].startswith(b"HTTP/1.1 429 ")
        assert await counted(s, 'roundtrip_rate_limited_total{limit="connections_per_address"}', 1)
    finally:
        for _, writer in held:
            writer.close()


async def of_everybody(s: Scene) -> None:
    url = URL(s.program.url)
    held = []
    try:
        for number in range(20, 60):
            at = (f"127.0.0.{number}", 0)
            held.append(await asyncio.open_connection(url.host, url.port, local_addr=at))  # closed below
        await seen(lambda: counted(s, 'roundtrip_rate_limited_total{limit="connections"}', 1))
    finally:
        for _, writer in held:
            writer.close()


PLACES = {
    "max_sockets_per_user": Row(2, of_one_user),
    "max_connections_per_address": Row(6, of_one_address),
}
FULL = {"max_connections": Row(30, of_everybody)}


# events


async def expires(s: Scene) -> None:
    await s.user.link("expires")

    async def expired() -> bool:
        events = await s.user.ledger("expires")
        return any(event["outcome"] == "expired" for event in events)

    await seen(expired)


async def forgotten(s: Scene) -> None:
    await s.user.link("forgotten")
    await seen(lambda: s.user.ledger("forgotten"))

    async def first_gone() -> bool:
        return all(event["seq"] > 1 for event in await s.user.ledger("forgotten"))

    await seen(first_gone, within=12)


async def unacknowledged(s: Scene) -> None:
    client = await s.connect("user", "silent", acks=True, acking=False)
    assert isinstance(client, PyClient)
    await s.user.link("silent")

    async def tried_again() -> bool:
        events = await s.user.ledger("silent")
        return any(attempt.get("reason") == "ack_timeout" for event in events for attempt in event["attempts"])

    await seen(tried_again, within=4)


async def hurried(s: Scene) -> None:
    began = time.monotonic()
    await s.user.link("hurried")
    await s.user.state("qr_expired", "hurried")  # 160 s as a real phone goes
    assert time.monotonic() - began < 20


async def queue(s: Scene) -> None:
    """A client that polls no more: what waits for it is bounded."""
    url = f"{s.program.url}/socket.io/?EIO=4&transport=polling"
    async with s.session.get(url) as answer:
        sid = json.loads((await answer.text())[1:])["sid"]
    async with s.session.post(f"{url}&sid={sid}", data='40{"userId":"user","botId":"polls"}') as answer:
        assert answer.status == 200
    for _ in range(40):
        await s.user.call("PUT", "/api/bots/polls/link")
        await s.user.call("DELETE", "/api/bots/polls/link")
        if await counted(s, 'roundtrip_socket_disconnects_total{reason="queue_full"}', 1):
            return
    raise AssertionError("what waits for a socket has no bound")


EVENTS = {
    "event_ttl": Row(1.5, expires),
    "outbox_retention": Row(0.5, forgotten),
    "ack_timeout": Row(0.4, unacknowledged),
    "simulated_speed": Row(60.0, hurried),
    "send_queue_limit": Row(4096, queue),
}


# who calls


async def with_token(s: Scene, made: str) -> int:
    return (await s.get("/api/bots/bot/link", Authorization=f"Bearer {made}", X_User_Id=USER))[0]


AUDIENCE = "roundtrip"
PARTY = "https://app.example.test"


def good(**claims: Any) -> str:
    return token(**{"aud": AUDIENCE, "azp": PARTY, **claims})


async def verifies(s: Scene) -> None:
    assert await with_token(s, good()) == 200
    assert await with_token(s, token(private_key("RS256", 1), aud=AUDIENCE)) == 401


async def issuer(s: Scene) -> None:
    assert await with_token(s, good(iss="https://elsewhere.test")) == 401


async def audience(s: Scene) -> None:
    assert await with_token(s, good(aud="elsewhere")) == 401


async def party(s: Scene) -> None:
    assert await with_token(s, good(azp="https://elsewhere.test")) == 401


async def leeway(s: Scene) -> None:
    assert await with_token(s, good(exp=int(time.time()) - 100)) == 200
    assert await with_token(s, good(exp=int(time.time()) - 200)) == 401


async def grace(s: Scene) -> None:
    client = await s.connect(token=good(exp=int(time.time()) - 90))
    assert isinstance(client, PyClient)
    await seen(lambda: counted(s, 'roundtrip_socket_disconnects_total{reason="token_expired"}', 1))


async def service(s: Scene) -> None:
    headers = {"X-Api-Key": SERVICE_KEY, "X-User-Id": "somebody"}
    for path, status in (("link", 200), ("events", 403)):
        async with s.session.get(f"{s.program.url}/api/bots/bot/{path}", headers=headers) as answer:
            assert answer.status == status


async def admin_key(s: Scene) -> None:
    for given, status in ((None, 401), ("wrong", 401), (ADMIN_KEY, 200)):
        headers = {} if given is None else {"Authorization": f"Bearer {given}"}
        async with s.session.get(f"{s.program.admin_url}/metrics", headers=headers) as answer:
            assert answer.status == status


async def faults_allowed(s: Scene) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with s.session.put(f"{s.program.admin_url}/debug/faults/drop_acks", headers=headers) as answer:
        assert answer.status == 200


WHO = {
    "jwt_public_key": Row(lambda: public_pem(private_key("RS256")), verifies),
    "jwt_issuer": Row(ISSUER, issuer),
    "jwt_audience": Row(AUDIENCE, audience),
    "jwt_authorized_parties": Row(PARTY, party),
    "jwt_leeway": Row(150.0, leeway),
    "token_grace": Row(0.5, grace),
    "api_keys": Row(f"crm:links.read:{hashlib.sha256(SERVICE_KEY.encode()).hexdigest()}", service),
    "allow_faults": Row("true", faults_allowed),
}


# links, with sessions that do as the bot's name says


async def code_time(s: Scene) -> None:
    await s.user.link("shows")
    await s.user.state("qr_expired", "shows")


async def pair_time(s: Scene) -> None:
    await s.user.link("pairs")
    snapshot = await s.user.state("disconnected", "pairs")
    assert snapshot["reasonCode"] == "pairing_incomplete"


async def login_time(s: Scene) -> None:
    await s.user.link("pairs")
    await until(lambda: starts(s, "pairs") >= 2, within=4)


async def black_hole(s: Scene) -> None:
    """By default the third start that came to nothing would tell it."""
    await s.user.link("silent")
    await s.user.state("disconnected", "silent")
    assert await starts_until(s, "silent", "disconnected") == 1


async def ailing(s: Scene) -> None:
    await s.user.link("ails")
    await seen(lambda: told(s, "ails", "degraded"))
    await seen(lambda: restarts(s, "ails", 1))


async def banned(s: Scene) -> None:
    await s.user.link("banned")
    await seen(lambda: told(s, "banned", "banned"))
    await s.user.state("connected", "banned")


async def refusals(s: Scene) -> None:
    """As with `pauses`: from 15 s on, or doubled without this bound, twelve tries would take minutes."""
    await s.user.link("refused")
    await until(lambda: starts(s, "refused") >= 12, within=8)


async def given_up(s: Scene) -> None:
    await s.user.link("keeps")
    await s.user.state("connected", "keeps")
    await s.user.call("DELETE", "/api/bots/keeps/link")

    async def told_twice() -> bool:
        return (await s.states("keeps")).count("logged_out") == 2

    await seen(told_twice)
    assert (await s.user.snapshot("keeps"))["deviceRemoved"] is False


async def outdated(s: Scene) -> None:
    await s.user.link("outdated")
    await seen(lambda: told(s, "outdated", "client_outdated"))

    async def tried_again() -> bool:
        """Somebody who asks again is refused until it is time."""
        await s.user.call("PUT", "/api/bots/outdated/link")
        return starts(s, "outdated") == 2

    await seen(tried_again)
    await s.user.state("connected", "outdated")


async def stuck(s: Scene) -> None:
    await s.user.link("silent")
    await seen(lambda: restarts(s, "silent", 1))


async def restarts(s: Scene, bot: str, least: int) -> bool:
    return bool((await s.view(bot))["restarts"] >= least)


async def away(s: Scene) -> None:
    await s.user.link("drops")
    await s.user.state("disconnected", "drops", within=4)


async def away_for_long(s: Scene) -> None:
    await s.user.link("drops")
    await seen(lambda: restarts(s, "drops", 1))


async def dials(s: Scene) -> None:
    await s.user.link("unreachable")
    await s.user.state("disconnected", "unreachable", within=4)
    assert await starts_until(s, "unreachable", "disconnected") == 3


async def starts_until(s: Scene, bot: str, state: str) -> int:
    """How many sessions a bot had when it first entered a state."""
    link = (await s.view(bot))["linkId"]
    lines = s.program.text().splitlines()
    end = next(i for i, line in enumerate(lines) if link in line and f'"state":"{state}"' in line)
    return sum("scripted_start" in line and f'"{bot}"' in line for line in lines[:end])


def starts(s: Scene, bot: str) -> int:
    lines = [line for line in s.program.text().splitlines() if "scripted_start" in line]
    return sum(f'"{bot}"' in line for line in lines)


async def pauses(s: Scene) -> None:
    """Doubled each time from 0.05 s, twelve retries would take three minutes; from 1 s each, twelve seconds."""
    await s.user.link("lost")
    await until(lambda: starts(s, "lost") >= 12, within=8)


async def deaths(s: Scene) -> None:
    await s.user.link("dies")
    assert (await s.user.state("failed", "dies"))["reasonCode"] == "worker_crashed"


async def deaths_apart(s: Scene) -> None:
    """Deaths that lie further apart than the window are forgiven."""
    await s.user.link("dies-slowly")
    await until(lambda: starts(s, "dies slowly") >= 4)
    assert (await s.user.snapshot("dies-slowly"))["state"] == "connecting"


async def truth(s: Scene) -> None:
    await s.user.link("lies")
    await seen(lambda: counted(s, "roundtrip_link_corrections_total", 1))


async def misses(s: Scene) -> None:
    await s.user.link("hangs")
    pattern = re.compile(r'scripted_stop.*"hangs"|"hangs".*scripted_stop')
    # A round of comparisons lasts as long as its slowest: a contradiction, of the bot that lies, is looked at for 2 s.
    found = lambda: next((ln for ln in s.program.text().splitlines() if pattern.search(ln)), None)  # noqa: E731
    line = await until(found, within=25)
    assert json.loads(line)["asked"] == 5, line


async def flapping(s: Scene) -> None:
    await s.user.link("flaps")
    await seen(lambda: told(s, "flaps", "degraded"))


async def told(s: Scene, bot: str, type_: str) -> bool:
    return type_ in await s.states(bot)


async def calmed(s: Scene) -> None:
    await s.user.link("flaps")

    async def calm() -> bool:
        states = await s.states("flaps")
        return "degraded" in states and "connected" in states[states.index("degraded") :]

    await seen(calm)


async def flaps_apart(s: Scene) -> None:
    """Losses that lie further apart than the window are told one by one."""
    await s.user.link("flaps-slowly")

    async def three() -> bool:
        return (await s.states("flaps-slowly")).count("disconnected") == 3

    await seen(three)
    assert "degraded" not in await s.states("flaps-slowly")


async def at_once(s: Scene) -> None:
    for number in range(6):
        await s.user.link(f"stays.{number}")
    await until(lambda: held(s))
    await until(lambda: sum(f"stays.{n}" in s.program.text() for n in range(6)) == 6)
    assert max(held(s)) == 4


def held(s: Scene) -> list[int]:
    return [json.loads(line)["count"] for line in s.program.text().splitlines() if "scripted_held" in line]


LINKS = {
    "login_timeout": Row(0.3, login_time),
    "paired_timeout": Row(0.5, pair_time),
    "degraded_timeout": Row(0.4, ailing),
    "ban_cooldown": Row(0.3, banned),
    "refused_first": Row(0.05, refusals),
    "refused_cap": Row(0.1, refusals),
    "removal_period": Row(0.6, given_up),
    "stuck_timeout": Row(1.2, stuck),
    "disconnect_grace": Row(0.1, away),
    "reconnect_timeout": Row(0.5, away_for_long),
    "retry_limit": Row(2, dials),
    "retry_first": Row(0.05, pauses),
    "retry_cap": Row(0.1, pauses),
    "restart_limit": Row(2, deaths),
    "restart_window": Row(1.0, deaths_apart),
    "truth_interval": Row(0.2, truth),
    "truth_misses": Row(5, misses),
    "flap_limit": Row(1, flapping),
    "flap_window": Row(0.6, flaps_apart),
    "flap_calm": Row(0.4, calmed),
}
STARTS = {"start_concurrency": Row(4, at_once)}
BLACK_HOLE = {"unreachable_after": Row(0.6, black_hole)}
PATIENCE = {"pairing_patience": Row(0.5, code_time)}
OUTDATED = {"outdated_retry": Row(0.4, outdated)}


def value_of(row: Row) -> Any:
    return row.value() if callable(row.value) else row.value


@asynccontextmanager
async def scene(
    folder: Path, rows: Mapping[str, Row], command: tuple[str, ...] = BACKEND, **more: Any
) -> AsyncIterator[Scene]:
    values = {name: value_of(row) for name, row in rows.items() if row.value is not None} | more
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        running(folder, command=command, **values) as program,
        api(program) as user,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        scene = Scene(program, user, session, folder, values)
        try:
            yield scene
        finally:
            for client in scene.extra.get("clients", []):
                await client.io.shutdown()


@dataclass(frozen=True)
class Group:
    """Rows that one program shows, all at once. `others` are settings that this needs and that prove nothing."""

    rows: Mapping[str, Row]
    command: tuple[str, ...] = BACKEND
    others: Mapping[str, Any] = field(default_factory=dict)


GROUPS = {
    "place": Group(PLACE),
    "limits": Group(LIMITS),
    "places": Group(PLACES),
    "full": Group(FULL),
    "events": Group(EVENTS),
    "who": Group(WHO, others={"auth": "jwt"}),
    "links": Group(LINKS, SCRIPTED, {"start_concurrency": 20}),
    "starts": Group(STARTS, SCRIPTED),
    "black hole": Group(BLACK_HOLE, SCRIPTED),
    "patience": Group(PATIENCE, SCRIPTED),
    "outdated": Group(OUTDATED, SCRIPTED),
}

ON_ITS_OWN: dict[str, Any] = {
    "log_format": "text",
    "whatsapp_proxy": "http://127.0.0.1:1",
    "pairing_timeout": 25.0,
    "device_name": "Front desk",
    "admin_key": ADMIN_KEY,
    "store": "postgresql://127.0.0.1:1/none",
    "lease": 100.0,
    "hand_over_time": 0.0,
    "outbox_max_bytes": 1 << 20,
    "jwks_url": "http://127.0.0.1:1/keys",
    "jwks_outage": 1.0,
    "jwks_empty_grace": 0.0,
    "restore_concurrency": 2,
    "canary_interval": 0.1,
    "canary_url": "http://127.0.0.1:1",
    "sessions_per_worker": 2,
    "worker_memory_limit": 64,
}
"""Rows with a test of their own below; `hand_over_time` is used in tests/cluster/test_rolling.py,
`device_name` is told to the stand-in in tests/whatsapp/test_bad_minutes.py,
`worker_memory_limit` is passed in tests/whatsapp/test_hosts.py."""


@pytest.mark.parametrize("name", GROUPS)
async def test_each_setting_does_something(tmp_path: Path, name: str) -> None:
    group = GROUPS[name]
    async with scene(tmp_path, group.rows, group.command, **group.others) as s:
        effects = dict.fromkeys(row.effect for row in group.rows.values())
        results = await asyncio.gather(*(effect(s) for effect in effects), return_exceptions=True)
        failed = dict(zip(effects, results, strict=True))
        wrong = {
            setting: repr(failed[row.effect]) for setting, row in group.rows.items() if failed[row.effect] is not None
        }
        assert not wrong, f"{wrong}\n{s.program.text()[-2000:]}"


def test_every_setting_has_its_row_and_no_row_is_a_default() -> None:
    from roundtrip.settings import Settings

    rows = {name: row.value for group in GROUPS.values() for name, row in group.rows.items()} | ON_ITS_OWN
    assert rows.keys() == Settings.model_fields.keys()
    assert sum(len(group.rows) for group in GROUPS.values()) + len(ON_ITS_OWN) == len(rows), "a setting has two rows"
    for name, value in rows.items():
        default = Settings.model_fields[name].default
        assert value != default, name
        assert str(value) != str(default), name


# rows that need a program of their own


async def test_log_format(tmp_path: Path) -> None:
    async with running(tmp_path, ready=False, log_format="text") as program:
        await until(lambda: "started" in program.text())
        assert not [line for line in program.text().splitlines() if line.startswith("{")]


async def test_whatsapp_proxy(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        async with running(tmp_path, whatsapp_driver="neonize", whatsapp_proxy=url) as program, api(program) as user:
            await user.link()
            await until(lambda: asked, within=20)
    assert asked[0].startswith(b"CONNECT web.whatsapp.com:443")


@pytest.mark.slow
@pytest.mark.waits
async def test_pairing_timeout(tmp_path: Path) -> None:
    """The real library gives a code that is good for some minutes; the page is told what the setting leaves of it."""
    async with scenario(tmp_path, pairing_timeout=25) as it:
        await it.api.link(phone_number=NUMBER)
        code = await it.told("whatsapp_pairing_code", within=60)
        assert 20 < seconds_between(code["timestamp"], code["expiresAt"]) <= 25


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


async def test_admin_key(tmp_path: Path) -> None:
    async with scene(tmp_path, {}, admin_key=ADMIN_KEY) as s:
        await admin_key(s)


async def test_canary(tmp_path: Path) -> None:
    async with scene(tmp_path, {}, canary_interval=0.1, canary_url="http://127.0.0.1:1") as s:
        await seen(lambda: counted(s, 'roundtrip_canary_failures_total{stage="connect"}', 2))


async def test_store(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1: .*The store 127.0.0.1:1/none cannot be used"):
        async with running(tmp_path, store="postgresql://127.0.0.1:1/none"):
            pass


async def test_lease_and_node_id(tmp_path: Path, database: str) -> None:
    """What is stored of the node: its name, and how long it may be silent."""
    async with running(tmp_path, store=database, lease=100.0, node_id="first"):
        connection = await asyncpg.connect(database)
        try:
            name, left = await connection.fetchrow(
                "SELECT node_id, extract(epoch FROM lease_until - clock_timestamp()) FROM nodes"
            )
        finally:
            await connection.close()
    assert name == "first"
    assert 30 < left <= 100


async def test_outbox_max_bytes(tmp_path: Path) -> None:
    """An outbox that is full of events that still wait, at a bound that is not the default."""
    async with running(tmp_path) as program, api(program) as user:
        await user.link()
    db = sqlite3.connect(tmp_path / "outbox.db")
    with db:
        db.execute("UPDATE events SET body = zeroblob(1500000)")
    db.close()
    for bound, status in ((8 << 20, 202), (1 << 20, 503)):
        async with running(tmp_path, outbox_max_bytes=bound) as program, api(program) as user:

            async def answered(user: Api = user, status: int = status, bound: int = bound) -> bool:
                got, problem = await user.call("PUT", f"/api/bots/of-{bound}/link")
                return got == status and (status == 202 or problem["code"] == "outbox_full")

            await seen(answered)


async def test_sessions_per_worker(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sessions_per_worker": 2, "simulated_scan_after": 0, "simulated_speed": 20}
    async with running(tmp_path, **settings) as program, api(program) as user:
        for number in range(3):
            await user.link(f"bot.{number}")
            await user.state("connected", f"bot.{number}")
        metrics = await user.metrics()
        assert metrics["roundtrip_workers"] == 2
        assert metrics['roundtrip_worker_sessions{stat="max"}'] == 2
        workers = [link["workerId"] for link in (await user.admin("/debug/links"))["links"]]
        assert len(set(workers)) == 2


async def test_restore_concurrency(tmp_path: Path) -> None:
    async with scene(tmp_path, {}, SCRIPTED) as s:
        for number in range(6):
            await s.user.link(f"once.{number}")
            await s.user.state("connected", f"once.{number}")

    def started(program: Program) -> int:
        return program.text().count("scripted_start")

    settings = {"restore_concurrency": 2, "start_concurrency": 6}
    # Sessions of links that come back say nothing in their second life, so each restore takes its time
    async with running(tmp_path, command=SCRIPTED, ready=False, stuck_timeout=600, **settings) as program:
        await until(lambda: started(program) >= 2)
        await asyncio.sleep(0.5)
        assert started(program) == 2


@asynccontextmanager
async def issuing() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """A JWKS address, and what it answers with: `document`, None for an outage."""
    state: dict[str, Any] = {"document": jwks(jwk(private_key("RS256"), "k0")), "asked": 0}

    async def keys(_request: web.Request) -> web.Response:
        state["asked"] += 1
        if state["document"] is None:
            return web.Response(status=500)
        return web.Response(body=state["document"])

    app = web.Application()
    app.router.add_get("/keys", keys)
    async with serving(app) as url:
        yield f"{url}/keys", state


async def test_jwks_url_and_jwks_outage(tmp_path: Path) -> None:
    async with (
        issuing() as (url, state),
        scene(tmp_path, {}, auth="jwt", jwks_url=url, jwks_outage=1.0) as s,
    ):
        assert await with_token(s, good()) == 200
        assert await with_token(s, token(private_key("RS256", 1))) == 401
        assert state["asked"] == 1
        state["document"] = None
        await seen(lambda: answers(s, 503), within=5)


async def answers(s: Scene, status: int) -> bool:
    return await with_token(s, good()) == status


@pytest.mark.slow
@pytest.mark.waits
async def test_jwks_empty_grace(tmp_path: Path) -> None:
    """The issuer is asked again 10 s after it was asked last."""
    async with (
        issuing() as (url, state),
        scene(tmp_path, {}, auth="jwt", jwks_url=url, jwks_empty_grace=0.0) as s,
    ):
        assert await with_token(s, good()) == 200
        state["document"] = jwks()

        async def gone() -> bool:
            await with_token(s, good(sub=USER) if state["asked"] > 1 else token(kid="another"))
            return state["asked"] > 1 and await answers(s, 401)

        await seen(gone, within=30)
