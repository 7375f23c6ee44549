"""`make test`: what runs side by side, what alone, and what is counted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tools import branches, run_tests


def test_each_test_is_in_one_part() -> None:
    waiting, quick, slow = run_tests.parts(3).values()
    assert waiting[:4] == ["-m", "waits", "-n", "3"]
    assert quick[:2] == ["-m", "not waits and not slow"]
    assert slow[:2] == ["-m", "slow and not waits"]
    assert "-n" not in slow, "tests that measure time share their cores with nobody"


def test_the_closing_line_counts_all_parts(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="5" failures="1" errors="1" skipped="2"/></testsuites>')
    assert run_tests.tally(report) == {"tests": 5, "failures": 1, "errors": 1, "skipped": 2}
    assert run_tests.tally(tmp_path / "missing.xml") == {}


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [((0, 0, 0), 0), ((5, 0, 0), 0), ((1, 0, 0), 1), ((0, 1, 0), 1), ((0, 0, 1), 1), ((5, 2, 0), 2), ((1, 2, 0), 1)],
)
def test_one_status_for_all_parts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    statuses: tuple[int, ...],
    worst: int,
) -> None:
    left = list(statuses)

    class Done:
        def __init__(self, *_: object, **__: object) -> None:
            self.returncode = left.pop(0)

        def wait(self) -> int:
            return self.returncode

        def terminate(self) -> None: ...

    monkeypatch.setattr(run_tests, "WORK", tmp_path)
    monkeypatch.setattr(subprocess, "run", Done)
    monkeypatch.setattr(subprocess, "Popen", Done)
    assert run_tests.main([]) == worst
    assert left == [], "each part runs whatever became of those before"
    assert capsys.readouterr().out.splitlines()[-1].startswith("make test passed" if worst == 0 else "make test FAILED")


def test_a_region_is_a_run_of_statements_that_never_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("a\nb\n# words\nc\nd\ne\n")
    monkeypatch.setattr(branches, "ROOT", tmp_path)
    found = list(branches.regions("a.py", [1, 2, 4, 5, 6], [2, 4, 6]))
    assert [(region.size, region.first, region.last, region.text) for region in found] == [
        (2, 2, 4, "b"),
        (1, 6, 6, "e"),
    ]


@pytest.mark.parametrize(("taken", "status"), [(92, 0), (91, 1)])
def test_the_share_of_branches_has_a_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], taken: int, status: int
) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "a.py").write_text("a\nb\n")
    one = {"executed_lines": [1], "missing_lines": [2], "summary": {"num_branches": 100, "covered_branches": taken}}
    other = {"executed_lines": [], "missing_lines": [], "summary": {"num_branches": 100, "covered_branches": 0}}

    class Measured:
        def load(self) -> None: ...

        def json_report(self, outfile: str) -> None:
            Path(outfile).write_text(json.dumps({"files": {"backend/a.py": one, "dashboards/b.py": other}}))

    monkeypatch.setattr("tools.branches.coverage.Coverage", Measured)
    monkeypatch.setattr(branches, "ROOT", tmp_path)
    assert branches.main() == status
    assert capsys.readouterr().out.splitlines() == [
        "   1 statements never run: backend/a.py:2-2  b",
        f"branch coverage of the program: {taken}.0% ({taken} of 100)",
    ]
