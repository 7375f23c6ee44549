"""Browsers' sessions on the admin listener: their life, wrong keys, and what may change something."""

from __future__ import annotations

from typing import Any

import pytest

from roundtrip.api.debug.sessions import ALL_ATTEMPTS, ATTEMPTS, ATTEMPTS_WINDOW, COOKIE, LIFE, MOST_SESSIONS, Sessions
from roundtrip.api.problems import Problem
from tests.support.api import Api, api

KEY = "the admin key"
LOGIN = "/debug/console/login"


class Seconds:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_has_an_end_and_there_are_not_endlessly_many() -> None:
    seconds, results = Seconds(), list[str]()
    sessions = Sessions(KEY, results.append, seconds)
    cookie = sessions.login(KEY, "a")
    assert sessions.knows(cookie)
    assert not sessions.knows("another")
    assert not sessions.knows(None)
    seconds.now = LIFE + 1
    assert not sessions.knows(cookie)
    first = sessions.login(KEY, "a")
    for _ in range(MOST_SESSIONS):
        last = sessions.login(KEY, "a")
    assert not sessions.knows(first)
    sessions.logout(last)
    assert not sessions.knows(last)
    assert set(results) == {"accepted"}


def test_wrong_keys_are_limited_by_address_and_in_all_and_counted() -> None:
    seconds, results = Seconds(), list[str]()
    sessions = Sessions(KEY, results.append, seconds)

    def attempt(address: str, key: str = "wrong") -> str:
        with pytest.raises(Problem) as refused:
            sessions.login(key, address)
        return refused.value.code

    assert [attempt("a") for _ in range(ATTEMPTS + 1)] == ["unauthorized"] * ATTEMPTS + ["rate_limited"]
    assert attempt("a", KEY) == "rate_limited", "the right key must not be told apart by trying on"
    assert sessions.login(KEY, "b")
    assert results.count("limited") == 2
    for number in range(ALL_ATTEMPTS - ATTEMPTS):
        attempt(f"address-{number}")
    assert attempt("new") == "rate_limited"
    seconds.now = ATTEMPTS_WINDOW + 1
    assert sessions.login(KEY, "a")


async def browser(served: Api, method: str, path: str, **headers: str) -> tuple[int, Any]:
    """As a browser's page asks: with an origin."""
    named = {"Origin": served.admin_url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    body: dict[str, Any] = {"json": {}} if method == "PUT" else {}
    status, data, _ = await served.call(method, path, admin=True, headers=named, **body)
    return status, data


async def test_a_login_sets_a_cookie_that_opens_everything_until_the_logout() -> None:
    async with api(admin_key=KEY) as served:
        status, data, headers = await served.call("POST", LOGIN, admin=True, json={"key": "wrong"})
        assert (status, data["code"]) == (401, "unauthorized")
        assert "Set-Cookie" not in headers
        status, data, headers = await served.call("POST", LOGIN, admin=True, json={"key": KEY})
        assert status == 200
        cookie = headers["Set-Cookie"]
        for part in (f"{COOKIE}=", "HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={int(LIFE)}"):
            assert part in cookie, part
        with_cookie = {"Cookie": cookie.split(";")[0]}
        status, _, _ = await served.call("GET", "/debug/sockets", admin=True, headers=with_cookie)
        assert status == 200
        fault = "/debug/faults/drop_acks"
        assert (await browser(served, "PUT", fault, **with_cookie))[0] == 403, "no token"
        assert (await browser(served, "PUT", fault, X_Console_Token="0" * 64, **with_cookie))[0] == 403
        token = data["token"]
        assert (await browser(served, "PUT", fault, X_Console_Token=token))[0] == 401, "no session"
        foreign = {"Origin": "http://elsewhere.example"}
        assert (await browser(served, "PUT", fault, X_Console_Token=token, **with_cookie, **foreign))[0] == 403
        assert served.faults.drop_acks is False
        assert (await browser(served, "PUT", fault, X_Console_Token=token, **with_cookie))[0] == 200
        assert served.faults.drop_acks is True
        path = "/debug/console/logout"
        assert (await browser(served, "POST", path, X_Console_Token=token, **with_cookie))[0] == 200
        status, _, _ = await served.call("GET", "/debug/sockets", admin=True, headers=with_cookie)
        assert status == 401


async def test_without_a_key_a_foreign_page_changes_nothing() -> None:
    async with api() as served:
        fault = "/debug/faults/drop_acks"
        assert (await browser(served, "PUT", fault))[0] == 403
        assert (await browser(served, "PUT", fault, Origin="http://elsewhere.example"))[0] == 403
        assert (await browser(served, "DELETE", fault, Origin="null"))[0] == 403
        status, _, _ = await served.call("PUT", fault, admin=True)  # a program on this machine, as before
        assert status == 200


async def test_a_name_that_was_made_to_resolve_to_this_machine_gets_nothing() -> None:
    async with api() as served:
        for path in ("/", "/console/misses", "/debug/sockets", "/static/main.js"):
            status, data, _ = await served.call("GET", path, admin=True, headers={"Host": "rebound.example"})
            assert (status, data["code"]) == (403, "host_not_allowed"), path


async def test_the_page_itself_needs_no_key_holds_nothing_and_allows_nothing_inline() -> None:
    async with api(admin_key=KEY) as served:
        for path in ("/", "/console/events/x", "/static/main.js", "/static/console.css", "/vendor/preact.mjs"):
            status, text, headers = await served.call("GET", path, admin=True)
            assert status == 200, path
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            if headers["Content-Type"].startswith("text/html"):
                assert "<style" not in text
                assert "style=" not in text
                assert "onload" not in text
                assert all('src="/' in tag for tag in text.split("<script")[1:])
        for path in ("/static/../app.py", "/static/%2e%2e%2fapp.py", "/static/nothing.js", "/vendor/socket.io.js"):
            assert (await served.call("GET", path, admin=True))[0] in {401, 404}, path


@pytest.mark.parametrize("path", ["sockets", "links", "links/a%20b", "events/0190b0f0"])
async def test_a_browser_is_sent_to_the_consoles_page(served: Api, path: str) -> None:
    headers = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    status, _, got = await served.call("GET", f"/debug/{path}", admin=True, headers=headers, allow_redirects=False)
    assert (status, got["Location"], got["Vary"]) == (302, f"/console/{path}", "Accept")
