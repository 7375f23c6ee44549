"""Whether idle neighbours cost anything: `python -m tests.bench.flat [--check]`.

1,000 sockets get an event each, over and over, beside 1,000, 5,000 and 20,000 sockets that get none (or as many as
there are open files for). Printed are the
events a second and the processor time of one, in turns, and the ratio of the medians to that of the fewest. One
run takes some ten seconds more than `--seconds` with the most neighbours, for all of them connect first.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from typing import Final

from roundtrip.runtime import RESERVED_DESCRIPTORS
from tests.bench.run import Run, python, rate

ACTIVE: Final = 1000
NEIGHBOURS: Final = (1000, 5000, 20_000)
LEAST, MOST = 0.9, 1.1
"""Bounds of the ratio that is promised."""


def most_neighbours(wanted: int) -> int:
    """How many there are open files for, after raising the limit as far as it may be; both processes inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = hard - ACTIVE - RESERVED_DESCRIPTORS
    if room < wanted:
        print(f"{hard:,} open files are allowed (ulimit -Hn): {room:,} neighbours instead of {wanted:,}", flush=True)
    return min(wanted, room)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flat")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--idle", type=int, nargs="+", default=list(NEIGHBOURS))
    parser.add_argument("--check", action="store_true", help="fail when the promise is not kept")
    wanted = parser.parse_args()
    runs: dict[int, list[Run]] = {most_neighbours(idle): [] for idle in wanted.idle}
    for _ in range(wanted.turns):
        for idle, found in runs.items():
            found.append(rate(python("roundtrip"), ACTIVE, wanted.seconds, idle=idle))
    medians = {idle: statistics.median(run.rate for run in found) for idle, found in runs.items()}
    first = next(iter(medians.values()))
    for idle, median in medians.items():
        cpu = statistics.median(run.cpu_us for run in runs[idle])
        print(f"{idle:>6,} idle neighbours: {median:>8,.0f} events/s, {cpu:.1f} µs CPU, ratio {median / first:.2f}")
    kept = all(LEAST <= median / first <= MOST for median in medians.values())
    return 0 if kept or not wanted.check else 1


if __name__ == "__main__":
    sys.exit(main())
