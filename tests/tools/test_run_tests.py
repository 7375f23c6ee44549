"""`make test`: what runs side by side, what alone, and what is counted."""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from _pytest.mark.expression import Expression

from tests.conftest import pytest_collection_modifyitems
from tools import branches, run_tests

PARTS = run_tests.parts(3)


@pytest.mark.parametrize("markers", [set(some) for size in range(4) for some in combinations(run_tests.CHOOSING, size)])
def test_each_test_is_in_one_part(markers: set[str]) -> None:
    def chosen(part: run_tests.Part) -> bool:
        return Expression.compile(part.markers).evaluate(lambda name, /, **_: name in markers)

    [part] = [part for part in PARTS.values() if chosen(part)]
    assert part.named in {"", *markers}, "it is in a file that the part collects"


def test_what_measures_shares_its_cores_with_nobody() -> None:
    assert PARTS["waiting"].workers == 3
    assert "-n" not in PARTS["alone"].arguments(run_tests.ROOT / "tests")
    assert PARTS["long"].arguments(run_tests.ROOT / "tests")[2:6] == ["-n", "2", "--dist", "loadgroup"]


def test_a_part_collects_the_files_that_name_its_marker(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, text in (
        ("test_a.py", "@pytest.mark.waits\n"),
        ("deep/test_b.py", "pytestmark = [pytest.mark.slow, pytest.mark.waits]"),
        ("test_c.py", "pytestmark = pytest.mark.slow"),
        ("test_d.py", "it waits, and is marked with pytest.mark.waits_not"),
        ("helper.py", "pytest.mark.waits"),
    ):
        (tmp_path / name).write_text(text)
    assert [path.name for path in run_tests.files_that_say("waits", tmp_path)] == ["test_b.py", "test_a.py"]
    assert PARTS["quick"].arguments(tmp_path)[-1] == "loadgroup", "all files: what is not marked is quick"


@pytest.mark.parametrize(
    ("text", "marks", "said"),
    [
        ("@mark.slow", {"slow", "timeout"}, None),
        ("@mark.slow @mark.alone", {"slow", "alone"}, None),
        ("SLOW = helper.SLOW", {"slow"}, "a marker that its file does not name: slow"),
        ("@mark.alone", {"alone"}, "is alone: it is slow, too"),
        ("@mark.alone @mark.slow @mark.waits", {"alone", "slow", "waits"}, "is alone: it is slow, too"),
    ],
)
def test_a_test_that_no_part_would_run_as_it_says_is_refused(
    tmp_path: Path, text: str, marks: set[str], said: str | None
) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(f"from pytest import mark\n{text}")
    item = _item(path, *(SimpleNamespace(name=name, args=()) for name in marks))
    with nullcontext() if said is None else pytest.raises(pytest.UsageError, match=said):
        pytest_collection_modifyitems([item])


def _item(path: Path, *marks: SimpleNamespace) -> pytest.Item:
    def iter_markers(name: str = "") -> list[SimpleNamespace]:
        return [mark for mark in marks if not name or mark.name == name]

    return cast("pytest.Item", SimpleNamespace(path=path, nodeid="test_it", iter_markers=iter_markers))


def test_what_waits_longest_begins_first(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text("pytest.mark.waits")
    short, plain, long, middle = (
        _item(path, *(SimpleNamespace(name="waits", args=args) for args in marks))
        for marks in ([()], [], [(20,), (150,)], [(20,)])
    )
    items = [short, plain, long, middle]
    pytest_collection_modifyitems(items)
    assert items == [long, middle, short, plain], "and the rest in the order of chance"


def test_the_closing_line_counts_all_parts(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="5" failures="1" errors="1" skipped="2"/></testsuites>')
    assert run_tests.tally(report) == {"tests": 5, "failures": 1, "errors": 1, "skipped": 2}
    assert run_tests.tally(tmp_path / "missing.xml") == {}


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        ((0, 0, 0, 0), 0),
        ((5, 0, 0, 5), 0),
        ((1, 0, 0, 0), 1),
        ((0, 1, 0, 0), 1),
        ((0, 0, 1, 0), 1),
        ((0, 0, 0, 1), 1),
        ((5, 2, 0, 0), 2),
        ((1, 2, 0, 0), 1),
        ((0, 0, -9, 0), -9),
    ],
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
