"""The subcommands `demo`, `token` and `check`, as somebody types them."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest

from tests.support.api import serving
from tests.support.program import BACKEND, ROOT, environment, running
from tests.support.tokens import private_key, public_pem


def run(data_dir: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A command in a fresh environment but for `settings`; those that are None are left out."""
    given = environment(data_dir, **{"auth": "jwt", **settings})
    kept = {name: value for name, value in given.items() if value != "None"}
    return subprocess.run(
        [*BACKEND, *arguments], cwd=ROOT, env=kept, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


async def finished(data_dir: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, data_dir, *arguments, **settings)


def test_help_names_each_command_and_each_has_help_of_its_own(tmp_path: Path) -> None:
    from roundtrip.cli import COMMANDS

    text = run(tmp_path, "--help").stdout
    for name, command in COMMANDS.items():
        assert f"  {name}" in text
        assert command.summary in text
    assert "usage: roundtrip token" in run(tmp_path, "token", "--help").stdout
    assert run(tmp_path, "--version").stdout.startswith("roundtrip ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tokn"], "token"),
        (["token"], "--user"),
        (["token", "--user"], "--user"),
        (["token", "--user", ""], "--user"),
        (["token", "--user", "ada", "--lifetime", "0"], "--lifetime"),
        (["token", "--user", "ada", "--lifetime", "nan"], "--lifetime"),
        (["token", "--user", "ada", "--lifetime", "soon"], "--lifetime"),
        (["check", "it"], "it"),
        (["demo", "--port", "1"], "--port"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert done.stdout == ""


# demo


async def test_the_demo_needs_no_setting_and_says_what_to_do(tmp_path: Path) -> None:
    command = (*BACKEND, "demo")
    async with running(tmp_path, command=command, auth="trusted") as program, aiohttp.ClientSession() as session:
        async with session.get(f"{program.url}/api/config") as response:
            config = await response.json()
        assert (config["auth"], config["driver"]) == ("trusted", "simulated")
        assert f"open {program.url} in a browser" in program.text()


def test_the_demo_keeps_to_the_environment(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", auth="jwt")
    assert done.returncode == 2
    assert "ROUNDTRIP_AUTH=jwt needs" in done.stderr


def test_the_demo_does_not_open_to_others(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", auth=None, host="0.0.0.0")  # noqa: S104  # refused
    assert done.returncode == 2
    assert "ROUNDTRIP_HOST must be a loopback address" in done.stderr


# a port that is taken


@pytest.mark.parametrize("name", ["port", "admin_port"])
def test_a_taken_port_names_its_setting(tmp_path: Path, taken: int, name: str) -> None:
    for arguments, status in (([], 1), (["check"], 1)):
        done = run(tmp_path, *arguments, auth="trusted", **{name: taken})
        assert done.returncode == status
        last = (done.stdout + done.stderr) if arguments else done.stderr.splitlines()[-1]
        assert f"cannot listen on 127.0.0.1:{taken}: the port is in use" in last
        assert f"set ROUNDTRIP_{name.upper()} to another one" in last


def test_an_address_of_another_machine_names_its_setting(tmp_path: Path) -> None:
    done = run(tmp_path, admin_host="192.0.2.1", admin_key="0123456789abcdef", jwks_url="https://issuer.example/keys")
    assert done.returncode == 1
    assert "set ROUNDTRIP_ADMIN_HOST to one" in done.stderr.splitlines()[-1]


# token


async def test_a_development_token_is_let_in_until_it_expires(tmp_path: Path) -> None:
    demands = {"jwt_issuer": "https://issuer.example", "jwt_audience": "app", "jwt_authorized_parties": "a,b"}
    done = await finished(tmp_path, "token", "--user", "ada", "--lifetime", "600", **demands)
    assert done.returncode == 0, done.stderr
    public = tmp_path / "development" / "jwt-public.pem"
    assert f"ROUNDTRIP_JWT_PUBLIC_KEY_FILE={public}" in done.stderr
    token = done.stdout.strip()
    assert done.stdout == token + "\n"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 600
    settings: dict[str, Any] = {**demands, "auth": "jwt", "jwt_public_key_file": public}
    async with running(tmp_path, **settings) as program, aiohttp.ClientSession() as session:
        for bearer, status in ((token, 200), (token[:-4], 401)):
            headers = {"Authorization": f"Bearer {bearer}"}
            async with session.get(f"{program.url}/api/bots/bot/link", headers=headers) as response:
                assert response.status == status
                if status == 200:
                    assert (await response.json())["userId"] == "ada"
    again = await finished(tmp_path, "token", "--user", "ben", **demands, jwt_public_key_file=public)
    assert again.stderr == "", "the key is kept, and the backend knows it"


def test_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    assert run(tmp_path, "token", "--user", "ada").returncode == 0
    folder = tmp_path / "development"
    assert stat.S_IMODE((folder / "jwt-private.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"auth": "trusted"}, "takes no token"),
        ({"jwks_url": "https://issuer.example/keys"}, "ROUNDTRIP_JWKS_URL"),
        ({"jwt_public_key": public_pem(private_key("RS256"))}, "another issuer's key"),
        ({"host": "192.0.2.1"}, "ROUNDTRIP_HOST"),
    ],
)
def test_a_development_token_is_refused_outside_development(
    tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    done = run(tmp_path, "token", "--user", "ada", **settings)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert done.stdout == ""


def test_no_server_that_others_reach_believes_the_development_key(tmp_path: Path) -> None:
    assert run(tmp_path, "token", "--user", "ada").returncode == 0
    done = run(tmp_path, host="0.0.0.0", jwt_public_key_file=tmp_path / "development" / "jwt-public.pem")  # noqa: S104  # refused
    assert done.returncode == 2
    assert "development key" in done.stderr


def test_a_broken_key_is_said(tmp_path: Path) -> None:
    assert run(tmp_path, "token", "--user", "ada").returncode == 0
    (tmp_path / "development" / "jwt-private.pem").write_text("nothing")
    done = run(tmp_path, "token", "--user", "ada")
    assert done.returncode == 1
    assert "remove the folder" in done.stderr


# check


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return {name: (verdict, text) for verdict, name, text in lines}


def test_check_says_that_all_is_well(tmp_path: Path) -> None:
    done = run(tmp_path, "check", auth="trusted")
    assert done.returncode == 0, done.stdout
    assert {verdict for verdict, _ in rows(done).values()} == {"ok"}
    assert list(rows(done)) == ["settings", "store", "keys", "ports", "driver", "page"]


def test_check_says_which_setting_is_wrong(tmp_path: Path) -> None:
    done = run(tmp_path, "check", prt="8080")
    assert done.returncode == 2
    verdict, text = rows(done)["settings"]
    assert verdict == "FAIL"
    assert "did you mean ROUNDTRIP_PORT?" in text


async def test_check_says_that_the_store_is_another_programs(tmp_path: Path) -> None:
    async with running(tmp_path):
        found = rows(await finished(tmp_path, "check", auth="trusted"))
    assert found["store"][0] == "FAIL"
    assert f"ROUNDTRIP_DATA_DIR={tmp_path}" in found["store"][1]
    assert found["ports"][0] == "ok"


def test_check_says_that_a_shared_store_is_unreachable_without_its_password(tmp_path: Path) -> None:
    done = run(tmp_path, "check", auth="trusted", store="postgresql://user:canary@127.0.0.1:1/none")
    assert done.returncode == 1
    assert rows(done)["store"][0] == "FAIL"
    assert "ROUNDTRIP_STORE" in rows(done)["store"][1]
    assert "canary" not in done.stdout + done.stderr


async def test_check_asks_the_issuer_for_its_keys(tmp_path: Path) -> None:
    answers = [(500, ""), (200, json.dumps({"keys": []}))]
    app = aiohttp.web.Application()

    async def keys(_request: aiohttp.web.Request) -> aiohttp.web.Response:
        status, text = answers.pop(0)
        return aiohttp.web.Response(status=status, text=text)

    app.router.add_get("/keys", keys)
    async with serving(app) as url:
        for says in ("answered 500", "publishes no key"):
            found = rows(await finished(tmp_path, "check", jwks_url=f"{url}/keys"))
            assert found["keys"][0] == "FAIL"
            assert says in found["keys"][1]
