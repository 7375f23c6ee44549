"""Which tests reach which lines, and how long each takes: measured by running them unmutated, once for each content of
what they depend on."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import coverage
import hypothesis
import msgspec
import pytest

from tools.mutation import forks
from tools.mutation.imports import Imports
from tools.mutation.plan import ROOT, WORK, Plan

OPTIONS = (
    "-q",
    "-p",
    "no:randomly",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "--timeout=0",
    "--capture=no",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",  # hypothesis is imported before, for its profile
    "--hypothesis-profile=mutation",
    "--rootdir",
    str(ROOT),
)
_LIMIT = 900.0

RED_AGAIN: Final = 3600.0
"""Seconds until a file with a red test is run once more: it may have been the machine."""

FORMAT: Final = b"1"
"""Of what is remembered: another one when what is measured, or how, has changed."""


class NoTimeError(Exception):
    """The tests could not be run unmutated in the time given: there is no verdict on any mutant."""


class CoverageMap(msgspec.Struct):
    """`lines` has, by file and line, the numbers of the tests in `names` that run it; `seconds` is theirs."""

    names: list[str] = []
    seconds: list[float] = []
    lines: dict[str, dict[int, list[int]]] = {}
    failed: list[str] = []
    uncertain: dict[str, list[int]] = {}
    """By file, the lines that a failed test ran: what it would have noticed there is unknown."""

    def tests_for(self, path: Path, lines: range | None, plan: Plan) -> list[str]:
        """The tests that run one of the lines (of the whole file if there are none), the quickest first, within the
        plan's times."""
        known = self.lines.get(str(path), {})
        numbers = {number for line, tests in known.items() if lines is None or line in lines for number in tests}
        chosen: list[str] = []
        left = plan.tests_time
        for number in sorted(numbers, key=lambda number: self.seconds[number]):
            if self.seconds[number] > plan.slowest_test or (left := left - self.seconds[number]) < 0:
                break
            chosen.append(self.names[number])
        return chosen

    def is_uncertain(self, path: Path, lines: range) -> bool:
        """Whether one of the lines was run by a test that is red without any mutant."""
        return any(line in lines for line in self.uncertain.get(str(path), ()))

    def time_of(self, tests: list[str]) -> float:
        """Their unmutated seconds."""
        wanted = set(tests)
        return sum(seconds for name, seconds in zip(self.names, self.seconds, strict=True) if name in wanted)

    def add(self, other: CoverageMap) -> None:
        first = len(self.names)
        self.names += other.names
        self.seconds += other.seconds
        self.failed += other.failed
        for path, uncertain in other.uncertain.items():
            self.uncertain[path] = sorted({*self.uncertain.get(path, ()), *uncertain})
        for path, lines in other.lines.items():
            mine = self.lines.setdefault(path, {})
            for line, tests in lines.items():
                mine.setdefault(line, []).extend(test + first for test in tests)


def steady() -> None:
    """Property tests try the same examples each time: a verdict is the mutant's doing."""
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, deadline=None, print_blob=False, max_examples=40
    )


class _LineRecorder:
    """A pytest plugin: one coverage context per test. What a file's tests ran is handed on when its last one is done,
    so that a run which is ended early has measured something."""

    def __init__(self, measured: coverage.Coverage, done: Callable[[Path, CoverageMap], None]) -> None:
        self._measured = measured
        self._done = done
        self._took: dict[str, float] = defaultdict(float)
        self._bad: set[str] = set()
        self._failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        self._measured.switch_context(item.nodeid)
        begin = time.monotonic()
        try:
            return (yield)
        finally:
            self._took[item.nodeid] = time.monotonic() - begin
            if nextitem is None or nextitem.path != item.path:
                self._measured.stop()
                self._done(item.path, self._result())
                self._measured.erase()
                self._took.clear()
                self._bad.clear()
                self._failed = []
                self._measured.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self._bad.add(report.nodeid)
            if report.failed:
                self._failed.append(report.nodeid)

    def _result(self) -> CoverageMap:
        """What passed, with the lines that it ran."""
        found = CoverageMap(failed=self._failed)
        numbers: dict[str, int] = {}
        for name, seconds in self._took.items():
            if name not in self._bad:
                numbers[name] = len(found.names)
                found.names.append(name)
                found.seconds.append(round(seconds, 4))
        red = set(self._failed)
        data = self._measured.get_data()
        for file in data.measured_files():
            path = str(Path(file).relative_to(ROOT))
            contexts = data.contexts_by_lineno(file)
            lines = {line: [numbers[name] for name in names if name in numbers] for line, names in contexts.items()}
            if ran := {line: tests for line, tests in lines.items() if tests}:
                found.lines[path] = ran
            if uncertain := [line for line, names in contexts.items() if red & set(names)]:
                found.uncertain[path] = uncertain
        return found


