"""The share of branches that the tests take, and the largest regions that they never enter.

Reads what `coverage combine` left. Ends with 1 below `FLOOR`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import coverage

ROOT: Final = Path(__file__).resolve().parent.parent
FLOOR: Final = 0.92
SHOWN: Final = 20


class Region(NamedTuple):
    """Statements in a row that never ran, `size` of them."""

    size: int
    path: str
    first: int
    last: int
    text: str


def regions(path: str, statements: Sequence[int], missing: Sequence[int]) -> Iterator[Region]:
    """The runs of missing statements of a file: no statement that ran lies between those of one run."""
    lines = (ROOT / path).read_text().splitlines()
    lacking = set(missing)
    run: list[int] = []
    for line in [*sorted(statements), 0]:
        if line in lacking:
            run.append(line)
        elif run:
            yield Region(len(run), path, run[0], run[-1], lines[run[0] - 1].strip())
            run = []


def main() -> int:
    measured = coverage.Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        measured.json_report(outfile=str(report))
        files: dict[str, Any] = json.loads(report.read_text())["files"]
    found: list[Region] = []
    branches = taken = 0
    for path, file in sorted(files.items()):
        if not path.startswith("backend/"):
            continue
        missing = file["missing_lines"]
        found += regions(path, [*file["executed_lines"], *missing], missing)
        branches += file["summary"]["num_branches"]
        taken += file["summary"]["covered_branches"]
    for region in sorted(found, reverse=True)[:SHOWN]:
        _print(f"{region.size:4} statements never run: {region.path}:{region.first}-{region.last}  {region.text}")
    share = taken / max(1, branches)
    _print(f"branch coverage of the program: {share:.1%} ({taken} of {branches})")
    return 0 if share >= FLOOR else 1


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # a command's output


if __name__ == "__main__":
    sys.exit(main())
