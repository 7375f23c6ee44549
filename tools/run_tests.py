"""`make test`: the tests that mostly wait, side by side, with the quick ones behind them; then the slow ones, alone.

The tests that wait leave most of both cores idle: the quick ones fill them at a lower priority. Nothing else runs
beside a slow test, since many of them measure time. With arguments it is plain pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "build" / "tests"

SIDE_BY_SIDE: Final = 6
"""Tests that wait at once, on two cores: they need little of them."""

NOTHING_SELECTED: Final = 5
"""pytest's status when no test has the marker."""


BEHIND: Final = 5
"""Niceness of the quick tests beside those that wait: a deadline of theirs is met before a quick test goes on."""


def parts(workers: int) -> dict[str, list[str]]:
    """Each part's arguments. `loadgroup` keeps the tests of one `xdist_group` in one worker."""
    return {
        "waiting": ["-m", "waits", "-n", str(workers), "--dist", "loadgroup"],
        "quick": ["-m", "not waits and not slow", "-n", "2", "--dist", "loadgroup"],
        "slow": ["-m", "slow and not waits"],
    }


def main(arguments: Sequence[str]) -> int:
    """Exit status of the first part that is not well, or 0."""
    pytest = [*_measuring(), "-m", "pytest"]
    if arguments:
        return subprocess.run([*pytest, *arguments], cwd=ROOT, check=False).returncode  # noqa: S603  # the developer's own
    begin = time.monotonic()
    WORK.mkdir(parents=True, exist_ok=True)
    options = parts(int(os.environ.get("WAITING_WORKERS", SIDE_BY_SIDE)))
    reports = {name: WORK / f"{name}.xml" for name in options}
    commands = {name: [*pytest, *options[name], f"--junitxml={reports[name]}"] for name in options}
    for report in reports.values():
        report.unlink(missing_ok=True)
    log = WORK / "waiting.log"
    with log.open("w") as written:
        waiting = subprocess.Popen(commands["waiting"], cwd=ROOT, stdout=written, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        quick = subprocess.run(["nice", "-n", str(BEHIND), *commands["quick"]], cwd=ROOT, check=False)  # noqa: S603, S607
        statuses = [waiting.wait(), quick.returncode]
    finally:
        waiting.terminate()
        waiting.wait()
    print(log.read_text(), flush=True)  # noqa: T201  # what pytest said, once it does not mix with the other part
    statuses.append(subprocess.run(commands["slow"], cwd=ROOT, check=False).returncode)  # noqa: S603
    worst = next((status for status in statuses if status not in (0, NOTHING_SELECTED)), 0)
    counts: Counter[str] = sum((tally(report) for report in reports.values()), Counter())
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    verdict = "passed" if worst == 0 else f"FAILED with status {worst}"
    print(  # noqa: T201  # the last line that a person reads
        f"make test {verdict}: {passed} passed, {failed} failed, {counts['skipped']} skipped "
        f"in {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    return worst


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
