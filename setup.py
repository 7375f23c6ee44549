"""Puts the pages' npm libraries into the package when it is built, so that what is installed needs no Node.

All else about the package is in pyproject.toml. The libraries come from `node_modules`; without it, from an earlier
build (a source distribution holds them); without either, `npm ci` fetches them. Where npm is missing too, the package
is built without them, and the page says so.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "backend" / "roundtrip"
NODE_MODULES = ROOT / "node_modules"
TARGET = PACKAGE / "web" / "vendor"


def libraries() -> list[str]:
    """The paths of every literal table named `VENDOR` in the sources, which are parsed and not imported."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            if [target.id for target in targets if isinstance(target, ast.Name)] == ["VENDOR"]:
                found.update(ast.literal_eval(node.value).values())  # type: ignore[attr-defined]  # an assignment has one
    if not found:
        raise SystemExit("setup.py: no table named VENDOR in the sources")
    return sorted(found)


def collect() -> None:
    """Copy the libraries with their licences to where the package finds them."""
    paths = libraries()
    if not NODE_MODULES.is_dir() and all((TARGET / path).is_file() for path in paths):
        return
    npm = shutil.which("npm")
    if not NODE_MODULES.is_dir() and npm is not None:
        subprocess.run([npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=ROOT, check=True)  # noqa: S603  # a fixed command
    if not NODE_MODULES.is_dir():
        print("setup.py: neither node_modules nor npm: the package is built without the page's libraries")  # noqa: T201  # the builder reads it
        return
    shutil.rmtree(TARGET, ignore_errors=True)
    for path in paths:
        source = NODE_MODULES / path
        (TARGET / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, TARGET / path)
        name = Path(*Path(path).parts[: 2 if path.startswith("@") else 1])
        for licence in (NODE_MODULES / name).glob("LICEN[CS]E*"):
            shutil.copyfile(licence, TARGET / name / licence.name)


class BuildWithLibraries(build_py):
    def run(self) -> None:
        if not self.editable_mode:
            collect()
            self.__dict__.pop("data_files", None)  # found again, with what was copied
        super().run()


class SourceWithLibraries(sdist):
    def run(self) -> None:
        collect()
        super().run()


setup(cmdclass={"build_py": BuildWithLibraries, "sdist": SourceWithLibraries})
