"""The share of tests that use the public contract only: they import nothing of the program.

A test (a function, or the `TestCase` of a Hypothesis state machine) imports what its module imports outside of its
tests, and what it imports itself, also in code that it runs as a string. A helper of `tests` that imports the program
counts like the program, one level deep; `tests/support` are builders, and count as outside.

`python -m tools.contract_share` prints the share, and with `--list` the modules whose tests import internals.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAM: Final = ("backend", "roundtrip")
BUILDERS: Final = "tests.support"
GOAL: Final = 0.5

_IN_STRING: Final = re.compile(rf"\b(?:from|import)\s+((?:{'|'.join(PROGRAM)})(?:\.\w+)*)\b")


class Test(NamedTuple):
    """One test, and the modules of the program, or the helpers that import it, that it needs."""

    path: Path
    name: str
    internal: frozenset[str]


def tests(folder: Path) -> Iterator[Test]:
    """Every test of the `tests` folder. Paths are relative to its parent, where imports begin."""
    root = folder.parent
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        own = dict(_own(tree.body))
        shared = frozenset(_internal(tree, root, skipped=frozenset(own.values())))
        for name, node in own.items():
            yield Test(path.relative_to(root), name, shared | frozenset(_internal(node, root)))


def _own(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """The tests that pytest collects from the body of a module or class, by name."""
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                yield prefix + name, node
            case ast.ClassDef(name=name) if name.startswith("Test"):
                yield from _own(node.body, f"{prefix}{name}.")
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute(attr="TestCase")):
                yield prefix + name, node


def _internal(node: ast.AST, root: Path, skipped: frozenset[ast.AST] = frozenset()) -> Iterator[str]:
    """Imports of the program below a node, direct or by a helper, but for those below the skipped nodes."""
    for module in _imports(node, skipped):
        if _is(module, *PROGRAM) or (_is(module, "tests") and not _is(module, BUILDERS) and _helps(root, module)):
            yield module


def _imports(node: ast.AST, skipped: frozenset[ast.AST] = frozenset()) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=str() as module, names=names, level=0):
            yield module
            if _is(module, "tests"):
                yield from (f"{module}.{alias.name}" for alias in names)
        case ast.Constant(value=str() as text):
            yield from _IN_STRING.findall(text)
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from _imports(child, skipped)


def _is(module: str, *packages: str) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


@functools.cache
def _helps(root: Path, module: str) -> bool:
    """Whether a module of `tests` imports the program itself."""
    path = root.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.is_file() and any(_is(name, *PROGRAM) for name in _imports(ast.parse(file.read_text())))


def share(found: list[Test]) -> float:
    """Of all tests, those that need nothing internal."""
    return sum(not test.internal for test in found) / max(1, len(found))


def main(arguments: list[str]) -> int:
    found = list(tests(ROOT / "tests"))
    if "--list" in arguments:
        modules: dict[Path, list[Test]] = defaultdict(list)
        for test in found:
            if test.internal:
                modules[test.path].append(test)
        for path, inside in sorted(modules.items(), key=lambda item: -len(item[1])):
            _print(
                f"{len(inside):4} {path}: {', '.join(sorted(frozenset().union(*(test.internal for test in inside))))}"
            )
    outside = sum(not test.internal for test in found)
    _print(f"{outside} of {len(found)} tests ({share(found):.0%}) import nothing of the program; goal {GOAL:.0%}")
    return 0


def _print(line: str) -> None:
    print(line)  # noqa: T201  # a command's output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
