"""The typed client in Node against the whole program: tokens that fail, expire and change, order, outages."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clients.build import SOURCE, built
from tests.clients.node import client
from tests.support import tokens
from tests.support.inside import Inside, inside
from tests.support.program import running
from tests.support.programs import require

ME = "ada"
KEY = tokens.private_key("ES256")


def token(seconds: float, user: str = ME) -> str:
    now = int(time.time())
    return tokens.token(KEY, algorithm="ES256", kid=None, sub=user, iat=now, exp=now + seconds)


@asynccontextmanager
async def with_tokens(folder: Path, **settings: Any) -> AsyncIterator[Inside]:
    key = tokens.public_pem(KEY)
    async with inside(
        folder, auth="jwt", jwt_public_key=key, jwt_leeway=0, simulated_scan_after=0.02, **settings
    ) as program:
        yield program


async def connects(program: Inside) -> float:
    """How many sockets were accepted so far."""
    _, text, _ = await program.admin("GET", "/metrics")
    (line,) = (
        line for line in text.splitlines() if line.startswith('roundtrip_socket_connects_total{result="accepted"}')
    )
    return float(line.split()[1])


async def attempts(program: Inside, count: int, which: int = -1) -> None:
    """Wait until one event of the ledger, by default the newest, has so many attempts."""
    async with asyncio.timeout(10):
        while len((await program.user(ME).ledger())[which]["attempts"]) < count:
            await asyncio.sleep(0.05)


async def test_events_are_handled_in_order_once_and_then_acknowledged(tmp_path: Path) -> None:
    async with inside(tmp_path) as program, client(program.url, userId=ME, pause=60) as page:
        first = await page.status("live")
        assert first["snapshot"]["state"] == "idle"
        answer = await page.call("link")
        assert answer["answer"]["state"] == "connecting"
        phone = program.user(ME)
        await page.state(lambda state: state["snapshot"]["state"] == "qr")
        assert page.states[-1]["snapshot"]["qr"]
        await phone.simulate("scan")
        state = await page.state(lambda state: state["snapshot"]["state"] == "connected")
        assert [event["seq"] for event in page.handled] == state["events"] == [1, 2, 3, 4]
        assert "qr" not in state["snapshot"]
        assert state["snapshot"]["displayName"]
        turns = [
            (line["on"], line["id"] if line["on"] == "began" else line["event"]["id"])
            for line in page.said
            if line["on"] in {"began", "event"}
        ]
        assert [turn[0] for turn in turns] == ["began", "event"] * 4, "one after the other"
        answer = await page.call("logOut")
        assert answer["answer"]["state"] == "logged_out"
        await page.state(lambda state: state["snapshot"]["state"] == "logged_out")
        async with asyncio.timeout(10):
            while {event["outcome"] for event in await phone.ledger()} != {"acked"}:
                await asyncio.sleep(0.02)


async def test_what_comes_twice_is_handled_once(tmp_path: Path) -> None:
    async with (
        inside(tmp_path, faults=("drop_acks",), ack_timeout=0.2) as program,
        client(program.url, userId=ME) as page,
    ):
        await page.status("live")
        await page.call("link")
        await page.wait(lambda _: len(page.handled) == 2)
        await attempts(program, 3)
        assert [event["seq"] for event in page.handled] == [1, 2]


async def test_an_event_whose_handler_fails_comes_again(tmp_path: Path) -> None:
    async with inside(tmp_path, ack_timeout=0.2) as program, client(program.url, userId=ME, fail=1) as page:
        await page.status("live")
        await page.call("link", "+4915112345678")
        await page.state(lambda state: state["error"] == "handler_failed")
        await page.wait(lambda _: {event["seq"] for event in page.handled} >= {1, 2})
        await attempts(program, 2, which=0)


async def test_a_token_that_cannot_be_read_is_asked_for_again(tmp_path: Path) -> None:
    """A rejected `getToken` must not hang the client."""
    async with with_tokens(tmp_path) as program, client(program.url, tokens=[None, None, token(600)]) as page:
        await page.state(lambda state: (state["status"], state["error"]) == ("offline", "token_failed"))
        state = await page.status("live")
        assert state["error"] is None
        assert [line["rejected"] for line in page.said if line["on"] == "asked"] == [True, True, False]


async def test_a_token_that_expired_before_the_connect_is_replaced(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as program, client(program.url, tokens=[token(-60), token(600)]) as page:
        await page.status("live")
        asked = [line["fresh"] for line in page.said if line["on"] == "asked"]
        assert asked == [False, True], "a cached token is not asked for twice"


@pytest.mark.slow
@pytest.mark.waits
async def test_a_token_is_renewed_before_it_expires_and_the_socket_stays(tmp_path: Path) -> None:
    values = [token(6), None, token(600)]
    async with with_tokens(tmp_path, token_grace=0) as program, client(program.url, tokens=values) as page:
        await page.status("live")
        await page.wait(lambda _: len([line for line in page.said if line["on"] == "asked"]) == 3)
        await page.state(lambda state: state["status"] == "live" and state["error"] is None)
        assert await connects(program) == 1
        assert {state["status"] for state in page.states} == {"connecting", "live"}


@pytest.mark.slow
@pytest.mark.waits
async def test_after_a_missed_renewal_the_client_comes_back(tmp_path: Path) -> None:
    """The backend closes a socket whose token has expired; the client returns with a fresh one."""
    async with with_tokens(tmp_path, token_grace=0) as program:
        values = [token(4), None, None, None, None, token(600)]
        async with client(program.url, tokens=values, retry={"first": 400, "last": 900}) as page:
            await page.status("live")
            await page.status("stale")
            state = await page.status("live")
            assert state["snapshot"]["userId"] == ME


@pytest.mark.slow
@pytest.mark.waits
async def test_a_token_source_that_gives_the_same_token_again_is_asked_with_pauses(tmp_path: Path) -> None:
    async with with_tokens(tmp_path, token_grace=5) as program:
        same = token(5)
        async with client(program.url, tokens=[same, same, same, token(600)]) as page:
            await page.state(lambda state: state["error"] == "token_not_renewed")
            await page.state(lambda state: (state["status"], state["error"]) == ("live", None))
            assert await connects(program) == 1


@pytest.mark.slow
@pytest.mark.waits
async def test_another_user_gets_nothing_of_the_one_before(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as program, client(program.url, tokens=[token(6), token(600, "bob")]) as page:
        await page.status("live")
        await page.call("link")
        before = await page.state(lambda state: len(state["events"]) == 4)
        assert before["snapshot"]["userId"] == ME
        after = await page.state(lambda state: state["snapshot"] and state["snapshot"]["userId"] == "bob")
        assert after["events"] == []
        assert after["snapshot"]["state"] == "idle"


async def test_what_can_not_succeed_is_refused_with_its_code(tmp_path: Path) -> None:
    async with with_tokens(tmp_path) as program:
        async with client(program.url, bot=" padded ", tokens=[token(600)]) as page:
            assert (await page.status("refused"))["error"] == "bot_id_invalid"
        async with client(program.url, tokens=["rubbish"]) as page:
            assert (await page.status("refused"))["error"] == "unauthorized"
            await page.call("start")
            await page.status("refused")
            assert (await page.call("link"))["error"] == "unauthorized"


async def test_while_the_backend_is_gone_the_state_is_stale_and_then_current(tmp_path: Path) -> None:
    async with running(tmp_path) as old:
        port = int(old.url.rpartition(":")[2])
        async with client(old.url, userId=ME) as page:
            await page.status("live")
            await page.call("link")
            await page.state(lambda state: state["snapshot"]["state"] == "qr")
            old.kill()
            await old.ended()
            stale = await page.status("stale")
            assert stale["snapshot"]["state"] == "qr", "what was last known stays"
            assert stale["error"] == "unreachable"
            assert stale["heardAt"] > time.time() * 1000 - 20_000
            assert (await page.call("link"))["error"] == "unreachable"
            async with running(tmp_path, port=port):
                assert (await page.status("live"))["error"] is None


async def test_a_backend_that_was_never_heard_is_offline() -> None:
    async with client("http://127.0.0.1:9", userId=ME) as page:
        state = await page.status("offline")
        assert (state["snapshot"], state["heardAt"]) == (None, None)
        await page.call("stop")
        assert page.states[-1]["status"] == "stopped"


def test_the_package_can_be_published() -> None:
    """It packs what it names, and depends on socket.io-client alone."""
    folder = built()
    done = subprocess.run(
        [require("npm", "apt-get install npm"), "pack", "--dry-run", "--json", "--ignore-scripts"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    (packed,) = json.loads(done.stdout)
    names = {file["path"] for file in packed["files"]}
    package = json.loads((folder / "package.json").read_text())
    for target in package["exports"].values():
        assert {path.removeprefix("./") for path in target.values()} <= names
    assert "dependencies" not in package
    optional = {name for name, meta in package["peerDependenciesMeta"].items() if meta["optional"]}
    assert set(package["peerDependencies"]) - optional == {"socket.io-client"}


def test_every_status_is_documented() -> None:
    text = (built() / "dist" / "index.d.ts").read_text()
    readme = (SOURCE / "README.md").read_text()
    statuses = text.split("export type Status = ")[1].split(";")[0].replace('"', "").split(" | ")
    assert len(statuses) == 6
    for status in statuses:
        assert f"`{status}`" in readme
