"""How many test functions hold on to the public contract only: they import nothing of the program.

A test function imports what its module imports, and what it imports itself; `tests/support` are builders and count as
outside. `python -m tools.contract_share` prints the share, and with `--list` the modules that hold on to internals.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAM: Final = ("backend", "roundtrip")
GOAL: Final = 0.5


class Module(NamedTuple):
    """A test module: how many test functions it has, and which of the program's modules it imports."""

    path: Path
    tests: int
    internal: frozenset[str]


def modules(folder: Path) -> Iterator[Module]:
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        tests = sum(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            for node in ast.walk(tree)
        )
        yield Module(path.relative_to(folder.parent), tests, frozenset(_internal(tree)))


def _internal(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.partition(".")[0] in PROGRAM)
            case ast.ImportFrom(module=str() as name, level=0) if name.partition(".")[0] in PROGRAM:
                yield name


def share(found: list[Module]) -> float:
    """Of all test functions, those in modules that import nothing internal."""
    outside = sum(module.tests for module in found if not module.internal)
    return outside / max(1, sum(module.tests for module in found))


def main(arguments: list[str]) -> int:
    found = list(modules(ROOT / "tests"))
    if "--list" in arguments:
        for module in sorted(found, key=lambda module: -module.tests):
            if module.internal:
                _say(f"{module.tests:4} {module.path}: {', '.join(sorted(module.internal))}")
    total = sum(module.tests for module in found)
    outside = sum(module.tests for module in found if not module.internal)
    _say(f"{outside} of {total} test functions ({share(found):.0%}) import nothing of the program; goal {GOAL:.0%}")
    return 0


def _say(line: str) -> None:
    print(line)  # noqa: T201  # a command's output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
