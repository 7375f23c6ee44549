"""Grafana's own schema of a dashboard: its published TypeScript types, turned into JSON Schema once and cached.

The pinned packages are in dashboards/schema; they are installed outside the checkout, and no install needs them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.dashboards.boards import ROOT
from tests.support.programs import require

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "roundtrip"
TYPES: Final = "node_modules/@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen.d.ts"
"""Where the release keeps the dashboard's types, the ones that its own source calls schema version 1."""
_FILES: Final = ("package.json", "package-lock.json")


@cache
def grafana_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of `Dashboard`: from the cache, or ten seconds of work. Skips where npm is missing."""
    sources = [(ROOT / "schema" / name).read_bytes() for name in _FILES]
    folder = CACHE / f"grafana-schema-{hashlib.sha256(b''.join(sources) + TYPES.encode()).hexdigest()[:16]}"
    made = folder / "dashboard.schema.json"
    if not made.is_file():
        npm = require("npm", "apt-get install npm")
        node = require("node", "apt-get install nodejs")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.is_file():
                _make(npm, node, folder, made)
    schema: dict[str, Any] = json.loads(made.read_text())
    return schema


def _make(npm: str, node: str, folder: Path, made: Path) -> None:
    for name in _FILES:
        shutil.copy(ROOT / "schema" / name, folder / name)
    installed = _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    if installed.returncode != 0:
        print(installed.stderr[-4000:], file=sys.stderr)
        reason = "npm could not fetch dashboards/schema, which is needed once"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    unfinished = folder / "unfinished.json"
    generator = "node_modules/ts-json-schema-generator/bin/ts-json-schema-generator.js"
    # The types' imports are of packages that a dashboard's description does not touch
    options = ["--path", TYPES, "--type", "Dashboard", "--no-type-check", "--out", unfinished.name]
    done = _run([node, generator, *options], folder)
    assert done.returncode == 0, done.stderr[-4000:]
    shutil.rmtree(folder / "node_modules")  # large, and nobody needs it again
    unfinished.rename(made)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
