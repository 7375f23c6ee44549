"""What is published: the source distribution is complete, and the wheel runs and shows its page without Node.

The wheel is made from the source distribution in a place without `node_modules` and npm, and installed with pip into an
empty environment.
"""

from __future__ import annotations

import ast
import asyncio
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from packaging.requirements import Requirement

from tests.e2e.browser import chromium, tab
from tests.support.program import ROOT, Program
from tools import locks

NOT_IN_THE_SOURCES = {".github"}


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is under version control, with the libraries that npm installed here."""
    if not (ROOT / "node_modules").is_dir():
        pytest.skip("node_modules is missing; get it with: make install")
    folder = tmp_path_factory.mktemp("package") / "sources"
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "node_modules").symlink_to((ROOT / "node_modules").resolve())
    return folder


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def distribution(sources: Path) -> Path:
    """The source distribution."""
    code = "from setuptools import build_meta; print(build_meta.build_sdist('../dist'))"
    (sources.parent / "dist").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sources.parent / "dist" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def wheel(distribution: Path) -> Path:
    """The wheel, made without npm."""
    folder = distribution.parent
    npm_free = {"PATH": str(Path(sys.executable).parent), "HOME": str(folder)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(folder),
            str(distribution),
        ],
        cwd=folder,
        env=npm_free,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_source_distribution_is_complete(distribution: Path) -> None:
    with tarfile.open(distribution) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in tracked() if name.partition("/")[0] not in NOT_IN_THE_SOURCES} - held == set()


@pytest.mark.slow
def test_the_wheel_holds_types_page_and_libraries_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "roundtrip/py.typed" in names
    own = {name for name in tracked() if name.startswith("backend/roundtrip/web/")}
    assert {name.removeprefix("backend/") for name in own} <= names
    for path in vendored():
        assert f"roundtrip/web/vendor/{path}" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"roundtrip"}


def vendored() -> set[str]:
    """The libraries that the sources name in tables called VENDOR."""
    found: set[str] = set()
    for path in (ROOT / "backend" / "roundtrip").rglob("*.py"):
        match = re.search(r"^VENDOR\b[^=]*= (\{.*?^\})", path.read_text(), re.MULTILINE | re.DOTALL)
        found |= set(ast.literal_eval(match[1]).values()) if match else set()
    assert len(found) >= 3
    return found


@pytest.mark.slow
def test_the_metadata_is_whole(wheel: Path) -> None:
    name = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    addresses = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= addresses
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["License-Expression"] == "Apache-2.0"
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    pinned = {part.name: part.version for part in locks.python()}
    for requirement in needed:
        assert {rule.operator for rule in requirement.specifier} == {">=", "<"}, f"{requirement} is no range"
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), f"the lock is outside {requirement}"


@pytest.fixture
async def installed(wheel: Path, tmp_path: Path) -> AsyncIterator[Program]:
    """`roundtrip demo` from the wheel, in an environment that holds nothing else, on a PATH without Node."""
    venv = tmp_path / "venv"
    pins = tmp_path / "constraints.txt"
    pins.write_text("".join(f"{part.name}=={part.version}\n" for part in locks.python() if not part.conditional))
    bare = {"PATH": str(venv / "bin"), "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    pip = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name in ("HOME", "SSL_CERT_FILE")
    }
    await run([sys.executable, "-m", "venv", str(venv)], bare, 60)
    install = [
        str(venv / "bin" / "pip"),
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        str(pins),
        str(wheel),
    ]
    await run(install, pip | {"PATH": bare["PATH"]}, 240)
    settings = {"ROUNDTRIP_PORT": "0", "ROUNDTRIP_ADMIN_PORT": "0", "ROUNDTRIP_DATA_DIR": str(tmp_path / "data")}
    process = await asyncio.create_subprocess_exec(
        str(venv / "bin" / "roundtrip"),
        "demo",
        cwd=tmp_path,
        env=bare | settings,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    program = Program(process, bare)
    try:
        await program.started()
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await program.ended()


async def run(command: list[str], variables: dict[str, str], seconds: float) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, env=variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_installed_wheel_runs_without_node_and_shows_its_page(installed: Program) -> None:
    async with aiohttp.ClientSession() as session, session.get(installed.url) as response:
        assert response.status == 200
    async with chromium() as browser, tab(browser, installed.url, "ada") as page:
        await page.link()  # the code is drawn by a library, and came through another
