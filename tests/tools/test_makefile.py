"""What `make run` and `make install` would install, in an empty checkout; nothing is really installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.program import ROOT
from tests.support.programs import require

NEEDED = ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock", "package-lock.json")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in NEEDED:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = require("make", "apt-get install make")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # `make test` runs us
    return subprocess.run(
        [program, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=30
    )


def test_running_installs_only_what_running_needs(checkout: Path) -> None:
    planned = make(checkout, "-n", "run", "PYTHON=python3", "NPM=npm").stdout
    assert "--require-hashes -r requirements.lock" in planned
    assert "npm ci --omit=dev --ignore-scripts" in planned
    assert "requirements-dev.lock" not in planned
    assert planned.splitlines()[-1] == "exec .venv/bin/roundtrip demo"
    assert not (checkout / ".venv").exists(), "a dry run installs nothing"


def test_all_else_installs_everything(checkout: Path) -> None:
    planned = make(checkout, "-n", "test", "NPM=npm").stdout
    assert "--require-hashes -r requirements-dev.lock" in planned
    assert "npm ci --ignore-scripts" in planned


def test_what_is_installed_for_tests_is_enough_to_run(checkout: Path) -> None:
    for folder in (".venv", "node_modules"):
        (checkout / folder).mkdir()
        (checkout / folder / "installed-dev").touch()
    (checkout / ".venv" / "bin").mkdir()
    (checkout / ".venv" / "bin" / "pip").touch()
    planned = make(checkout, "-n", "run", "NPM=npm").stdout
    assert "pip install" not in planned
    assert "npm ci" not in planned


def test_another_python_is_one_line_that_names_the_cure(checkout: Path) -> None:
    done = make(checkout, "run", "PYTHON=no-such-python", "NPM=")
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert first.startswith("roundtrip: needs Python 3.11 to 3.13; no-such-python is missing")
    assert "make PYTHON=" in first


def test_without_npm_it_says_what_is_missing(checkout: Path) -> None:
    done = make(checkout, "node_modules/installed", "NPM=")
    assert done.returncode == 0
    assert done.stdout.startswith("npm is missing:")
