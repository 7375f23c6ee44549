"""`make test`: the tests that mostly wait, side by side, with the quick ones behind them; then the long ones, two at a
time; at last those that need the machine for themselves.

The tests that wait leave most of both cores idle: the quick ones fill them at a lower priority. Long tests (a browser,
a flood, kills) run two at a time, one for each core. Nothing else runs beside a test marked `alone`: it measures time,
or memory that processes share. With arguments it is plain pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "build" / "tests"

SIDE_BY_SIDE: Final = 5
"""Tests that wait at once, on two cores: they need little of them."""

CORES: Final = 2
"""Tests at once that keep a core busy."""

CHOOSING: Final = frozenset({"waits", "slow", "alone"})
"""The markers that say in which part a test runs."""

_NAMED: Final = re.compile(rf"\bmark\.({'|'.join(sorted(CHOOSING))})\b")

NOTHING_SELECTED: Final = 5
"""pytest's status when no test has the marker."""

BEHIND: Final = 5
"""Niceness of the quick tests beside those that wait: a deadline of theirs is met before a quick test goes on."""


class Part(NamedTuple):
    """Tests that run together: `markers` is pytest's `-m`, `workers` how many run at once. Only files that say
    `pytest.mark.<named>` are collected, since each worker collects on its own; every file, where `named` is empty."""

    markers: str
    named: str
    workers: int

    def arguments(self, tests: Path) -> list[str]:
        """What pytest is told. `loadgroup` keeps the tests of one `xdist_group` in one worker."""
        at_once = ["-n", str(self.workers), "--dist", "loadgroup"] if self.workers > 1 else []
        return ["-m", self.markers, *at_once, *(map(str, files_that_say(self.named, tests)) if self.named else [])]


def parts(waiting: int) -> dict[str, Part]:
    """Each test is in one of them. `waiting` is how many of those that wait do so at once."""
    return {
        "waiting": Part("waits and not alone", "waits", waiting),
        "quick": Part("not waits and not slow and not alone", "", CORES),
        "long": Part("slow and not waits and not alone", "slow", CORES),
        "alone": Part("alone", "alone", 1),
    }


def files_that_say(marker: str, tests: Path) -> list[Path]:
    """The files of tests that name the marker. `tests/conftest.py` refuses a marked test in a file that does not."""
    return sorted(path for path in tests.rglob("test_*.py") if marker in markers_named(path))


def markers_named(path: Path) -> set[str]:
    """Of the markers that choose a part, those that a file of tests names."""
    return set(_NAMED.findall(path.read_text()))


def main(arguments: Sequence[str]) -> int:
    """Exit status of the first part that is not well, or 0."""
    pytest = [*_measuring(), "-m", "pytest"]
    if arguments:
        return subprocess.run([*pytest, *arguments], cwd=ROOT, check=False).returncode  # noqa: S603  # the developer's own
    begin = time.monotonic()
    WORK.mkdir(parents=True, exist_ok=True)
    chosen = parts(int(os.environ.get("WAITING_WORKERS", SIDE_BY_SIDE)))
    reports = {name: WORK / f"{name}.xml" for name in chosen}
    commands = {
        name: [*pytest, f"--junitxml={reports[name]}", *part.arguments(ROOT / "tests")] for name, part in chosen.items()
    }
    for report in reports.values():
        report.unlink(missing_ok=True)
    took: dict[str, float] = {}
    log = WORK / "waiting.log"
    with log.open("w") as written:
        waiting = subprocess.Popen(commands["waiting"], cwd=ROOT, stdout=written, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        quick = _run(["nice", "-n", str(BEHIND), *commands["quick"]], "quick", took)
        statuses = [waiting.wait(), quick]
    finally:
        waiting.terminate()
        waiting.wait()
    took["waiting"] = time.monotonic() - begin
    print(log.read_text(), flush=True)  # noqa: T201  # what pytest said, once it does not mix with the other part
    statuses += [_run(commands[name], name, took) for name in ("long", "alone")]
    worst = next((status for status in statuses if status not in (0, NOTHING_SELECTED)), 0)
    counts: Counter[str] = sum((tally(report) for report in reports.values()), Counter())
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    verdict = "passed" if worst == 0 else f"FAILED with status {worst}"
    each = ", ".join(f"{name} {took[name]:.0f}" for name in chosen)
    print(  # noqa: T201  # the last line that a person reads
        f"make test {verdict}: {passed} passed, {failed} failed, {counts['skipped']} skipped "
        f"in {time.monotonic() - begin:.0f} s ({each})",
        flush=True,
    )
    return worst


def _run(command: Sequence[str], name: str, took: dict[str, float]) -> int:
    begin = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  # this Python's pytest
    took[name] = time.monotonic() - begin
    return status


def _measuring() -> list[str]:
    """Python, under coverage where `make coverage` asks for it."""
    measured = os.environ.get("ROUNDTRIP_MEASURE") == "1"
    return [sys.executable, "-m", "coverage", "run"] if measured else [sys.executable]


def tally(report: Path) -> Counter[str]:
    """Tests, failures, errors and skips of a JUnit report; nothing where pytest wrote none."""
    if not report.is_file():
        return Counter()
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314  # pytest wrote it a moment ago
    names = ("tests", "failures", "errors", "skipped")
    return Counter({name: count for suite in suites for name in names if (count := int(suite.get(name, 0)))})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
