"""Which tests reach which mutant: what a file of tests depends on, and what is remembered of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tools.mutation import coverage_map
from tools.mutation.coverage_map import Cache, CoverageMap
from tools.mutation.imports import Imports
from tools.mutation.plan import ROOT, Plan, load

FILES = {
    "backend/APP/__init__.py": "",
    "backend/APP/a.py": "from APP.deep import b",
    "backend/APP/other.py": "",
    "backend/APP/deep/__init__.py": "",
    "backend/APP/deep/b.py": "from . import c\nfrom .. import late",
    "backend/APP/deep/c.py": "",
    "backend/APP/late.py": "",
    "tests/__init__.py": "",
    "tests/conftest.py": "import tests.support.always",
    "tests/support/__init__.py": "",
    "tests/support/always.py": "",
    "tests/support/inside.py": "def make():\n    import APP.a",
    "tests/one/__init__.py": "",
    "tests/one/test_it.py": "import json\nfrom tests.support.inside import make",
    "tests/one/test_plain.py": "",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def closure(checkout: Path, test: str) -> set[str]:
    return {str(path.relative_to(checkout)) for path in Imports(checkout).closure(checkout / test)}


def test_what_a_file_of_tests_depends_on(checkout: Path) -> None:
    always = {"tests/__init__.py", "tests/conftest.py", "tests/support/__init__.py", "tests/support/always.py"}
    assert closure(checkout, "tests/one/test_plain.py") == {"tests/one/test_plain.py", *always}
    assert closure(checkout, "tests/one/test_it.py") == {
        "tests/one/test_it.py",
        "tests/support/inside.py",
        *always,
        *(name for name in FILES if name.startswith("backend/") and name != "backend/APP/other.py"),
    }


@pytest.mark.parametrize("name", ["backend/APP/deep/c.py", "backend/APP/late.py", "tests/conftest.py"])
def test_its_name_changes_with_what_it_depends_on_and_with_nothing_else(checkout: Path, name: str) -> None:
    test = checkout / "tests/one/test_it.py"
    before = Imports(checkout).digest(test)
    (checkout / "backend/APP/other.py").write_text("changed = True")
    assert Imports(checkout).digest(test) == before
    assert Imports(checkout).digest(test, b"another selection") != before
    (checkout / name).write_text("changed = True")
    assert Imports(checkout).digest(test) != before


def test_this_program_is_found_behind_its_builders() -> None:
    """The files of tests name a builder, the builder the program: a change of the program is a change of them."""
    found = Imports(ROOT).closure(ROOT / "tests/contract/test_outcomes.py")
    assert ROOT / "backend/roundtrip/app.py" in found
    assert ROOT / "backend/roundtrip/outbox/sqlite/writer.py" in found


PLAN = Plan(parts={}, tests=["tests/test_errors.py", "tests/test_backoff.py"])


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def measuring(_: Plan, files: list[Path], cache: Cache) -> object:
        def work() -> int:
            for path in files:
                found = CoverageMap(names=[f"{path.name}::test"], seconds=[0.1], lines={"backend/x.py": {1: [0]}})
                if red and path.name == "test_errors.py":
                    found = CoverageMap(failed=["it"])
                cache.put(path, found)
            return 0

        ran.append([path.name for path in files])
        return work

    monkeypatch.setattr(coverage_map, "WORK", tmp_path)
    monkeypatch.setattr(coverage_map, "_measuring", measuring)
    for red, ago, runs in (
        (True, 0.0, ["test_backoff.py", "test_errors.py"]),
        (True, 60.0, []),
        (False, coverage_map.RED_AGAIN + 60, ["test_errors.py"]),
        (False, 0.0, []),
    ):
        ran.clear()
        for path in tmp_path.glob("*.red"):
            os.utime(path, (time.time() - ago,) * 2)
        found = coverage_map.measure(PLAN, 1, time.monotonic() + 20, Cache(PLAN, tmp_path))
        assert sorted(name for names in ran for name in names) == runs
        assert found.failed == (["it"] if red else [])
        names = ["test_backoff.py::test"] if red else ["test_backoff.py::test", "test_errors.py::test"]
        assert found.names == names
        assert found.lines["backend/x.py"][1] == list(range(len(names)))


def test_what_nobody_asks_for_is_forgotten(tmp_path: Path) -> None:
    cache = Cache(PLAN, tmp_path)
    tests = [ROOT / name for name in PLAN.tests]
    for test in tests:
        cache.put(test, CoverageMap())
        os.utime(cache.path(test), (1, 1))
    assert cache.get(tests[0]) == CoverageMap()
    cache.forget(older=60.0)
    assert cache.get(tests[0]) is not None
    assert cache.get(tests[1]) is None


def test_another_choice_of_tests_is_another_map(tmp_path: Path) -> None:
    test = ROOT / PLAN.tests[0]
    other = Plan(parts={}, tests=PLAN.tests, select="slow")
    assert Cache(PLAN, tmp_path).path(test) != Cache(other, tmp_path).path(test)
    assert load().select == PLAN.select


def test_each_file_is_measured_by_itself_and_one_that_runs_nothing_of_the_program_too(tmp_path: Path) -> None:
    plan = Plan(parts={}, tests=["tests/test_backoff.py", "tests/test_clock.py", "tests/tools/test_contract_share.py"])
    cache = Cache(plan, tmp_path)
    coverage_map.steady()
    coverage_map.measure(plan, 1, time.monotonic() + 100, cache)
    backoff, clock, share = (cache.get(ROOT / name) for name in plan.tests)
    assert backoff is not None
    assert clock is not None
    assert share is not None
    for found, name in ((backoff, "backoff"), (clock, "clock"), (share, "contract_share")):
        assert found.names
        assert {test.partition("::")[0].rpartition("_")[2] for test in found.names} == {f"{name}.py".rpartition("_")[2]}
    assert backoff.lines["backend/roundtrip/backoff.py"]
    assert clock.lines["backend/roundtrip/clock.py"]
    assert "backend/roundtrip/backoff.py" not in clock.lines
    assert not share.lines
