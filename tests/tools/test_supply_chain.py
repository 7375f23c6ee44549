from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools import audit, locks, sbom
from tools.locks import Locked


def test_the_bill_of_materials_is_up_to_date() -> None:
    """If this fails, run: .venv/bin/python -m tools.sbom"""
    assert sbom.PATH.read_bytes() == sbom.text()


def test_the_bill_of_materials_is_valid() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.text().decode()) is None


def test_the_bill_lists_what_runs_and_not_what_tests() -> None:
    purls = {component["purl"] for component in json.loads(sbom.text())["components"]}
    assert any(purl.startswith("pkg:pypi/neonize@") for purl in purls)
    assert any(purl.startswith("pkg:npm/socket.io-client@") for purl in purls)
    assert not any("pytest" in purl or "pkg:npm/socket.io@" in purl for purl in purls)


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


def test_the_databases_answer_is_judged() -> None:
    flawed = {"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}
    assert audit.judge(json.dumps({"dependencies": [flawed]})) == (["a 1: CVE-1, fixed in 2"], True)
    assert audit.judge(json.dumps({"dependencies": [{"name": "a", "version": "1", "vulns": []}]})) == ([], True)
    assert audit.judge(json.dumps({"dependencies": [{"name": "a", "skip_reason": "no network"}]})) == ([], False)
    assert audit.judge("") == ([], False)
