"""The alerts that the process sees by itself are those of Prometheus: same names, severities, thresholds, windows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import alert_table
from roundtrip.api.debug import alerts
from roundtrip.api.debug.active import Alerts
from roundtrip.api.debug.alert_table import ALERTS as TABLE
from roundtrip.api.debug.alerts import RULES, UNSEEN, Situation
from roundtrip.api.debug.readings import INTERVAL, WINDOW, History, Reader
from roundtrip.label_sets import label_sets
from roundtrip.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]
FILE = yaml.safe_load((ROOT / "dashboards" / "prometheus" / "alerts.yaml").read_text())
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in FILE["groups"] for rule in group["rules"]}


class Process:
    """Metrics that a test moves, and readings of them, a second apart."""

    def __init__(self) -> None:
        self.metrics = Metrics(label_sets(), "1")
        self.sockets = 0
        self.reader = Reader(self.metrics, lambda: self.sockets)
        self.history = History(self.reader.columns, self.reader.bounds)
        self.at = 1_000_000.0
        for gauge in self.metrics.ready.values():
            gauge.set(1)
        self.metrics.store_up.set(1)
        self.faults: tuple[str, ...] = ()
        self.read()

    def read(self, seconds: float = INTERVAL) -> None:
        for _ in range(round(seconds / INTERVAL)):
            self.at += INTERVAL
            self.history.add(self.reader.read(self.at))

    @property
    def situation(self) -> Situation:
        return Situation(self.history, self.faults, 86_400.0, 1 << 30)


@pytest.fixture
def process() -> Process:
    return Process()


def test_each_alert_has_its_rule_or_a_reason_why_not() -> None:
    assert {rule.name for rule in RULES} | set(UNSEEN) == set(ALERTS)
    assert {rule.name for rule in RULES} & set(UNSEEN) == set()


def test_the_table_is_that_of_the_rules_file() -> None:
    assert alert_table.MODULE.read_text() == alert_table.render(), "run `make dashboards` and commit"
    assert set(TABLE) == set(ALERTS)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_the_table_says_what_the_rule_says(name: str) -> None:
    """Read in another way than the table is made: Prometheus' own units, and each figure stands in the rule's text."""
    theirs, ours = ALERTS[name], TABLE[name]
    assert ours.severity == theirs["labels"]["severity"]
    assert ours.summary == theirs["annotations"]["summary"]
    wait = re.fullmatch(r"(\d+)([sm])", theirs.get("for", "0m"))
    assert wait is not None
    assert ours.for_ == int(wait[1]) * {"s": 1, "m": 60}[wait[2]]
    if name not in UNSEEN:
        assert all(re.search(rf"[<>=] {limit:g}\b", theirs["expr"]) for limit in ours.limits)
        minutes = [f"{window / 60:g}m" if window < 3600 else f"{window / 3600:g}h" for window in ours.windows]
        assert all(f"{window}]" in theirs["expr"] or window in theirs["expr"] for window in minutes)
    assert (ROOT / "dashboards" / "runbooks" / f"{name}.md").is_file()


def lost(process: Process, reason: str, count: int = 1) -> None:
    process.metrics.missed_emits[reason][0].inc(count)
    process.metrics.missed["live"][0].inc(count)


def wrote(process: Process, seconds: float) -> None:
    process.metrics.outbox_write.observe(seconds)


def early(process: Process, count: int) -> None:
    for _ in range(count):
        process.metrics.socket_lifetime.observe(0.1)
        process.metrics.socket_connects["accepted"].inc()
        process.metrics.socket_disconnects["server disconnect"].inc()


MOVES: dict[str, Callable[[Process], None]] = {
    "RoundtripKeyMismatch": lambda p: lost(p, "key_mismatch", 3),
    "RoundtripMissedEmits": lambda p: lost(p, "just_disconnected", 5),
    "RoundtripUnmappedSockets": lambda p: p.metrics.socket_connects["accepted"].inc(),
    "RoundtripSocketChurn": lambda p: early(p, 5),
    "RoundtripAcksMissing": lambda p: lost(p, "ack_timeout", 3),
    "RoundtripHandshakesRefused": lambda p: p.metrics.socket_connects["unauthorized"].inc(20),
    "RoundtripEventLoopStalls": lambda p: p.metrics.event_loop_lag.observe(60.0),
    "RoundtripWorkerCrashes": lambda p: p.metrics.worker_exits["crashed"].inc(6),
    "RoundtripOutboxSlow": lambda p: wrote(p, 0.5),
    "RoundtripOutboxFailing": lambda p: p.metrics.outbox_failures.inc(),
    "RoundtripEventLoopBlocked": lambda p: p.metrics.event_loop_lag.observe(0.5),
    "RoundtripTaskDied": lambda p: p.metrics.task_failures.inc(),
    "RoundtripTelemetryDropped": lambda p: p.metrics.telemetry_dropped["traces"].inc(),
}


@pytest.mark.parametrize("name", sorted(MOVES))
def test_it_is_about_to_fire_then_fires_then_is_over_with_its_window(process: Process, name: str) -> None:
    seen = Alerts()
    assert seen.look(process.situation) == ()
    MOVES[name](process)
    process.read()
    wait = TABLE[name].for_
    found = {alert.name: alert for alert in seen.look(process.situation)}
    assert name in found, found
    assert found[name].firing is (wait == 0)
    for _ in range(round(wait / 15)):
        process.read(15)
        MOVES[name](process)
    process.read()
    assert next(alert.firing for alert in seen.look(process.situation) if alert.name == name)
    if name != "RoundtripUnmappedSockets":
        process.read(WINDOW)
        assert name not in {alert.name for alert in seen.look(process.situation)}


def firing(process: Process) -> set[str]:
    return {alert.name for alert in Alerts().look(process.situation)}


def test_one_key_mismatch_is_no_alert_one_that_repeats_is(process: Process) -> None:
    lost(process, "key_mismatch")
    process.read()
    assert "RoundtripKeyMismatch" not in firing(process)
    process.read(620)
    lost(process, "key_mismatch")
    process.read()
    assert "RoundtripKeyMismatch" in firing(process)


def test_a_few_unconfirmed_among_very_many_are_no_alert(process: Process) -> None:
    process.metrics.sent["live"][0].inc(1000)
    lost(process, "ack_timeout", 3)
    process.read()
    assert "RoundtripAcksMissing" not in firing(process)
    lost(process, "ack_timeout", 60)
    process.read()
    assert "RoundtripAcksMissing" in firing(process)


def test_what_is_a_state_holds_as_long_as_it_lasts(process: Process) -> None:
    states = {"client_outdated": 1}
    process.metrics.presence.links = lambda: states
    process.metrics.canary_failing.set(2)
    process.faults = ("drop_acks",)
    process.read()
    seen = Alerts()
    assert [alert.name for alert in seen.look(process.situation)] == [
        "RoundtripClientOutdated",
        "RoundtripCanaryFailing",
        "RoundtripFaultActive",
    ]
    states.clear()
    process.metrics.canary_failing.set(0)
    process.faults = ()
    process.read()
    assert seen.look(process.situation) == ()


def test_a_store_that_is_away_and_a_lease_that_is_not_renewed_are_seen(process: Process) -> None:
    cluster, ages = process.metrics.cluster, [4.0]
    cluster.lease, cluster.lease_age = 15.0, lambda: ages[0]
    seen = Alerts()
    process.read(60)
    assert seen.look(process.situation) == ()
    process.metrics.store_up.set(0)
    for ages[0] in (8.0, 4.0, 8.0, 4.0, 8.0, 4.0, 8.0):  # every other renewal comes late
        process.read(20)
        assert not any(alert.firing for alert in seen.look(process.situation) if alert.name == "RoundtripCanaryFailing")
    assert {alert.name for alert in seen.look(process.situation) if alert.firing} == {
        "RoundtripStoreDown",
        "RoundtripNodeLeaseOld",
    }
    process.metrics.store_up.set(1)
    ages[0] = 4.0
    process.read(70)
    assert seen.look(process.situation) == ()


def test_quantiles_are_those_of_prometheus(process: Process) -> None:
    for _ in range(90):
        wrote(process, 0.0007)
    for _ in range(10):
        wrote(process, 0.03)
    process.read()
    assert process.history.quantile("outbox_write", 0.5, 60) == pytest.approx(0.0005 + 0.0005 * 50 / 90)
    assert process.history.quantile("outbox_write", 0.95, 60) == pytest.approx(0.025 + 0.025 * 5 / 10)
    assert process.history.quantile("delivery", 0.5, 60) is None
    assert process.history.count("outbox_write", 60) == 100


def test_a_counter_counts_within_its_window_only(process: Process) -> None:
    lost(process, "key_mismatch", 3)
    process.read(10)
    assert process.history.increase("missed_key_mismatch", 60) == 3
    assert process.history.increase("missed_key_mismatch", 5) == 0
    process.read(WINDOW)
    assert len(process.history) == WINDOW / INTERVAL + 1
    assert process.history.increase("missed_key_mismatch", WINDOW) == 0
    assert alerts.pending_age(process.situation) == 0.0
