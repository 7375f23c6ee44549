"""How long an event takes at half of the top rate: `python -m tests.bench.latency [--check]`.

The top rate is that of 1,000 sockets with one event in flight each. Then half as many events a second are published
evenly, to one socket after the other, and 99 of 100 are confirmed within what is printed: from creation to
acknowledgement, as the metric `roundtrip_delivery_seconds` has it. Creation is stored in whole milliseconds, so it is
up to one too much. Takes half a minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Final

from tests.bench.run import python, rate

SOCKETS: Final = 1000
MOST: Final = 0.005
"""Seconds that 99 events in 100 take at the most."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.latency")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="fail when the promise is not kept")
    wanted = parser.parse_args()
    top, found = [], []
    for _ in range(wanted.turns):
        top.append(rate(python("roundtrip"), SOCKETS, wanted.seconds).rate)
        pace = {"BENCH_PACE": str(statistics.median(top) / 2)}
        run = rate(python("roundtrip"), SOCKETS, wanted.seconds, env=pace)
        assert run.p99 is not None
        found.append(run.p99)
        print(f"top rate {top[-1]:,.0f} events/s; at {run.rate:,.0f}: p99 {run.p99 * 1000:.1f} ms", flush=True)
    p99 = statistics.median(found)
    print(f"p99 at half of the top rate, median: {p99 * 1000:.1f} ms (promised {MOST * 1000:.0f})")
    return 0 if p99 <= MOST or not wanted.check else 1


if __name__ == "__main__":
    sys.exit(main())
