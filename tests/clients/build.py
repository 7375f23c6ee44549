"""Builds the JavaScript client as `npm run build` does, once for each content of its sources."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.program import ROOT
from tests.support.programs import require, require_package

SOURCE: Final = ROOT / "clients" / "js"
BUILDS: Final = ROOT / "build" / "js-client"
KEPT: Final = 3
"""Builds that stay, the newest ones."""


@cache
def built() -> Path:
    """The package's folder after a build, below node_modules. Whoever comes first builds it; the others, in processes
    of their own, wait."""
    require("node", "apt-get install nodejs npm, then npm ci")
    for package in ("typescript", "react", "@types/react", "vue", "socket.io-client"):
        require_package(package)
    BUILDS.mkdir(parents=True, exist_ok=True)
    folder = BUILDS / _content()
    with (BUILDS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _build(folder)
    return folder


def _content() -> str:
    """A name for what the build depends on."""
    paths = [ROOT / "package-lock.json", *SOURCE.rglob("*")]
    found = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and "node_modules" not in path.parts):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def _build(folder: Path) -> None:
    """Whole or not at all: a build that was cut off leaves nothing under its name."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    shutil.copy(SOURCE / "package.json", part)
    page = (SOURCE / "example.html").read_text()
    (part / "example.html").write_text(page.replace("../../node_modules/", "../../../node_modules/"))  # deeper by one
    commands: tuple[list[str | Path], ...] = (
        [ROOT / "node_modules" / ".bin" / "tsc", "-p", SOURCE, "--outDir", part / "dist"],
        ["node", SOURCE / "global.mjs", part / "dist"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    part.rename(folder)
    builds = sorted((path for path in BUILDS.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    for old in builds[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
