"""The program under bad input and a full disk: a clear error each, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.node_client import node_client
from tests.support.program import Program, api, running


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", f"/api/bots/{'x' * 1_000}/link", None, 400, "bot_id_invalid"),
        ("PUT", "/api/bots/a%0Ab/link", None, 400, "bot_id_invalid"),
        ("PUT", "/api/bots/bot/link", ["no", "object"], 400, "body_invalid"),
        ("PUT", "/api/bots/bot/link", {"phoneNumber": "123"}, 400, "phone_number_invalid"),
        ("PUT", "/api/bots/bot/link", {"phoneNumber": 5}, 400, "body_invalid"),
        ("POST", "/api/bots/unknown/link/simulate", {"action": "scan"}, 404, "link_not_found"),
        ("POST", "/api/bots/bot/link/simulate", {"action": "fly"}, 400, "body_invalid"),
        ("GET", "/api/events/no-such-event", None, 404, None),
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("PATCH", "/api/bots/bot/link", None, 405, None),
        ("GET", "/api/bots/bot/events?after=x", None, 400, None),
    ],
)
async def test_a_bad_request_gets_a_problem_document(
    tmp_path: Path, method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    async with running(tmp_path) as program, api(program) as user:
        got, problem = await user.call(method, path, body)
        assert got == status, problem
        assert problem["status"] == status
        assert problem["code"] == code or code is None
        assert {"type", "title", "detail"} <= problem.keys()


async def test_a_second_start_while_a_link_lives_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as program, api(program) as user:
        first = await user.link()
        assert (await user.link())["linkId"] == first["linkId"]


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as program, aiohttp.ClientSession() as session:
        url = f"{program.url}/api/bots/bot/link"
        async with session.put(url, data=b"x" * 1_000_000, headers={"X-User-Id": "user"}) as response:
            assert response.status == 413
            assert (await response.json(content_type=None))["code"] == "body_too_large"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fits(file: RawIOBase) -> bool:
    try:
        return bool(file.write(b"\0" * 4096))
    except OSError:
        return False


async def readiness(program: Program) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{program.admin_url}/readyz") as response:
        return response.status, (await response.json())["checks"]


async def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path) -> None:
    auth = {"userId": "user", "botId": "bot"}
    async with running(small_disk) as program, api(program) as user:
        await user.link()
        before = await user.ledger()
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            while _fits(file):
                pass
        status, checks = await readiness(program)  # before any store has noticed: their next page still fits
        assert status == 503
        assert {name for name, check in checks.items() if not check["ok"]} == {"outbox", "links"}
        assert all("full" in checks[name]["detail"] for name in ("outbox", "links")), checks
        async with asyncio.timeout(20):
            while (await user.call("PUT", "/api/bots/other/link"))[0] != 503:
                await asyncio.sleep(0.02)
        status, problem = await user.call("PUT", "/api/bots/another/link")
        assert (status, problem["code"] in {"outbox_unavailable", "store_unavailable"}) == (503, True), problem
        assert (await readiness(program))[0] == 503
        metrics = await user.metrics()
        assert metrics['roundtrip_ready{check="outbox"}'] == metrics['roundtrip_ready{check="links"}'] == 0
        filler.unlink()
        await program.started()  # ready again, by itself
        assert [event["id"] for event in (await user.ledger())[: len(before)]] == [event["id"] for event in before]
        async with node_client(program.url, auth) as client:
            await user.state("qr", within=20)
            await user.simulate("scan")
            await client.event("whatsapp_connected", within=20)
