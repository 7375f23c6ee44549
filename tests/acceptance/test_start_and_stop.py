"""Starting and stopping the program, with good and bad settings."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_client import node_client
from tests.support.program import BACKEND, ROOT, api, environment, running


def run(data_dir: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BACKEND, *arguments],
        cwd=ROOT,
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": "eighty"}, "ROUNDTRIP_PORT"),
        ({"auth": "maybe"}, "ROUNDTRIP_AUTH"),
        ({"auth": "trusted", "host": "0.0.0.0"}, "ROUNDTRIP_HOST must be a loopback address"),  # noqa: S104  # refused
        ({"auth": "jwt"}, "ROUNDTRIP_JWKS_URL or ROUNDTRIP_JWT_PUBLIC_KEY"),
        ({"ack_timeout": "-1"}, "ROUNDTRIP_ACK_TIMEOUT"),
        ({"outbox": "redis://127.0.0.1"}, "ROUNDTRIP_OUTBOX is no setting any more: ROUNDTRIP_STORE took its place"),
        ({"store": "mysql://host/name"}, "ROUNDTRIP_STORE: must be postgresql://"),
        ({"faults": "no_such_fault"}, "There is no such fault"),
        ({"admin_key": ""}, "ROUNDTRIP_ADMIN_KEY: is set but empty"),
        ({"admin_key": "short"}, "ROUNDTRIP_ADMIN_KEY: must have at least 16 characters"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    done = run(tmp_path, **settings)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr


def test_help_lists_every_setting_and_no_value(tmp_path: Path) -> None:
    done = run(tmp_path, "--help", pii_hash_key="linnet-hash-key")
    assert done.returncode == 0
    for name in ("HOST", "ADMIN_PORT", "WHATSAPP_DRIVER", "ACK_TIMEOUT", "MAX_SOCKETS_PER_KEY", "PII_HASH_KEY"):
        assert f"ROUNDTRIP_{name}" in done.stdout
    assert "linnet" not in done.stdout


def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    assert run(tmp_path, "--port=1").returncode == 2


@pytest.mark.slow
@pytest.mark.alone
async def test_it_is_ready_within_two_seconds(tmp_path: Path) -> None:
    best = 100.0
    for number in range(3):
        began = time.monotonic()
        async with running(tmp_path / str(number)):
            best = min(best, time.monotonic() - began)
    print(f"ready after {best:.2f} s")
    assert best < 2.0


async def test_a_second_backend_on_one_data_directory_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path):
        done = await asyncio.to_thread(run, tmp_path)
        assert done.returncode == 1
        assert str(tmp_path) in done.stderr.splitlines()[-1]
    async with running(tmp_path):
        pass  # the first one's lock went with it


def test_an_unusable_data_directory_is_a_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = run(tmp_path / "file")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("roundtrip: ")


async def test_a_taken_port_is_a_clear_line(tmp_path: Path) -> None:
    async with running(tmp_path / "one") as first:
        done = await asyncio.to_thread(run, tmp_path / "two", port=first.url.rsplit(":", 1)[1])
        assert done.returncode == 1
        assert "in use" in done.stderr.splitlines()[-1]


async def test_sigterm_stops_cleanly_and_clients_come_back(tmp_path: Path) -> None:
    async with running(tmp_path) as program:
        port = program.url.rsplit(":", 1)[1]
        async with node_client(program.url, {"userId": "user", "botId": "bot", "acks": True}) as client:
            await client.heard("status")
            began = time.monotonic()
            program.terminate()
            assert await program.ended() == 0
            assert time.monotonic() - began < 10
            await client.heard("disconnect")
            async with running(tmp_path, port=port) as again, api(again) as user:
                await client.heard("connect", 2)
                await user.link()
                await client.event("whatsapp_connecting")


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    auth = {"userId": "user", "botId": "bot", "acks": True}
    async with (
        running(tmp_path, ack_timeout=30) as program,
        api(program) as user,
        node_client(program.url, auth, ack="no") as client,
    ):
        await client.heard("status")
        await user.link()
        await client.event("whatsapp_connecting")  # never acknowledged: the stop waits for it
        program.terminate()
        async with asyncio.timeout(5):
            while "stopping" not in program.text():
                await asyncio.sleep(0.01)
        program.terminate()
        assert await program.ended(within=5) == -signal.SIGKILL
