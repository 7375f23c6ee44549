"""Chapter "Commands": what the program says on the command line, and how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import BACKEND, ROOT, environment, running


async def run(data_dir: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The program, until it ends by itself."""
    command = [*BACKEND, *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=environment(data_dir, **settings), capture_output=True, text=True
    )


async def test_help_names_each_setting_once_with_its_default(tmp_path: Path) -> None:
    done = await run(tmp_path, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    names = re.findall(r"^\s+(ROUNDTRIP_\w+)\s", done.stdout, re.MULTILINE)
    assert len(names) == len(set(names)) > 60
    assert all("default: " in line for line in done.stdout.splitlines() if line.strip().startswith("ROUNDTRIP_"))


@pytest.mark.parametrize("arguments", [["--port=1"], ["serve", "serve"], ["-x"]])
async def test_an_argument_that_is_none_is_one_line_and_status_2(tmp_path: Path, arguments: list[str]) -> None:
    done = await run(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


async def test_a_wrong_setting_is_one_line_that_does_not_show_a_secret(tmp_path: Path) -> None:
    done = await run(tmp_path, auth="jwt", jwt_public_key="canary-no-key", whatsapp_driver="simulated")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "ROUNDTRIP_JWT_PUBLIC_KEY" in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path) as program:
        program.process.send_signal(number)
        assert await program.ended() == 0
        assert '"stopped"' in program.text()


def test_every_command_of_the_makefile_says_what_it_is_for() -> None:
    targets = re.findall(r"^([a-z]+):(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"install", "run", "test", "bench", "dashboards", "stack", "coverage", "mutate"} <= dict(targets).keys()
    assert all("## " in rest for _, rest in targets)


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["tests/contract", "--collect-only", "-q"], 0)])
def test_arguments_of_make_test_go_to_pytest(arguments: list[str], status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.run_tests", *arguments], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == status
