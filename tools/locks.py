"""The lock files, read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parent.parent

_PIN: Final = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)")
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")


class Locked(msgspec.Struct, frozen=True, order=True):
    """One pinned package of `pypi` or `npm`. `hashes` are what its files may be; a `conditional` one is for some
    systems or versions of Python only."""

    ecosystem: str
    name: str
    version: str
    hashes: tuple[str, ...]
    conditional: bool = False


def python(path: Path = ROOT / "requirements.lock") -> list[Locked]:
    """Every pin of a requirements lock. Raises `ValueError` for a line that is none."""
    locked = []
    for entry in path.read_text().replace("\\\n", " ").splitlines():
        line = entry.partition(" #")[0].strip() if not entry.startswith("#") else ""
        if not line:
            continue
        pin = _PIN.match(line)
        if pin is None:
            raise ValueError(f"{path.name}: not pinned: {line[:80]}")
        locked.append(
            Locked(
                "pypi",
                pin[1].lower().replace("_", "-"),
                pin[2],
                tuple(_HASH.findall(line)),
                conditional=" ; " in line,
            )
        )
    return locked


def npm(path: Path = ROOT / "package-lock.json") -> list[Locked]:
    """Every package of npm's lock."""
    packages: dict[str, dict[str, Any]] = json.loads(path.read_text())["packages"]
    return [
        Locked(
            "npm",
            where.rpartition("node_modules/")[2],
            package["version"],
            (package["integrity"],) if "integrity" in package else (),
        )
        for where, package in packages.items()
        if where
    ]
