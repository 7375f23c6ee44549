"""Which tests reach which lines, and how long each takes: measured once, by running them unmutated."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import msgspec
import pytest

from tools.mutation import forks
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
    """A pytest plugin: one coverage context per test."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured
        self.coverage_map = CoverageMap()
        self._took: dict[str, float] = defaultdict(float)
        self._bad: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._measured.switch_context(item.nodeid)
        begin = time.monotonic()
        try:
            return (yield)
        finally:
            self._took[item.nodeid] = time.monotonic() - begin

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self._bad.add(report.nodeid)
            if report.failed:
                self.coverage_map.failed.append(report.nodeid)

    def result(self) -> CoverageMap:
        """What passed, with the lines that it ran."""
        self._measured.stop()
        numbers: dict[str, int] = {}
        for name, seconds in self._took.items():
            if name not in self._bad:
                numbers[name] = len(self.coverage_map.names)
                self.coverage_map.names.append(name)
                self.coverage_map.seconds.append(round(seconds, 4))
        data = self._measured.get_data()
        for file in data.measured_files():
            path = str(Path(file).relative_to(ROOT))
            self.coverage_map.lines[path] = {
                line: [numbers[context] for context in contexts if context in numbers]
                for line, contexts in data.contexts_by_lineno(file).items()
            }
            if self.coverage_map.failed:
                red = set(self.coverage_map.failed)
                self.coverage_map.uncertain[path] = [
                    n for n, of in data.contexts_by_lineno(file).items() if red & set(of)
                ]
        return self.coverage_map


def measure(plan: Plan, at_once: int, until: float) -> CoverageMap:
    """Run the plan's tests in `at_once` processes. A test that fails is in `failed`, and tries no mutant.

    Raises `NoTimeError` where that is not done at `until`, on the monotonic clock."""
    files = sorted({path for name in plan.tests for path in _test_files(ROOT / name)})
    shares = [files[number::at_once] for number in range(at_once)]
    parts = [WORK / f"coverage-map-{number}.json" for number in range(at_once)]
    for part in parts:
        part.unlink(missing_ok=True)
    jobs = [
        forks.Job(part, _measuring(plan, share, part), _LIMIT)
        for share, part in zip(shares, parts, strict=True)
        if share
    ]
    coverage_map = CoverageMap()
    done = 0
    for part, status in forks.run(jobs, at_once, WORK / "coverage-map.log", until):
        done += 1
        if status != 0:
            raise RuntimeError(f"the unmutated tests could not be run ({status}): see {WORK / 'coverage-map.log'}")
        coverage_map.add(msgspec.json.decode(part.read_bytes(), type=CoverageMap))
    if done < len(jobs):
        raise NoTimeError(f"the tests alone, unmutated, take longer: see {WORK / 'coverage-map.log'}")
    return coverage_map


def _test_files(path: Path) -> list[Path]:
    return sorted(path.rglob("test_*.py")) if path.is_dir() else [path]


def _measuring(plan: Plan, files: list[Path], out: Path) -> Any:
    def work() -> int:
        os.chdir(ROOT)
        measured = coverage.Coverage(data_file=None, source=["backend"], config_file=False, concurrency=["thread"])
        recorder = _LineRecorder(measured)
        measured.start()
        pytest.main([*OPTIONS, "-m", plan.select, *map(str, files)], plugins=[recorder])
        out.write_bytes(msgspec.json.encode(recorder.result()))
        return 0

    return work
