"""CORS origins: how they are read, which are refused, and what a refusal tells the one who has to allow it."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from roundtrip.environment import load
from roundtrip.origins import Origins, parse_origin
from roundtrip.settings import SettingsError
from tests.support.program import running
from tests.support.py_client import eventually


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("https://App.Example/", "https://app.example"),
        ("HTTPS://app.example:443", "https://app.example"),
        ("http://localhost:80/", "http://localhost"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
        ("null", "null"),
    ],
)
def test_an_origin_is_read_as_a_browser_sends_it(written: str, origin: str) -> None:
    assert parse_origin(written) == origin
    assert parse_origin(origin) == origin


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("app.example", "has no scheme: write https://app.example"),
        ("localhost:5173", "has no scheme"),
        ("://app.example", "has no scheme"),
        ("https://", "is not an origin"),
        ("https://*.example", "without wildcards"),
        ("https://app.example:port", "is not an origin"),
        ("https://me@app.example", "is not an origin"),
        ("https://app.example/login", "leave out what follows"),
        ("https://app.example?x", "leave out what follows"),
    ],
)
def test_what_is_no_origin_is_refused_with_its_cure(monkeypatch: pytest.MonkeyPatch, written: str, why: str) -> None:
    monkeypatch.setenv("ROUNDTRIP_AUTH", "trusted")
    monkeypatch.setenv("ROUNDTRIP_CORS_ORIGINS", f"https://ok.example,{written}")
    with pytest.raises(SettingsError) as caught:
        load()
    said = str(caught.value)
    assert said.startswith("ROUNDTRIP_CORS_ORIGINS: ")
    assert why in said
    assert repr(written) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:1", "https://app.localhost", "http://localhost"],
)
def test_loopback_origins_are_allowed_for_development_only(origin: str) -> None:
    assert Origins(loopback=True).allows(origin, "127.0.0.1:8080")
    assert not Origins(("https://app.example",)).allows(origin, "127.0.0.1:8080")


@pytest.mark.parametrize(
    "origin", ["null", "http://localhost.evil.example", "https://evil.example", "file://localhost", "http://[", ""]
)
def test_others_are_not_taken_for_loopback(origin: str) -> None:
    assert not Origins(loopback=True).allows(origin, "127.0.0.1:8080")


def test_a_refused_origin_is_logged_once_with_the_setting() -> None:
    origins = Origins()
    with capture_logs() as logged:
        for _ in range(3):
            assert not origins.allows("https://app.example", "here:8080")
        for number in range(500):
            origins.allows(f"https://{number}.example", "here:8080")
    lines = [line for line in logged if line["origin"] == "https://app.example"]
    assert len(lines) == 1
    assert lines[0]["event"] == "origin_refused"
    assert lines[0]["setting"] == "ROUNDTRIP_CORS_ORIGINS"
    assert len(logged) == 100, "a client cannot fill the log"


async def test_a_development_server_may_call_and_a_stranger_learns_nothing(tmp_path: Path) -> None:
    poll = "/socket.io/?EIO=4&transport=polling"
    async with running(tmp_path) as program, aiohttp.ClientSession() as session:
        for path in ("/api/config", poll):
            for origin, allowed in (("http://localhost:5173", True), ("https://evil.example", False)):
                async with session.get(program.url + path, headers={"Origin": origin}) as response:
                    assert (response.headers.get("Access-Control-Allow-Origin") == origin) is allowed, (path, origin)
        await eventually(lambda: "ROUNDTRIP_CORS_ORIGINS" in program.text())
        assert "https://evil.example" in program.text()
