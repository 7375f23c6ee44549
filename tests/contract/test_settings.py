"""Chapter "Settings": that a setting of the contract has its default, and that one which is set is kept to."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from socketio.exceptions import ConnectionError as ConnectionRefused

from tests.support.inside import Inside, inside
from tests.support.lives import connect
from tests.support.program import BACKEND, ROOT, environment
from tests.support.py_client import py_client

LINK = "/api/bots/bot/link"
ME = {"X-User-Id": "user"}

DEFAULTS = {
    "HOST": "127.0.0.1",
    "PORT": "8080",
    "ADMIN_HOST": "127.0.0.1",
    "ADMIN_PORT": "9464",
    "DATA_DIR": "data",
    "WHATSAPP_DRIVER": "neonize",
    "WHATSAPP_PROXY": "unset",
    "AUTH": "jwt",
    "JWKS_URL": "unset",
    "JWT_PUBLIC_KEY": "unset",
    "JWT_ISSUER": "unset",
    "JWT_AUDIENCE": "unset",
    "API_KEYS": "unset",
    "CORS_ORIGINS": "unset",
    "EVENT_TTL": "86400.0",
    "ACK_TIMEOUT": "5.0",
    "MAX_SOCKETS_PER_KEY": "16",
    "SIMULATED_SCAN_AFTER": "unset",
    "FAULTS": "unset",
    "PII_HASH_KEY": "unset",
}


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BACKEND, "--help"], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    shown = dict(re.findall(r"^\s+ROUNDTRIP_(\w+)\s.*\(default: (.*)\)$", done.stdout, re.MULTILINE))
    assert {name: shown.get(name) for name in DEFAULTS} == DEFAULTS


async def test_a_phone_scans_by_itself(tmp_path: Path) -> None:
    async with inside(tmp_path, simulated_scan_after=0.1) as program:
        await program.user().link()
        await program.user().state("connected")


async def test_only_the_named_origins_may_call(tmp_path: Path) -> None:
    async with inside(tmp_path, cors_origins=("https://app.example",)) as program:
        for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
            _, _, headers = await program.request("GET", LINK, headers=ME | {"Origin": origin})
            assert (headers.get("access-control-allow-origin") == origin) is allowed


async def test_without_a_list_no_origin_may_call(program: Inside) -> None:
    _, _, headers = await program.request("GET", LINK, headers=ME | {"Origin": "https://app.example"})
    assert "access-control-allow-origin" not in headers


async def test_a_body_has_a_largest_size(tmp_path: Path) -> None:
    async with inside(tmp_path, max_body=2048) as program:
        for size, status in ((100, 400), (3000, 413)):
            got, problem, _ = await program.request("PUT", LINK, headers=ME, json={"phoneNumber": "x" * size})
            assert got == status, problem


async def test_a_body_has_a_deepest_nesting(tmp_path: Path) -> None:
    async with inside(tmp_path, max_json_depth=3) as program:
        got, problem, _ = await program.request("PUT", LINK, headers=ME, data="[" * 10 + "]" * 10)
        assert got == 400
        assert problem["code"]


async def test_a_user_has_a_most_number_of_links(tmp_path: Path) -> None:
    async with inside(tmp_path, max_links_per_user=1) as program:
        await program.user().link("one")
        status, problem = await program.user().call("PUT", "/api/bots/two/link")
        assert status in {409, 429}, problem
        await program.user("another").link("two")


async def test_a_user_has_a_most_number_of_sockets(tmp_path: Path) -> None:
    async with inside(tmp_path, max_sockets_per_user=1) as program, py_client(program.url, "user", "one"):
        with pytest.raises(ConnectionRefused):
            async with py_client(program.url, "user", "two"):
                pass
        async with py_client(program.url, "another", "two"):
            pass


async def test_pairings_have_a_rate(tmp_path: Path) -> None:
    async with inside(tmp_path, pairings_per_hour=1) as program:
        await program.user().link("one")
        status, problem, headers = await program.request("PUT", "/api/bots/two/link", headers=ME)
        assert status == 429, problem
        assert int(headers["retry-after"]) > 0


async def test_a_browser_that_came_and_went_is_pinged(tmp_path: Path) -> None:
    async with inside(tmp_path, ping_interval=1, ping_timeout=1) as program:
        user = program.user()
        async with py_client(program.url) as page:
            await asyncio.sleep(1.5)
            assert page.io.connected, "who answers stays"
            await connect(user)
            await page.count(4)


async def test_faults_are_on_from_the_start(tmp_path: Path) -> None:
    async with inside(tmp_path, faults=("drop_acks", "slow_outbox=0.01")) as program:
        _, listed, _ = await program.admin("GET", "/debug/faults")
        assert {fault["name"] for fault in listed["faults"] if fault["active"]} == {"drop_acks", "slow_outbox"}


async def test_a_trace_has_an_address_in_the_viewer(tmp_path: Path) -> None:
    async with inside(tmp_path, trace_url_template="https://traces.example/{trace_id}") as program:
        await program.user().link()
        (first, *_) = await program.user().ledger()
        _, event, _ = await program.request("GET", f"/api/events/{first['id']}", headers=ME)
        assert event["traceUrl"] == f"https://traces.example/{event['traceId']}"
