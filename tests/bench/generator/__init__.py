"""The load generator of the bench: C, one thread, some 1 µs an event, so that it is never what is measured.

Looked at before: k6, Artillery and autocannon speak no Socket.IO acknowledgement at this rate (they are Go or Node, and
take several microseconds an event themselves); a generator in Python needed 15 µs an event.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

SOURCE: Final = Path(__file__).parent / "generator.c"
BUILT: Final = Path(__file__).parents[3] / "build" / "bench"


def build() -> Path:
    """The generator's program, compiled when its source is newer. Raises `SystemExit` where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit(
            "cc is missing: the load generator is written in C; get it with: apt-get install gcc libc6-dev"
        )
    name = f"generator-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    program = BUILT / name
    if not program.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(".new")
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(SOURCE)], check=True)
        fresh.replace(program)
    return program


def command(
    url: str,
    sockets: int,
    reply: str = "ack",
    in_flight: int = 100,
    first: int = 0,
    missed: int | None = None,
) -> list[str]:
    """The command that connects `sockets` clients to `url`, at most `in_flight` handshakes at once. They are the users
    from number `first` on.

    It prints `{"ready", "seconds"}` when all are connected and, when its standard input is closed,
    `{"events", "bytes", "cpu", "wall", "closed"}`: what it acknowledged, and seconds of processor and of time since
    they were. `reply` is `ack` (declared and given), `quiet` (neither) or `polite` (given, not declared).

    With `missed` they are a herd: each has an address of its own, one that is refused or closed comes again a second
    later, and a second line `{"complete", "seconds", "told", "untold"}` is printed when each has its snapshot and as
    many events; the last two count the refusals with and without an answer.
    """
    where = urlsplit(url)
    words = [where.hostname or "", str(where.port), str(sockets), reply, str(in_flight), str(first)]
    return [str(build()), *words, *([] if missed is None else [str(missed)])]
