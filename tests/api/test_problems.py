from __future__ import annotations

import json

import pytest

from roundtrip.api.problems import Problem, problem_of
from tests.support.api import Api


@pytest.mark.parametrize("admin", [False, True])
async def test_an_unknown_address(served: Api, admin: bool) -> None:
    status, data, headers = await served.call("GET", "/api/nothing", admin=admin)
    assert (status, data["code"]) == (404, "not_found")
    assert headers["Content-Type"].startswith("application/problem+json")
    assert set(data) == {"type", "title", "status", "detail", "code"}
    assert data["type"] == "urn:roundtrip:problem:not_found"


@pytest.mark.parametrize("admin", [False, True])
async def test_a_method_that_an_address_does_not_answer_to(served: Api, admin: bool) -> None:
    status, data, headers = await served.call("PATCH", "/healthz", admin=admin)
    assert (status, data["code"]) == (405, "method_not_allowed")
    assert "GET" in headers["Allow"]


async def test_an_error_that_nobody_foresaw_tells_the_caller_nothing(
    served: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    served.links.error = RuntimeError("the secret of +4915112345678")
    status, data, _ = await served.call("PUT", "/api/bots/bot/link")
    assert (status, data["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(data)
    assert "request_failed" in capsys.readouterr().out  # structlog as it is before it is configured


async def test_who_says_nothing_is_asked_who_they_are(served: Api) -> None:
    status, data, headers = await served.call("GET", "/api/bots/bot/link", user=None)
    assert (status, data["code"]) == (401, "unauthorized")
    assert headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("user", ["", " ", "u" * 129])
async def test_a_wrong_user_id(served: Api, user: str) -> None:
    status, data, _ = await served.call("GET", "/api/bots/bot/link", user=user)
    assert (status, data["code"]) == (400, "user_id_invalid")


def test_retry_after_is_never_zero() -> None:
    response = Problem("rate_limited", "Slow down.", 429, retry_after=0.01).response()
    assert response.headers["Retry-After"] == "1"


def test_a_problem_stays_what_it_is() -> None:
    problem = Problem("a_code", "A sentence.")
    assert problem_of(problem) is problem
