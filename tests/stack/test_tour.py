"""The tour as a person starts it, against the program as a person starts it: what it does shows in every signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dashboards import stack, tour
from tests.support.program import ROOT, Api, Program, api, running
from tests.support.tokens import private_key, public_pem

PACE = 0.02
"""Fifty times as fast as people are."""

SHOWN = (
    'socket_connects_total{result="accepted"}',
    'emit_attempts_total{mode="live",result="sent",type="whatsapp_qr"}',
    'emit_attempts_total{mode="replay",result="sent",type="whatsapp_',
    'missed_emits_total{reason="just_disconnected"',
    'events_resolved_total{outcome="acked",type="whatsapp_connected"}',
    'events_resolved_total{outcome="received",type="whatsapp_',
    "link_pairing_seconds_count",
    'link_transitions_total{reason="',
)
"""The beginnings of samples that the tour moves."""


@asynccontextmanager
async def touring(program: Program, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The tour beside a program; it must end by itself when it is told to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dashboards.tour", "--url", program.url, "--admin-url", program.admin_url),
        *("--pace", str(PACE), "--people", "3", *options),
        cwd=ROOT,
        env=program.environment | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def shows(user: Api, *wanted: str, within: float = 40) -> None:
    """Wait until a sample with each of these beginnings is above zero."""
    missing = set(wanted)
    try:
        async with asyncio.timeout(within):
            while missing:
                samples = [name for name, value in (await user.metrics()).items() if value > 0]
                missing = {one for one in missing if not any(name.startswith(f"roundtrip_{one}") for name in samples)}
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"never shown: {missing}") from None


async def test_people_who_come_and_go_fill_what_would_be_empty(tmp_path: Path) -> None:
    async with (
        running(tmp_path, simulated_speed=50, disconnect_grace=0.05) as program,
        api(program) as user,
        touring(program) as process,
    ):
        await shows(user, *SHOWN)
        assert process.returncode is None
    assert not [line for line in program.log if b'"level":"error"' in line]


async def test_faults_come_one_after_the_other_and_none_is_left_on(tmp_path: Path) -> None:
    """With tokens and an admin key, as in the stack."""
    key = private_key("ES256")
    assert isinstance(key, EllipticCurvePrivateKey)
    (tmp_path / "signing_key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "admin_key").write_text("an admin key, long enough\n")
    settings: dict[str, Any] = {
        "auth": "jwt",
        "jwt_public_key": public_pem(key),
        "jwt_issuer": stack.ISSUER,
        "admin_key_file": tmp_path / "admin_key",
        "allow_faults": "true",
        "simulated_speed": 50,
    }
    keys = ("--admin-key-file", str(tmp_path / "admin_key"), "--signing-key-file", str(tmp_path / "signing_key"))
    async with running(tmp_path / "data", ready=False, **settings) as program:
        async with asyncio.timeout(20):
            while not program.url:
                await asyncio.sleep(0.02)
        async with touring(program, *keys, "--fault-every", "0.2") as process:
            assert process.stdout is not None
            seen: list[str] = []
            async with asyncio.timeout(40):
                while len(seen) < 3 or "is over" in seen[-1]:  # it is stopped while one is on
                    line = (await process.stdout.readline()).decode()
                    assert line, "it goes on"
                    seen += [line] if " fault " in line else []
        assert {line.split()[-1] for line in seen if "over" not in line} >= {"key_mismatch", "stale_cleanup"}
        async with asyncio.timeout(5):
            while program.text().count('"active":true') != program.text().count('"active":false'):
                await asyncio.sleep(0.02)  # the last line of the log is on its way


async def test_a_backend_that_is_not_there_ends_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, simulated_speed=50) as program:
        program.terminate()
        await program.ended()
        async with touring(program) as process:
            assert process.stdout is not None
            lines = [(await asyncio.wait_for(process.stdout.readline(), 20)).decode() for _ in range(4)]
            assert sum("Error" in line for line in lines) == 3
            assert process.returncode is None


@pytest.mark.parametrize(
    "wrong", [["--people", "0"], ["--pace", "0"], ["--fault-every", "-1"], ["--admin-key-file", "/nowhere"]]
)
def test_wrong_options_are_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tour.main(wrong)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("tour: error: ")
