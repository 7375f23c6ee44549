"""Dashboards and rules against the catalogue: nothing is named that does not exist, nothing exists unused."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from tests.dashboards.boards import ROOT, metrics_in, panels
from tests.support.known import metrics

FROM_ELSEWHERE = re.compile(r"up|ALERTS|(otelcol|prometheus|alertmanager)_\w+|traces_span_metrics_\w+")
"""Made by Prometheus and Alertmanager themselves and by the collector; tests/stack asks the real ones for them."""

DERIVED = re.compile(r"_(bucket|count|sum)$")


@cache
def exposed() -> frozenset[str]:
    """The names of metrics in `/metrics`; those of histograms without their ending."""
    families = [line.split()[2:4] for line in _exposition().splitlines() if line.startswith("# TYPE")]
    ending = {"counter": "_total", "info": "_info"}
    return frozenset(name + ending.get(kind, "") for name, kind in families)


def _exposition() -> str:
    render: Callable[[CollectorRegistry], bytes] = generate_latest
    return render(metrics()).decode()


def _family(name: str) -> str:
    return name if name in exposed() else DERIVED.sub("", name)


@cache
def rules() -> list[dict[str, Any]]:
    files = (ROOT / "prometheus" / name for name in ("recording.yaml", "alerts.yaml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


@cache
def queries() -> dict[str, str]:
    """Every query of panels and rules by where it stands."""
    found = {f"{panel} [{number}]": query for panel in panels() for number, query in enumerate(panel.queries)}
    return found | {str(rule.get("record") or rule["alert"]): str(rule["expr"]) for rule in rules()}


@pytest.mark.parametrize("where", queries())
def test_every_named_metric_exists(where: str) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for name in metrics_in(queries()[where]):
        if not FROM_ELSEWHERE.fullmatch(name):
            assert name in recorded or _family(name) in exposed(), f"{where} names {name}"


def test_every_metric_is_used() -> None:
    used = {_family(name) for query in queries().values() for name in metrics_in(query)}
    assert not exposed() - used


def test_every_recording_rule_is_used() -> None:
    used = {name for query in queries().values() for name in metrics_in(query)}
    assert not {rule["record"] for rule in rules() if "record" in rule} - used
