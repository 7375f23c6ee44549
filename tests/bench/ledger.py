"""Whether a large ledger slows new events down: `python -m tests.bench.ledger [--check]`.

An outbox with five million ended events, of the very clients that then get events, against an empty one, in turns.
The large file (some 2.5 GB, in a temporary folder) is written first, which takes about a minute.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from roundtrip.events import EventType
from roundtrip.outbox.records import Outcome
from roundtrip.outbox.sqlite.schema import SEQ_BITS, open_database
from tests.bench.run import Run, python, rate

SOCKETS: Final = 1000
LEAST: Final = 0.9
"""Ratio of the events a second with a large ledger to those with an empty one."""

_INDEXES: Final = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
_ROWS: Final = f"""
WITH RECURSIVE n (x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x + 1 < :rows)
INSERT INTO events (ref, id, type, link_id, created_at, expires_at, traceparent, body, outcome, resolved_at, attempts)
SELECT (x % {SOCKETS} + 1) << {SEQ_BITS} | (x / {SOCKETS} + 1),
    printf('%08x-0000-7000-8000-%012x', x, x), {EventType.CONNECTED:d}, '0190b0f05f647b1a9c595f2b8f1f9c3e',
    :now - :rows + x, :now + 3600000, printf('00-%032x-%016x-00', x + 1, x + 1), NULL, {Outcome.ACKED:d},
    :now - :rows + x,
    '[{{"at":1763000000000,"mode":"live","sockets":1,"ack_at":1763000000001,"sids":["xxxxxxxxxxxxxxxxxxxx"]}}]'
FROM n
"""  # noqa: S608  # numbers


def fill(folder: Path, rows: int) -> None:
    """An outbox with as many ended events, the same number of each client."""
    db = open_database(folder)
    indexes = db.execute(_INDEXES).fetchall()
    db.execute("PRAGMA synchronous=OFF")
    db.execute("BEGIN")
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    db.execute(_ROWS, {"rows": rows, "now": time.time_ns() // 1_000_000})
    for _, sql in indexes:
        db.execute(sql)
    keys = [(number + 1, f"user-{number}", "bot", rows // SOCKETS) for number in range(SOCKETS)]
    db.executemany("INSERT INTO keys VALUES (?, ?, ?, ?)", keys)
    db.executemany("INSERT INTO totals VALUES (?, ?, ?)", [(EventType.CONNECTED, o, rows) for o in (0, Outcome.ACKED)])
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledger")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="fail when the promise is not kept")
    wanted = parser.parse_args()
    runs: dict[str, list[Run]] = {"empty": [], "large": []}
    with tempfile.TemporaryDirectory(prefix="roundtrip-ledger-") as folder:
        fill(Path(folder), wanted.rows // SOCKETS * SOCKETS)
        for _ in range(wanted.turns):
            runs["empty"].append(rate(python("roundtrip"), SOCKETS, wanted.seconds))
            runs["large"].append(rate(python("roundtrip"), SOCKETS, wanted.seconds, env={"BENCH_FOLDER": folder}))
    medians = {name: statistics.median(run.rate for run in found) for name, found in runs.items()}
    for name, median in medians.items():
        cpu = statistics.median(run.cpu_us for run in runs[name])
        print(f"{name} ledger: {median:>8,.0f} events/s, {cpu:.1f} µs CPU")
    ratio = medians["large"] / medians["empty"]
    print(f"{wanted.rows:,} rows to none: {ratio:.2f} (promised {LEAST})")
    return 0 if ratio >= LEAST or not wanted.check else 1


if __name__ == "__main__":
    sys.exit(main())
