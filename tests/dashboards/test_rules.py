"""Rules in mixin style, each alert with a runbook and a promtool test, and configurations that load."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.boards import ROOT, boards, metrics_in, panels
from tests.stack.promtool import promtool
from tests.support.programs import require

RULES = ROOT / "prometheus"
TESTS = sorted((RULES / "tests").glob("*.yaml"))
HEADINGS = [
    "## Impact",
    "## Meaning",
    "## First look",
    "## Queries",
    "## Causes",
    "## Cure",
    "## Cured when",
    "## Wake somebody",
]

GRAFANA = "http://127.0.0.1:3000"

ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_passes(path: Path) -> None:
    _run(promtool(), "test", "rules", path)


def test_configurations_load() -> None:
    _run(promtool(), "check", "config", "--syntax-only", "prometheus.yml")
    _run(require("amtool", "apt-get install prometheus-alertmanager"), "check-config", "alertmanager.yml")


@every_alert
def test_alert_is_in_mixin_style(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"Roundtrip([A-Z][a-z]+)+", alert["alert"])
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    annotations = alert["annotations"]
    assert re.fullmatch(r"[A-Z].+\.", annotations["summary"])
    assert "{{" not in annotations["summary"]
    assert "$labels" in annotations["description"] or alert["alert"] == "RoundtripWatchdog"
    assert annotations["runbook_url"] == f"{GRAFANA}/d/{alert['alert']}"


@every_alert
def test_alert_leads_to_the_dashboard_of_its_time_and_to_the_log(alert: dict[str, Any]) -> None:
    address = alert["annotations"]["dashboard_url"]
    board = re.match(rf"{GRAFANA}/d/([a-z-]+)\?var-instance=", address)
    assert board is not None
    assert board[1] in {one["uid"] for one in boards().values()}
    assert "&from={{" in address
    assert "&to={{" in address
    assert alert["annotations"]["log_query"].startswith('{service_name="roundtrip"}')


@every_alert
def test_alert_has_a_runbook(alert: dict[str, Any]) -> None:
    text = (ROOT / "runbooks" / f"{alert['alert']}.md").read_text()
    assert text.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## .+$", text, re.MULTILINE) == HEADINGS


CASES: dict[str, dict[str, Any]] = {
    case["name"]: case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]
}


@every_alert
def test_alert_is_tested_before_during_after_without_data_and_on_an_ordinary_day(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    fires = [bool(check.get("exp_alerts")) for check in CASES[name]["alert_rule_test"]]
    if name == "RoundtripWatchdog":  # it fires whatever is there, and is the only one that does
        assert fires == [True]
        return
    assert (fires[0], fires.count(True), fires[-1]) == (False, 1, False), "silent before, firing, silent after"
    for quiet in ("no data", "an ordinary day"):
        checks = [check for check in CASES[quiet]["alert_rule_test"] if check["alertname"] == name]
        assert checks, f"{quiet} does not ask for it"
        assert quiet == "no data" or not any(check.get("exp_alerts") for check in checks)


def test_on_an_ordinary_day_every_rule_has_what_it_looks_at() -> None:
    """A rule that finds no series is silent for the wrong reason."""
    held = {series["series"].partition("{")[0] for series in CASES["an ordinary day"]["input_series"]}
    looked_at = {name for alert in ALERTS for name in metrics_in(alert["expr"]) if ":" not in name}
    recording = yaml.safe_load((RULES / "recording.yaml").read_text())["groups"]
    recorded = {name for group in recording for rule in group["rules"] for name in metrics_in(rule["expr"])}
    missing = {name for name in looked_at | recorded if ":" not in name} - held
    assert missing <= SAME_AS_ANOTHER, "these are not in tests/ordinary.yaml"


SAME_AS_ANOTHER = {
    # of three signals, one stands for the others
    "otelcol_exporter_send_failed_log_records_total",
    "otelcol_exporter_send_failed_metric_points_total",
    "otelcol_exporter_enqueue_failed_log_records_total",
    "prometheus_notifications_errors_total",
}


def test_every_runbook_has_an_alert() -> None:
    assert {path.stem for path in (ROOT / "runbooks").glob("*.md")} == {alert["alert"] for alert in ALERTS}


def test_every_alert_is_guarded_by_a_panel() -> None:
    linked = {link["url"].removeprefix("/d/") for panel in panels() for link in panel.json.get("links", [])}
    assert {alert["alert"] for alert in ALERTS} <= linked
