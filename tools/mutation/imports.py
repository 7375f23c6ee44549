"""What a file of tests depends on: itself, the `conftest.py` above it, and all of the checkout that these import,
also inside of functions. What it starts in other processes is not among it, and not measured either."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDERS: Final = ("backend", "")
"""Where imports begin, relative to the root."""


class Imports:
    """The imports of a checkout. Paths are absolute, below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def digest(self, test: Path, also: bytes = b"") -> str:
        """A name for the content of all that a file of tests depends on, and of what else the caller gives."""
        found = hashlib.sha256(also)
        for path in sorted(self.closure(test)):
            found.update(f"{path.relative_to(self._root)}\0{self._content(path)}\0".encode())
        return found.hexdigest()[:24]

    def closure(self, test: Path) -> set[Path]:
        """The files of Python that it depends on, itself among them."""
        above = (folder / "conftest.py" for folder in test.parents if folder.is_relative_to(self._root))
        waiting = [test, *(path for path in above if path.is_file())]
        found: set[Path] = set()
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                waiting += self._imported(path)
        return found

    @functools.cache  # noqa: B019  # for one run of the tool
    def _content(self, path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @functools.cache  # noqa: B019  # for one run of the tool
    def _imported(self, path: Path) -> frozenset[Path]:
        modules = set(_modules(ast.parse(path.read_text()), self._package(path)))
        return frozenset(file for module in modules for file in self._files(module))

    def _package(self, path: Path) -> str:
        """The package that a relative import of the file begins at."""
        for folder in FOLDERS:
            base = self._root / folder
            if path.is_relative_to(base):
                return ".".join(path.relative_to(base).parent.parts)
        return ""

    @functools.cache  # noqa: B019  # for one run of the tool
    def _files(self, module: str) -> tuple[Path, ...]:
        """The file of a module, if it is one, and those of the packages that it is in: they are imported first."""
        parts = module.split(".")
        for folder in FOLDERS:
            base = self._root / folder
            if not base.joinpath(parts[0]).is_dir():
                continue
            within = (base.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1))
            candidates = (file for path in within for file in (path / "__init__.py", path.with_suffix(".py")))
            return tuple(file for file in candidates if file.is_file())
        return ()


def _modules(tree: ast.AST, package: str) -> Iterator[str]:
    """What is imported; `from a import b` may mean the module `a.b`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                yield base
                yield from (f"{base}.{alias.name}" for alias in names)
