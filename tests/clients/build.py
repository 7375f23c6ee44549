"""Builds the JavaScript client as `npm run build` does, into a folder of this process's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.support.program import ROOT
from tests.support.programs import require, require_package

SOURCE = ROOT / "clients" / "js"


@cache
def built() -> Path:
    """The package's folder after a build, beside node_modules. Each process of a run has its own."""
    require("node", "apt-get install nodejs npm, then npm ci")
    for package in ("typescript", "react", "@types/react", "vue", "socket.io-client"):
        require_package(package)
    folder = ROOT / "build" / f"js-client-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("package.json", "example.html"):
        shutil.copy(SOURCE / name, folder)
    commands: tuple[list[str | Path], ...] = (
        [ROOT / "node_modules" / ".bin" / "tsc", "-p", SOURCE, "--outDir", folder / "dist"],
        ["node", SOURCE / "global.mjs", folder / "dist"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder
