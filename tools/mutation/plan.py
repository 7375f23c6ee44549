"""What is mutated, by which tests it is judged, and where the figures are kept: `[tool.mutation]` in pyproject.toml."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "tests" / "mutation"
SCORE: Final = FOLDER / "score.json"
EQUIVALENT: Final = FOLDER / "equivalent.json"
WORK: Final = ROOT / "build" / "mutation"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`parts` has globs by part; `tests` what pytest collects; `select` is its `-m`. Times are in seconds."""

    parts: dict[str, list[str]]
    tests: list[str]
    select: str = "not slow and not waits"
    slowest_test: float = 5.0
    """Tests that took longer, unmutated, judge nothing."""
    tests_time: float = 20.0
    """Most unmutated seconds of tests that one mutant is shown to, the quickest first."""

    def files(self, parts: tuple[str, ...] = ()) -> dict[str, list[Path]]:
        """The files of each part, relative to the root. Raises `ValueError` for an unknown part or an empty glob."""
        if unknown := set(parts) - set(self.parts):
            raise ValueError(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(self.parts)}")
        found: dict[str, list[Path]] = {}
        for part, globs in self.parts.items():
            if parts and part not in parts:
                continue
            found[part] = []
            for glob in globs:
                paths = sorted(path.relative_to(ROOT) for path in ROOT.glob(glob) if path.suffix == ".py")
                if not paths:
                    raise ValueError(f"[tool.mutation] names {glob}, which is no file")
                found[part] += paths
        return found


class Equivalent(msgspec.Struct, frozen=True):
    """A mutant that no test can tell from the original, and why. `where`, `before` and `after` are for the reader."""

    key: str
    where: str
    before: str
    after: str
    reason: str


class Score(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What was measured last. `floor` is the share below which a sampled run fails."""

    measured: str
    sampled: int
    mutants: int
    killed: int
    survived: int
    unreached: int
    equivalent: int
    unjudged: int = 0
    """Not among the sampled: nothing noticed them, but a test that is red without any mutant might have."""
    share: float
    floor: float
    parts: dict[str, dict[str, float]] = {}


def load(path: Path = ROOT / "pyproject.toml") -> Plan:
    data: dict[str, Any] = tomllib.loads(path.read_text())
    return msgspec.convert(data["tool"]["mutation"], Plan)


def equivalents(path: Path = EQUIVALENT) -> dict[str, Equivalent]:
    """The judged mutants by key."""
    return {entry.key: entry for entry in msgspec.json.decode(path.read_bytes(), type=list[Equivalent])}


def score(path: Path = SCORE) -> Score | None:
    return msgspec.json.decode(path.read_bytes(), type=Score) if path.is_file() else None


def commit() -> str:
    """The commit's name, which seeds the sample; the whole of "no-commit" outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607  # git of the PATH
    return done.stdout.strip() or "no-commit"
