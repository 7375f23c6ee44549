"""Telemetry uses only what its libraries support: a new version of one changes what is private without notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import roundtrip.telemetry

MODULES = sorted(Path(roundtrip.telemetry.__file__).parent.glob("*.py"))

UNSTABLE = {
    "opentelemetry._logs": "1.45.2",
    "opentelemetry.exporter.otlp.proto.http._log_exporter": "1.45.2",
    "opentelemetry.sdk._logs": "1.45.2",
    "opentelemetry.sdk._logs.export": "1.45.2",
    "opentelemetry.semconv._incubating.attributes": "1.45.2",
}
"""Documented, with an underscore until they are declared stable; and the version of the SDK that was checked."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def accesses(tree: ast.AST) -> Iterator[str]:
    """Private attributes of anything but `self`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if private(name):
                yield ast.unparse(node)


def imports(tree: ast.AST) -> Iterator[str]:
    """Private modules of others, or private names from their modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("roundtrip"):
            if any(private(part) for part in node.module.split(".")):
                yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if private(alias.name))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_private_field_of_another_is_read_or_written(path: Path) -> None:
    assert list(accesses(ast.parse(path.read_text()))) == []


def test_what_is_imported_is_documented() -> None:
    assert {name for path in MODULES for name in imports(ast.parse(path.read_text()))} == set(UNSTABLE)
    assert set(UNSTABLE.values()) == {version("opentelemetry-sdk")}
