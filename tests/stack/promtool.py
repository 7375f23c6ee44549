"""promtool of the stack's own Prometheus, built once per machine from its Go module; Debian's where there is no Go.

Prometheus 3 reads rules in places otherwise than 2: ranges are open on the left, so that a window of five minutes over
samples a minute apart holds five of them instead of six. Rules are therefore tested by the version that evaluates them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.stack.collector import CACHE
from tests.support.programs import require

COMPOSE: Final = Path(__file__).parents[2] / "docker-compose.yml"
MODULE: Final = "github.com/prometheus/prometheus"


def version() -> str:
    """The Go module's version of the image that docker-compose.yml names: v3.5.0 is v0.305.0."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    image = str(services["prometheus"]["image"])
    found = re.search(r":v(\d+)\.(\d+)\.(\d+)", image)
    assert found is not None, f"{image} has no version"
    major, minor, patch = (int(part) for part in found.groups())
    return f"v0.{major}{minor:02}.{patch}"


def build(go: str) -> Path:
    """The binary, from the cache or built: some minutes of two cores the first time."""
    folder = CACHE / f"promtool-{version()}"
    binary = folder / "promtool"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if binary.is_file():
            return binary
        unfinished = folder / "unfinished"
        # `go install …@version` refuses a module that replaces others: so it is built where it was downloaded to
        source = json.loads(_go(go, "mod", "download", "-json", f"{MODULE}@{version()}"))["Dir"]
        # Without the client of every cloud that Prometheus can find its targets in: promtool reads rules here
        _go(go, "build", "-C", source, "-tags=remove_all_sd", "-ldflags=-s -w", "-o", unfinished, "./cmd/promtool")
        unfinished.rename(binary)
    return binary


def _go(*command: str | Path) -> str:
    env = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false -mod=readonly"}
    done = subprocess.run(
        ["nice", "-n", "15", *command], env=env, cwd=CACHE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@cache
def promtool() -> str:
    """The path of promtool. Skips the test where there is neither Go nor Debian's; in CI that fails."""
    go = shutil.which("go")
    return require("promtool", "apt-get install prometheus") if go is None else str(build(go))


if __name__ == "__main__":  # CI builds it beside the lint: python -m tests.stack.promtool
    print(promtool())
