"""`make bench-cluster`: one, two and three nodes on one PostgreSQL, each the whole program with all its telemetry.

Each key's events are published on one node and its socket is on any: with n nodes, all but one n-th of the events
cross nodes. Everything runs on this machine, PostgreSQL and the clients too, so that more nodes are not more machines:
what an event costs in processor time is the figure to size by, and events/s is what these cores gave in all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from tests.bench.generator import command
from tests.bench.run import line, python, start, stop, tell
from tests.support.postgres import Postgres, server, value
from tests.support.program import environment

NODES: Final = (1, 2, 3)
WARM: Final = 1.5
"""Seconds before the measured ones."""
_BUCKET: Final = re.compile(r'^roundtrip_delivery_seconds_bucket\{.*le="([^"]+)".*\} ([\d.e+]+)', re.MULTILINE)


class Figures(NamedTuple):
    """Of one run: events a second, and microseconds of processor time of one event."""

    nodes: int
    rate: float
    node_cpu: float
    postgres_cpu: float
    commits: float
    """Transactions of one event."""
    p50: float
    p99: float
    """Seconds from an event's creation to its confirmation, at most: bounds of buckets, with what is between them."""
    crossed: float
    """Share of the events whose socket is at another node than the one that stored them."""


def tree_cpu(pid: int) -> float:
    """Seconds of processor time of a process and its children, by user and system."""
    whole = psutil.Process(pid)
    total = 0.0
    for one in (whole, *whole.children(recursive=True)):
        try:
            total += sum(one.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def buckets(admin: list[str]) -> dict[float, float]:
    """The delivery histogram of all nodes, by upper bound."""
    found: dict[float, float] = {}
    for url in admin:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310  # ours
            for bound, count in _BUCKET.findall(answer.read().decode()):
                found[float(bound)] = found.get(float(bound), 0.0) + float(count)
    return found


def quantile(q: float, before: dict[float, float], after: dict[float, float]) -> float:
    """As Prometheus' `histogram_quantile`."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    rank, low, under = q * max(counts.values()), 0.0, 0.0
    for bound, count in counts.items():
        if count >= rank:
            return low if bound == float("inf") else low + (bound - low) * (rank - under) / max(count - under, 1e-9)
        low, under = bound, count
    return low


def ask(url: str, sql: str) -> float:
    return float(asyncio.run(value(url, sql)) or 0)


def run(count: int, sockets: int, seconds: float, postgres: Postgres, otlp: str) -> Figures:
    """One run. `sockets` is for each node."""
    store = postgres.url_of(postgres.new_database())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roundtrip-bench-")))
        telemetry = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        telemetry |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
        nodes: list[subprocess.Popen[str]] = []
        for number in range(count):
            settings = environment(folder / str(number), store=store, node_id=f"node-{number}", log_level="WARNING")
            nodes.append(start(None, *python("cluster_node"), env=settings | telemetry))
            stack.callback(stop, nodes[-1])
        said = [json.loads(line(node)) for node in nodes]
        for number, one in enumerate(said):
            clients = start(None, *command(one["url"], sockets, first=number * sockets))
            stack.callback(stop, clients)
            assert json.loads(line(clients))["ready"] == sockets
        ports = [one["port"] for one in said]
        for number, node in enumerate(nodes):
            tell(node, json.dumps({"number": number, "ports": ports, "keys": count * sockets}))
        time.sleep(WARM)
        assert postgres.process is not None
        admin = [one["admin"] for one in said]
        done = "SELECT sum(n) FROM totals WHERE outcome <> 0"
        commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"

        def reading() -> tuple[float, ...]:
            spent = sum(tree_cpu(node.pid) for node in nodes), tree_cpu(postgres.process.pid if postgres.process else 0)
            return time.monotonic(), ask(store, done), ask(store, commits), *spent

        before, then = buckets(admin), reading()
        time.sleep(seconds)
        now, after = reading(), buckets(admin)
        took, events, transactions, node_cpu, postgres_cpu = (b - a for a, b in zip(then, now, strict=True))
        return Figures(
            count,
            events / took,
            node_cpu / events * 1e6,
            postgres_cpu / events * 1e6,
            transactions / events,
            quantile(0.5, before, after),
            quantile(0.99, before, after),
            (count - 1) / count,
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster", description=__doc__)
    parser.add_argument("--sockets", type=int, default=300, help="of each node")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many runs, in turns")
    parser.add_argument("--nodes", type=int, nargs="*", default=list(NODES))
    options = parser.parse_args(arguments)
    found: dict[int, list[Figures]] = {count: [] for count in options.nodes}
    receiver = start(None, *python("receiver"))
    try:
        otlp = f"http://127.0.0.1:{line(receiver)}"
        with server(fsync=True) as postgres:
            for _ in range(options.rounds):
                for count in options.nodes:
                    found[count].append(run(count, options.sockets, options.seconds, postgres, otlp))
    finally:
        stop(receiver)
    load = os.getloadavg()[2]
    print(f"{os.cpu_count()} cores, load of the last quarter of an hour {load:.1f}; medians of {options.rounds}")
    print("| nodes | events/s | crossed | CPU an event, nodes | PostgreSQL | transactions an event | p50 | p99 |")
    print("|---|---|---|---|---|---|---|---|")
    for count, runs in found.items():
        middle = Figures(*(statistics.median(column) for column in zip(*runs, strict=True)))
        print(
            f"| {count} | {middle.rate:,.0f} | {middle.crossed:.0%} | {middle.node_cpu:.0f} µs | "
            f"{middle.postgres_cpu:.0f} µs | {middle.commits:.3f} | {middle.p50 * 1000:.0f} ms | "
            f"{middle.p99 * 1000:.0f} ms |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
