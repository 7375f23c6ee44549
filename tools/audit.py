"""Whether what is installed is what was locked, and whether any of it is known to be vulnerable.

The first works everywhere. The second asks a database over the network (pip-audit): where it cannot be reached, one
line says so, and that is no failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tools import locks
from tools.locks import Locked

DEADLINE = 120
"""Seconds that the database has."""


def unlocked(parts: list[Locked]) -> list[str]:
    """Pins without a hash: anybody could put something else in their place."""
    return [f"{part.name} {part.version} has no hash in its lock" for part in parts if not part.hashes]


def drifted(parts: list[Locked]) -> list[str]:
    """Installed packages of another version than the lock's, which may have one per version of Python."""
    versions: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        versions[part.name].append(part.version)
    wrong = []
    for name, locked in versions.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # for another platform or Python
        if installed not in locked:
            wrong.append(f"{name} {installed} is installed, {' or '.join(locked)} is locked: make install")
    return wrong


def parse_report(report: str) -> tuple[list[str], bool]:
    """pip-audit's report: what is vulnerable, and whether the database answered at all."""
    found = re.search(r"^\{.*", report, re.DOTALL | re.MULTILINE)
    entries = json.loads(found[0])["dependencies"] if found else []
    wrong = [
        f"{entry['name']} {entry['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version'}"
        for entry in entries
        for flaw in entry.get("vulns", ())
    ]
    return wrong, any("vulns" in entry for entry in entries)


def ask_database() -> tuple[list[str], bool]:
    program = Path(sys.executable).parent / "pip-audit"
    command = [
        str(program),
        "--requirement=requirements.lock",
        "--disable-pip",
        "--require-hashes",
        "--progress-spinner=off",
        "--format=json",
    ]
    try:
        done = subprocess.run(  # noqa: S603  # our own program with arguments of our own
            command, cwd=locks.ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return [], False
    return parse_report(done.stdout)


def main() -> int:
    """Exit status 1 when something is wrong."""
    program, everything = locks.python(), locks.python(locks.ROOT / "requirements-dev.lock")
    wrong = [*unlocked([*program, *everything, *locks.npm()]), *drifted(everything)]
    vulnerable, answered = ask_database()
    for line in (*wrong, *vulnerable):
        print(f"audit: {line}")  # noqa: T201  # it is what was asked for
    if not answered:
        print("audit: the database of vulnerabilities cannot be reached from here; only the locks were checked")  # noqa: T201  # as above
    return 1 if wrong or vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
