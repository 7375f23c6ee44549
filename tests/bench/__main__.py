"""`make bench`: confirmed events per second through Roundtrip's whole path, beside servers that only emit.

Every variant runs in turn, several times over, and the figures are ratios of medians: these hold on a noisy machine,
the absolute ones do not. `--check` exits with 1 when a ratio that the project promises is not reached.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.bench.run import ROOT, line, python, rate, start, stop


@dataclass(frozen=True)
class Variant:
    name: str
    command: list[str]
    reply: str = "ack"
    env: Mapping[str, str] = field(default_factory=dict)


def variants(otlp: str) -> list[Variant]:
    on = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    tenth = on | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    found = [
        Variant("bare python-socketio", python("bare")),
        Variant("Roundtrip, telemetry off", python("roundtrip")),
        Variant("Roundtrip, 10 % of traces kept", python("roundtrip"), env=tenth),
        Variant("Roundtrip, 100 % of traces kept", python("roundtrip"), env=on),
        Variant("Roundtrip, no limits", python("roundtrip"), env={"BENCH_LIMITS": "off"}),
        Variant("Roundtrip, no receipts", python("roundtrip"), env={"BENCH_RECEIPTS": "never"}),
        Variant("Roundtrip, a receipt for each event", python("roundtrip"), env={"BENCH_RECEIPTS": "each"}),
    ]
    if (node := shutil.which("node")) is not None:
        found.append(Variant("bare Node socket.io", [node, str(ROOT / "tests" / "bench" / "bare.mjs")]))
    return found


PROMISES = {
    "Roundtrip, telemetry off": 2.0,
    "Roundtrip, 10 % of traces kept": 3.0,
    "Roundtrip, 100 % of traces kept": 1.0,
}
"""Least ratio to bare python-socketio."""

RECEIPTS = 0.85
"""Least ratio of receipts as shipped to none at all."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="fail when a promise is not kept")
    wanted = parser.parse_args()
    receiver = start(1, *python("receiver"))
    figures: dict[str, list[float]] = {}
    try:
        all_variants = variants(f"http://127.0.0.1:{line(receiver)}")
        for turn in range(wanted.turns):
            for variant in all_variants:
                found = rate(variant.command, wanted.sockets, wanted.seconds, variant.reply, variant.env)
                figures.setdefault(variant.name, []).append(found)
                print(f"turn {turn + 1}: {variant.name:<36} {found:>8,.0f} confirmed events/s", flush=True)
    finally:
        stop(receiver)
    return report(figures, check=wanted.check)


def report(figures: Mapping[str, list[float]], *, check: bool) -> int:
    medians = {name: statistics.median(found) for name, found in figures.items()}
    bare = medians["bare python-socketio"]
    node = medians.get("bare Node socket.io")
    print(f"\n{'median of all turns':<36} {'events/s':>9} {'to bare python-socketio':>24} {'to bare Node':>13}")
    for name, median in medians.items():
        beside = f"{median / node:>13.2f}" if node else f"{'-':>13}"
        print(f"{name:<36} {median:>9,.0f} {median / bare:>24.2f} {beside}")
    broken = [
        f"{name}: {medians[name] / bare:.2f}, promised {least:.1f}"
        for name, least in PROMISES.items()
        if medians[name] / bare < least
    ]
    receipts = medians["Roundtrip, a receipt for each event"] / medians["Roundtrip, no receipts"]
    spared = medians["Roundtrip, telemetry off"] / medians["Roundtrip, no receipts"]
    print(
        f"\nevents/s with a receipt for each event, to none at all: {receipts:.2f}; as shipped, to none: {spared:.2f}"
    )
    if spared < RECEIPTS:
        broken.append(f"receipts as shipped: {spared:.2f}, promised {RECEIPTS}")
    for promise in broken:
        print(f"not reached: {promise}")
    return 1 if check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
