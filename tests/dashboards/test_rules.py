"""Rules in mixin style, each alert with a runbook and a promtool test, and configurations that load."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dashboards.boards import ROOT, panels
from tests.stack.promtool import promtool
from tests.support.programs import require

RULES = ROOT / "prometheus"
TESTS = sorted((RULES / "tests").glob("*.yaml"))
HEADINGS = ["## Meaning", "## First look", "## Causes", "## Cure"]

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
    assert "$labels" in annotations["description"]
    assert annotations["runbook_url"] == f"{{{{ $externalURL }}}}/user/{alert['alert']}.md"


@every_alert
def test_alert_has_a_runbook(alert: dict[str, Any]) -> None:
    text = (ROOT / "runbooks" / f"{alert['alert']}.md").read_text()
    assert text.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## .+$", text, re.MULTILINE) == HEADINGS


@every_alert
def test_alert_is_tested_before_during_after_and_without_data(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    cases = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    own = [case for case in cases if case["name"] == name]
    assert len(own) == 1
    assert [bool(check.get("exp_alerts")) for check in own[0]["alert_rule_test"]] == [False, True, False]
    empty = next(case for case in cases if case["name"] == "no data")
    assert name in {check["alertname"] for check in empty["alert_rule_test"]}


def test_every_runbook_has_an_alert() -> None:
    assert {path.stem for path in (ROOT / "runbooks").glob("*.md")} == {alert["alert"] for alert in ALERTS}


def test_every_alert_is_guarded_by_a_panel() -> None:
    linked = {
        link["url"].removeprefix("$runbooks/").removesuffix(".md")
        for panel in panels()
        for link in panel.json.get("links", [])
    }
    assert {alert["alert"] for alert in ALERTS} <= linked
