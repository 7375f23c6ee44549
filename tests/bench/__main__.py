"""`make bench`: acknowledged events per second through Roundtrip's whole path, beside servers that do less or the same.

Every variant runs in turn, several times over, and the figures are ratios of medians: these hold on a noisy machine,
the absolute ones do not. `--check` exits with 1 when a ratio that the project promises is not reached.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.run import ROOT, Run, line, python, rate, start, stop

PEERS: Final = ROOT / "tests" / "bench" / "peers"
BARE: Final = "bare python-socketio"
BARE_NODE: Final = "bare Node socket.io"
LEVELS: Final = ("telemetry off", "10 % of traces kept", "100 % of traces kept")


@dataclass(frozen=True)
class Variant:
    name: str
    command: list[str]
    reply: str = "ack"
    env: Mapping[str, str] = field(default_factory=dict)


RING: Final = {"BENCH_RING_BYTES": str(8 << 20)}
"""What ships."""


def variants(otlp: str) -> list[Variant]:
    """All of them; those on Node only where it is. `otlp` is the endpoint that takes the spans."""
    on = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    tenth = on | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    levels: dict[str, Mapping[str, str]] = dict(zip(LEVELS, ({}, tenth, on), strict=True))
    found = [Variant(BARE, python("peers.bare"))]
    found += [Variant(f"Roundtrip, {level}", python("roundtrip"), env=env) for level, env in levels.items()]
    if (node := node_with_peers()) is not None:
        found.append(Variant(BARE_NODE, [node, str(PEERS / "bare.mjs")]))
        same = [node, str(PEERS / "guaranteed.mjs")]
        found += [Variant(f"Node, equal guarantees, {level}", same, env=env) for level, env in levels.items()]
    found += [
        Variant("Roundtrip, console closed", python("roundtrip"), env={"BENCH_CONSOLE": "closed"}),
        Variant("Roundtrip, console closed, trace ring", python("roundtrip"), env=RING | {"BENCH_CONSOLE": "closed"}),
        Variant("Roundtrip, one console open, trace ring", python("roundtrip"), env=RING | {"BENCH_CONSOLE": "open"}),
        Variant("Roundtrip, no limits", python("roundtrip"), env={"BENCH_LIMITS": "off"}),
        Variant("Roundtrip, no receipts", python("roundtrip"), env={"BENCH_RECEIPTS": "never"}),
        Variant("Roundtrip, a receipt for each event", python("roundtrip"), env={"BENCH_RECEIPTS": "each"}),
    ]
    return found


def node_with_peers() -> str | None:
    """Node, with what its servers need installed; None where there is no Node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    if not (PEERS / "node_modules" / ".package-lock.json").exists():
        subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(PEERS)], check=True)
    return node


TO_BARE: Final = dict(zip(LEVELS, (2.4, 2.2, 1.4), strict=True))
"""Least ratio to bare python-socketio."""

TO_NODE: Final = dict(zip(LEVELS, (1.3, 1.4, 1.0), strict=True))
"""Least ratio to Node with equal guarantees, at the same share of traces kept."""

RECEIPTS: Final = 0.85
"""Least ratio of receipts as shipped to none at all."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", default="", help="variants whose name contains one of these, separated by commas")
    parser.add_argument("--check", action="store_true", help="fail when a promise is not kept")
    wanted = parser.parse_args()
    receiver = start(1, *python("receiver"))
    figures: dict[str, list[Run]] = {}
    try:
        named = wanted.only.split(",")
        chosen = [v for v in variants(f"http://127.0.0.1:{line(receiver)}") if any(part in v.name for part in named)]
        for turn in range(wanted.turns):
            for variant in chosen:
                found = rate(variant.command, wanted.sockets, wanted.seconds, variant.reply, variant.env)
                figures.setdefault(variant.name, []).append(found)
                print(
                    f"turn {turn + 1}: {variant.name:<44} {found.rate:>8,.0f} events/s {found.cpu_us:>6.1f} µs CPU, "
                    f"generator at {found.load:.0%}" + (f", {found.lost:,.0f} spans lost" if found.lost else ""),
                    flush=True,
                )
    finally:
        stop(receiver)
    return report(figures, check=wanted.check)


def report(figures: Mapping[str, Sequence[Run]], *, check: bool) -> int:
    """Print the medians and the promises; 1 if `check` and one is not reached, else 0."""
    rates = {name: statistics.median(run.rate for run in runs) for name, runs in figures.items()}
    cpu = {name: statistics.median(run.cpu_us for run in runs) for name, runs in figures.items()}
    print(f"\n{'median of all turns':<44} {'events/s':>9} {'µs CPU':>7} {'to bare':>8} {'to bare Node':>13}")
    for name, median in rates.items():
        beside = "".join(
            f"{median / rates[other]:>{width}.2f}" if other in rates else f"{'-':>{width}}"
            for other, width in ((BARE, 9), (BARE_NODE, 14))
        )
        print(f"{name:<44} {median:>9,.0f} {cpu[name]:>7.1f}{beside}")
    print()
    broken = []
    for level in LEVELS:
        ours = rates.get(f"Roundtrip, {level}")
        for peer, least in (
            (BARE, TO_BARE[level]),
            (f"Node, equal guarantees, {level}", TO_NODE[level]),
            ("Roundtrip, no receipts", RECEIPTS if level == LEVELS[0] else 0.0),
        ):
            if ours is None or peer not in rates or not least:
                continue
            ratio = ours / rates[peer]
            print(f"{level}, to {peer}: {ratio:.2f} (promised {least})")
            if ratio < least:
                broken.append(f"{level}, to {peer}: {ratio:.2f}, promised {least}")
    for promise in broken:
        print(f"not reached: {promise}")
    return 1 if check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
