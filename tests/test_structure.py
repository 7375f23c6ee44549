"""The structure that ARCHITECTURE.md describes is the one that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "backend" / "roundtrip"
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|md))?|[a-z_]+\.py)`", TEXT)))
MODULES = [path for path in sorted(PROGRAM.rglob("*.py")) if path.name != "__init__.py"]

LONGEST = 300
"""Lines of a module: past it, it hides a second idea."""


@pytest.mark.parametrize("path", NAMED)
def test_what_the_architecture_names_is_there(path: str) -> None:
    assert any((base / path).exists() for base in (PROGRAM, ROOT)), path


def test_it_names_enough_to_mean_something() -> None:
    assert len(NAMED) > 30
    assert len(TEXT.splitlines()) < 120


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROGRAM)))
def test_a_module_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


MOST = {
    "": 118,
    "commands": 8,
    "outbox/postgres": 11,
    "cluster": 20,
    "canary": 4,
    "drivers/neonize": 16,
    "api/debug": 16,
    "api/spec": 6,
}
"""Modules at most: of each part that may grow on its own, and of all the others together ("")."""


def test_there_are_few_modules() -> None:
    """Package markers aside."""
    counts = dict.fromkeys(MOST, 0)
    for path in MODULES:
        part = str(path.parent.relative_to(PROGRAM))
        counts[part if part in MOST else ""] += 1
    assert {part: count for part, count in counts.items() if count > MOST[part]} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROGRAM)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith('"""')
