from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools import audit, locks
from tools.locks import Locked

DOCS = locks.ROOT / "docs"

_DEVELOPMENT = "cdx:npm:package:development"
"""The property that marks what only tests use."""


def purl(part: Locked) -> str:
    """The package's URL, as a bill of materials names it."""
    name = part.name.replace("@", "%40", 1) if part.name.startswith("@") else part.name
    return f"pkg:{part.ecosystem}/{name}@{part.version.replace('!', '%21').replace('+', '%2B')}"


def components(name: str) -> dict[str, dict[str, Any]]:
    """A bill's components by their package URL."""
    return {part["purl"]: part for part in json.loads((DOCS / name).read_text())["components"]}


@pytest.mark.parametrize(
    ("name", "schema"), [("sbom.cdx.json", SchemaVersion.V1_6), ("sbom-web.cdx.json", SchemaVersion.V1_5)]
)
def test_the_bills_of_materials_are_valid(name: str, schema: SchemaVersion) -> None:
    assert JsonStrictValidator(schema).validate_str((DOCS / name).read_text()) is None


def test_the_bill_of_what_runs_is_up_to_date() -> None:
    """If this fails, run: make sbom"""
    listed = set(components("sbom.cdx.json"))
    everywhere = {purl(part) for part in locks.python() if not part.conditional}
    assert everywhere <= listed <= {purl(part) for part in locks.python()}
    assert any(purl.startswith("pkg:pypi/neonize@") for purl in listed)
    assert not any("pytest" in purl for purl in listed)


def test_the_bill_of_the_page_is_up_to_date() -> None:
    """If this fails, run: make sbom"""
    listed = components("sbom-web.cdx.json")
    assert set(listed) == {purl(part) for part in locks.npm()}
    tests_only = {
        purl for purl, part in listed.items() if {"name": _DEVELOPMENT, "value": "true"} in part["properties"]
    }
    assert not any(purl.startswith("pkg:npm/socket.io-client@") for purl in tests_only)


def test_the_bills_name_licences() -> None:
    parts = [*components("sbom.cdx.json").values(), *components("sbom-web.cdx.json").values()]
    assert {part["name"] for part in parts if not part.get("licenses")} == {
        "neonize",
        "protobuf",
        "xmlhttprequest-ssl",
    }, "what names no licence in its metadata is looked up by hand: Apache-2.0, BSD-3-Clause, MIT"


def test_everything_is_locked_with_hashes() -> None:
    parts = [*locks.python(), *locks.python(locks.ROOT / "requirements-dev.lock"), *locks.npm()]
    assert len(parts) > 100
    assert audit.unlocked(parts) == []


def test_what_is_not_locked_is_found(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text("# a comment\nsafe==1.0 \\\n    --hash=sha256:" + "a" * 64 + "\n    # via x\nbare==2.0\n")
    assert audit.unlocked(locks.python(path)) == ["bare 2.0 has no hash in its lock"]
    path.write_text("anything>=1\n")
    with pytest.raises(ValueError, match="not pinned"):
        locks.python(path)


def test_another_version_than_the_locked_one_is_found() -> None:
    assert audit.drifted([Locked("pypi", "aiohttp", "0.0.1", ()), Locked("pypi", "not-installed-here", "1", ())]) == [
        f"aiohttp {version('aiohttp')} is installed, 0.0.1 is locked: make install"
    ]


def test_the_databases_report_is_parsed() -> None:
    flawed = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    assert audit.parse_report(json.dumps({"dependencies": [flawed]})) == (["a 1: CVE-1, fixed in 2"], True)
    assert audit.parse_report(json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": []}]})) == ([], True)
    assert audit.parse_report(json.dumps({"dependencies": [{"name": "a", "skip_reason": "no network"}]})) == ([], False)
    assert audit.parse_report("") == ([], False)
