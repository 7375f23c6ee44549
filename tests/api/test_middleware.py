from __future__ import annotations

import pytest

from tests.support.api import api

ORIGIN = "https://app.example.test"
LINK = "/api/bots/bot/link"


def preflight(origin: str) -> dict[str, str]:
    return {"Origin": origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}


async def test_a_page_of_an_allowed_origin_may_call() -> None:
    async with api(cors_origins=(ORIGIN,)) as served:
        status, _, headers = await served.call("OPTIONS", LINK, headers=preflight(ORIGIN), user=None)
        assert status == 204
        assert headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "PUT" in headers["Access-Control-Allow-Methods"]
        assert "Authorization" in headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in headers  # nothing here lives on cookies
        for path in (LINK, "/api/nothing"):
            _, _, headers = await served.call("GET", path, headers={"Origin": ORIGIN})
            assert headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "Origin" in headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example.test", "null", "http://app.example.test", ORIGIN + ".evil.test"]
)
async def test_a_page_of_another_origin_may_not(origin: str) -> None:
    async with api(cors_origins=(ORIGIN,)) as served:
        status, data, headers = await served.call("OPTIONS", LINK, headers=preflight(origin), user=None)
        assert (status, data["code"]) == (403, "origin_not_allowed")
        assert "Access-Control-Allow-Origin" not in headers
        _, _, headers = await served.call("GET", LINK, headers={"Origin": origin})
        assert "Access-Control-Allow-Origin" not in headers


async def test_nobody_may_by_default() -> None:
    async with api() as served:
        _, _, headers = await served.call("GET", LINK, headers={"Origin": ORIGIN})
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("127.8.8.8:80", 200),
        ("[::1]:8080", 200),
        ("app.localhost", 200),
        ("evil.example.test", 403),
        ("localhost.evil.test", 403),
        ("10.0.0.1", 403),
        ("[", 403),
    ],
)
async def test_a_name_that_was_pointed_here_is_refused_where_everybody_is_believed(host: str, status: int) -> None:
    async with api() as served:
        for admin in (False, True):
            seen, _, _ = await served.call("GET", "/healthz", headers={"Host": host}, admin=admin)
            assert seen == status


async def test_behind_a_name_of_its_own_tokens_are_what_counts() -> None:
    async with api(trusted=False, admin_key="key") as served:
        for admin in (False, True):
            seen, _, _ = await served.call("GET", "/healthz", headers={"Host": "app.example.test"}, admin=admin)
            assert seen == 200
