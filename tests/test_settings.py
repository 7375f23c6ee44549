"""Settings as the environment gives them: what is empty, too short or no number is refused in one line."""

from __future__ import annotations

import os

import pytest

from roundtrip.api.debug.sessions import Sessions
from roundtrip.environment import load
from roundtrip.settings import PREFIX, Settings, SettingsError

EMPTY_LISTS = {"CORS_ORIGINS", "FORWARDED_ALLOW_IPS", "FAULTS"}
"""An empty list of these lets nobody in, believes nobody and breaks nothing."""


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROUNDTRIP_AUTH", "trusted")


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_no_setting_that_is_empty_is_taken_for_one_that_is_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for empty in ("", " ", "\n", " , ,"):
        monkeypatch.setenv(PREFIX + name, empty)
        if name in EMPTY_LISTS:
            assert getattr(load(), name.lower()) == ()
            continue
        with pytest.raises(SettingsError) as caught:
            load()
        assert str(caught.value).startswith(PREFIX + name)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["ADMIN_KEY", "PII_HASH_KEY"])
@pytest.mark.parametrize(
    ("value", "why"), [("x", "at least 16 characters"), ("x" * 15, "at least 16"), ("x" * 16 + "\n", "spaces")]
)
def test_a_weak_secret_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError, match=f"{PREFIX}{name}: .*{why}") as caught:
        load()
    assert value.strip() not in str(caught.value).removeprefix(PREFIX + name).replace("characters", "")
    monkeypatch.setenv(PREFIX + name, "0123456789abcdef")
    assert getattr(load(), name.lower()).get_secret_value() == "0123456789abcdef"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if field.annotation is float])
def test_a_number_is_a_number(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), value)
    with pytest.raises(SettingsError, match=PREFIX + name.upper()):
        load()


@pytest.mark.parametrize(
    "value",
    [
        "host:8080",
        "ftp://host",
        "http://",
        "//host",
        "http://host/?a=1",
        "http://host/#a",
        "http://host:99999",
        "http://[",
    ],
)
def test_the_canary_needs_an_address(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(f"{PREFIX}CANARY_URL", value)
    with pytest.raises(SettingsError, match=f"^{PREFIX}CANARY_URL: "):
        load()
    for good in ("http://[::1]:8080", "https://events.example", "https://example.org/under/a/path/"):
        monkeypatch.setenv(f"{PREFIX}CANARY_URL", good)
        assert load().canary_url == good


def test_an_admin_listener_that_others_reach_never_starts_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_AUTH", "jwt")
    monkeypatch.setenv("ROUNDTRIP_JWKS_URL", "https://issuer.example/keys")
    monkeypatch.setenv("ROUNDTRIP_ADMIN_HOST", "::")
    with pytest.raises(SettingsError, match="ROUNDTRIP_ADMIN_KEY must be set"):
        load()
    monkeypatch.setenv("ROUNDTRIP_ADMIN_KEY", "")
    with pytest.raises(SettingsError, match="ROUNDTRIP_ADMIN_KEY: is set but empty"):
        load()


def test_an_empty_admin_key_opens_nothing_however_it_comes() -> None:
    with pytest.raises(ValueError, match="empty key"):
        Sessions("", lambda _result: None)
