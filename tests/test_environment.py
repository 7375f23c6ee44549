"""The environment as it is read: secrets from files, names that are no setting, and errors that name their cure."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import aiohttp
import pytest

from roundtrip.commands.reference import groups, settings_text
from roundtrip.environment import FILE_SUFFIX, MAX_SECRET_FILE, SECRETS, allowed, load, variable
from roundtrip.settings import PREFIX, Settings, SettingsError
from tests.support.program import running
from tests.support.tokens import private_key, public_pem
from tools.documents import GENERATED, ROOT

VALUES = {
    "store": "postgresql://roundtrip@host/database",
    "admin_key": "0123456789abcdef",
    "pii_hash_key": "fedcba9876543210",
    "whatsapp_proxy": "socks5://somebody:hunter2@proxy.example:1080",
    "jwt_public_key": public_pem(private_key("RS256")),
    "api_keys": f"crm:links.read:{hashlib.sha256(b'canary').hexdigest()}",
}


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROUNDTRIP_AUTH", "trusted")


def refusal() -> str:
    with pytest.raises(SettingsError) as caught:
        load()
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


# secrets from files


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_each_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, end: str) -> None:
    value = VALUES.get(name, "a value of sixteen letters or more").removesuffix("\n")
    (tmp_path / "secret").write_bytes((value + end).encode())
    monkeypatch.setenv(variable(name) + FILE_SUFFIX, str(tmp_path / "secret"))
    assert getattr(load(), name).get_secret_value() == value


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_set_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setenv(variable(name), "canary-in-the-environment")
    monkeypatch.setenv(variable(name) + FILE_SUFFIX, str(tmp_path / "secret"))
    line = refusal()
    assert line == f"{variable(name)} and {variable(name)}_FILE are both set: keep one of them"


@pytest.mark.parametrize("name", SECRETS)
def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * (MAX_SECRET_FILE + 1))
    for file, why in (
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("binary", "not UTF-8"),
        ("large", "more than"),
    ):
        path = str(tmp_path / file)
        monkeypatch.setenv(variable(name) + FILE_SUFFIX, path)
        line = refusal()
        assert line.startswith(f"{variable(name)}_FILE: ")
        assert path in line
        assert why in line


@pytest.mark.parametrize("content", ["", "\n", "   \n"])
def test_an_empty_file_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    (tmp_path / "secret").write_text(content)
    monkeypatch.setenv("ROUNDTRIP_ADMIN_KEY_FILE", str(tmp_path / "secret"))
    assert refusal().startswith("ROUNDTRIP_ADMIN_KEY_FILE: is set but empty")
    monkeypatch.setenv("ROUNDTRIP_ADMIN_KEY_FILE", " ")
    assert refusal().startswith("ROUNDTRIP_ADMIN_KEY_FILE: is set but empty")


@pytest.mark.parametrize("name", [name for name in SECRETS if name != "whatsapp_proxy"])
@pytest.mark.parametrize("from_file", [True, False])
def test_a_wrong_secret_is_never_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, from_file: bool
) -> None:
    (tmp_path / "secret").write_text(" canary \n")
    if from_file:
        monkeypatch.setenv(variable(name) + FILE_SUFFIX, str(tmp_path / "secret"))
    else:
        monkeypatch.setenv(variable(name), " canary ")
    line = refusal()
    assert line.startswith(f"{variable(name)}{FILE_SUFFIX if from_file else ''}: ")
    assert "canary" not in line


async def test_the_program_takes_a_key_from_a_file_and_shows_it_nowhere(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame-0123456789\n")
    headers = {"Authorization": "Bearer sesame-0123456789"}
    async with (
        running(tmp_path / "data", admin_key_file=tmp_path / "key", log_level="DEBUG") as program,
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{program.admin_url}/metrics") as response,
    ):
        assert response.status == 200
    assert "sesame" not in program.text()
    assert "sesame" not in settings_text()


# names that are no setting


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ROUNDTRIP_WHATSAPP_DRVER", "ROUNDTRIP_WHATSAPP_DRIVER"),
        ("ROUNDTRIP_PRT", "ROUNDTRIP_PORT"),
        ("ROUNDTRIP_ADMIN_KEYFILE", "ROUNDTRIP_ADMIN_KEY_FILE"),
        ("WHATSAPP_DRVER", "ROUNDTRIP_WHATSAPP_DRIVER"),
        ("WHATSAPP_DRIVER", "ROUNDTRIP_WHATSAPP_DRIVER"),
        ("whatsapp_driver", "ROUNDTRIP_WHATSAPP_DRIVER"),
        ("CORS_ORIGIN", "ROUNDTRIP_CORS_ORIGINS"),
        ("ROUNTRIP_PORT", "ROUNDTRIP_PORT"),
        ("ROUND_TRIP_AUTH", "ROUNDTRIP_AUTH"),
    ],
)
def test_a_name_that_is_nearly_a_setting_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.delenv("ROUNDTRIP_AUTH")
    monkeypatch.setenv(name, "simulated")
    line = refusal()
    assert line.startswith(name.upper())
    assert line.endswith(f"did you mean {meant}?")


def test_a_name_like_none_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_QXZWV", "1")
    assert refusal() == "ROUNDTRIP_QXZWV is no setting: `roundtrip --help` lists all"


@pytest.mark.parametrize(
    "name", ["HOST", "PORT", "LOG_LEVEL", "AUTH", "DATA_DIR", "PIP_TIMEOUT", "JWT_SECRET", "DOCKER_HOST", "ADMIN_PORT"]
)
def test_names_of_other_programs_are_theirs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "simulated")
    load()


def test_a_name_without_the_prefix_is_let_be_where_the_setting_itself_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program in the same environment may use it."""
    monkeypatch.setenv("CORS_ORIGINS", "https://another.example")
    monkeypatch.setenv("ROUNDTRIP_CORS_ORIGINS", "https://app.example")
    assert load().cors_origins == ("https://app.example",)