class Cache:
    """What was measured of each file of tests, by the content of all that it depends on."""

    def __init__(self, plan: Plan, folder: Path = WORK / "maps") -> None:
        self._folder = folder
        self._imports = Imports(ROOT)
        self._also = plan.select.encode() + _data(ROOT) + FORMAT
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, test: Path) -> Path:
        return self._folder / f"{self._imports.digest(test, self._also)}.json"

    def get(self, test: Path) -> CoverageMap | None:
        path = self.path(test)
        if not path.is_file():
            return None
        path.touch()
        return msgspec.json.decode(path.read_bytes(), type=CoverageMap)

    def put(self, test: Path, found: CoverageMap) -> None:
        """Kept whole or not at all, and under another name while a test of the file is red."""
        path = self.path(test)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(msgspec.json.encode(found))
        part.replace(path.with_suffix(".red") if found.failed else path)

    def lacks(self, test: Path) -> bool:
        """Whether a file is to be measured: one with a red test as well, but not again and again."""
        path = self.path(test)
        red = path.with_suffix(".red")
        return not path.is_file() and not (red.is_file() and time.time() - red.stat().st_mtime < RED_AGAIN)

    def red(self, test: Path) -> CoverageMap:
        """What was measured of a file with a red test."""
        path = self.path(test).with_suffix(".red")
        return msgspec.json.decode(path.read_bytes(), type=CoverageMap) if path.is_file() else CoverageMap()

    def forget(self, older: float) -> None:
        """Remove what nobody asked for in so many seconds."""
        until = time.time() - older
        for path in self._folder.iterdir():
            if path.stat().st_mtime < until:
                path.unlink(missing_ok=True)


def _data(root: Path) -> bytes:
    """A name for what tests read that is no Python, and for the settings of the tools."""
    found = hashlib.sha256((root / "pyproject.toml").read_bytes())
    for folder in ("backend", "tests"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix not in {".py", ".pyc"} and "tests/mutation" not in str(path):
                found.update(path.name.encode() + path.read_bytes())
    return found.digest()


def measure(plan: Plan, at_once: int, until: float, cache: Cache) -> CoverageMap:
    """What each of the plan's tests runs: of those that changed since they were measured, by running them in `at_once`
    processes. A test that fails is in `failed`, and tries no mutant.

    Raises `NoTimeError` where that is not done at `until`, on the monotonic clock."""
    files = sorted({path for name in plan.tests for path in _test_files(ROOT / name)})
    missing = [path for path in files if cache.lacks(path)]
    # the longest texts first, in turn to each process and back: they take about as long as each other
    missing.sort(key=lambda path: -path.stat().st_size)
    turns = [*range(at_once), *reversed(range(at_once))]
    shares = [[path for at, path in enumerate(missing) if turns[at % len(turns)] == n] for n in range(at_once)]
    jobs = [forks.Job(n, _measuring(plan, share, cache), _LIMIT) for n, share in enumerate(shares) if share]
    done = 0
    for _, status in forks.run(jobs, at_once, WORK / "coverage-map.log", until):
        done += 1
        if status != 0:
            raise RuntimeError(f"the unmutated tests could not be run ({status}): see {WORK / 'coverage-map.log'}")
    if done < len(jobs):
        left = sum(cache.lacks(path) for path in missing)
        raise NoTimeError(
            f"of {len(missing)} files of tests that changed, {left} were not run unmutated: "
            f"see {WORK / 'coverage-map.log'}; what was is remembered"
        )
    coverage_map = CoverageMap()
    for path in files:
        coverage_map.add(cache.get(path) or cache.red(path))
    return coverage_map


def _test_files(path: Path) -> list[Path]:
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def _measuring(plan: Plan, files: list[Path], cache: Cache) -> Any:
    def work() -> int:
        os.chdir(ROOT)
        measured = coverage.Coverage(data_file=None, source=["backend"], config_file=False, concurrency=["thread"])
        measured.set_option("run:disable_warnings", ["no-data-collected"])  # a file of tests may run nothing
        recorder = _LineRecorder(measured, cache.put)
        measured.start()
        status = pytest.main([*OPTIONS, "-m", plan.select, *map(str, files)], plugins=[recorder])
        if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}:
            return int(status)
        for path in files:  # one with none of the selected tests is measured, too
            if cache.lacks(path):
                cache.put(path, CoverageMap())
        return 0

    return work