def test_what_kubernetes_says_of_a_service_of_this_name_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT_8080_TCP", "PORT_8080_TCP_ADDR", "ADMIN_SERVICE_HOST"):
        monkeypatch.setenv(PREFIX + name, "10.0.0.1")
    load()
    monkeypatch.setenv("ROUNDTRIP_PORT", "tcp://10.0.0.1:8080")
    assert "enableServiceLinks" in refusal()


# what an error says


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AUTH", "trustd", "jwt or trusted"),
        ("PORT", "80a", "whole number, at least 0, at most 65535"),
        ("PORT", "65536", "at most 65535"),
        ("ACK_TIMEOUT", "0", "seconds, more than 0"),
        ("MAX_BODY", "1", "bytes, at least 1024"),
        ("HANDSHAKES_PER_USER", "-1", "number a second, more than 0"),
        ("PAIRINGS_PER_HOUR", "-1", "number an hour, more than 0"),
        ("ALLOW_FAULTS", "perhaps", "true or false"),
        ("DEVICE_NAME", "x" * 65, "at most 64 characters"),
    ],
)
def test_an_error_repeats_the_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    line = refusal()
    assert line.startswith(f"{PREFIX}{name}: ")
    assert f"it is {value!r}, allowed: " in line
    assert says in line.partition("allowed: ")[2]


def test_a_long_value_is_cut_and_the_password_of_an_address_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_AUTH", "x" * 5000)
    assert len(refusal()) < 300
    monkeypatch.setenv("ROUNDTRIP_AUTH", "trusted")
    monkeypatch.setenv("ROUNDTRIP_JWKS_URL", "http://somebody:hunter2@issuer.example/keys")
    line = refusal()
    assert "issuer.example" in line
    assert "hunter2" not in line


# the reference


@pytest.mark.parametrize("path", GENERATED)
def test_a_generated_document_is_what_the_code_says(path: str) -> None:
    assert (ROOT / path).read_text() == GENERATED[path](), "regenerate it: python -m tools.documents"


def test_each_setting_stands_in_one_group_with_its_unit_or_choices() -> None:
    listed = [name for _, group in groups() for name in group]
    assert listed == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        assert f"[{allowed(field)}]" in settings_text()
        assert field.annotation is not float or allowed(field) != "number" or name == "simulated_speed"
