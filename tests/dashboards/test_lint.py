"""dashboard-linter's rules, and what a person needs who has never seen the dashboard before."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from tests.dashboards.boards import EXEMPLARS, ROOT, Panel, boards, metrics_in, panels, substituted
from tests.stack.promtool import promtool

PLAIN_COUNTERS = {
    # Exact counts are asked for here, which rate() and increase() cannot give: they extrapolate.
    "delivery: Ledger since the outbox began": "the ledger is shown as the outbox has it, since it began",
    "socket-mapping: Connected sockets against mapped keys": "come minus gone is what is there now",
    "backend: Background tasks that died": "any since the start matters, whatever the time range",
}
WITHOUT_INSTANCE = {
    "socket-mapping: Firing alerts": "alerts such as a missing backend have no instance",
    "backend: Collector: spans in and out": "the collector is another job",
    "backend: Collector: queues and memory": "the collector is another job",
    "backend: What observes": "the observers are other jobs",
    "backend: Alerts on their way": "Prometheus and Alertmanager are other jobs",
    "backend: Rules": "Prometheus is another job",
    "backend: Span durations": "made by the collector, by service",
}
CARRIERS = {*EXEMPLARS, "traces_span_metrics_duration_seconds_bucket"}

every_panel = pytest.mark.parametrize("panel", panels(), ids=str)


@every_panel
def test_panel_says_what_it_shows_what_is_bad_and_what_to_do(panel: Panel) -> None:
    assert panel.title
    shows, bad, do = panel.json["description"].split("\n\n")
    assert shows.endswith(".")
    assert bad.startswith("**Bad:** ")
    assert do.startswith("**Do:** ")
    assert panel.json["fieldConfig"]["defaults"]["unit"]


@every_panel
def test_panel_takes_its_data_source_from_a_variable(panel: Panel) -> None:
    assert panel.json["datasource"]["uid"] in {"$datasource", "$logs"}


@every_panel
def test_queries_look_at_the_chosen_backends(panel: Panel) -> None:
    for query in panel.queries:
        if str(panel) in WITHOUT_INSTANCE:
            assert "$instance" not in query, f"{panel} needs no exception"
            continue
        selectors = re.findall(r"\{([^}]*)\}", query)
        assert selectors
        assert all('job=~"$job",instance=~"$instance"' in selector for selector in selectors), query


@every_panel
def test_rates_follow_the_zoom(panel: Panel) -> None:
    for query in panel.queries:
        windows = re.findall(r"(?:rate|increase)\([^\[]*\[([^\]]+)\]", query)
        assert set(windows) <= {"$__rate_interval"}, query


@every_panel
def test_counters_are_never_shown_raw(panel: Panel) -> None:
    for query in panel.queries:
        counters = re.findall(r"\b(\w+(?:_total|_count|_bucket))\{", query)
        counters = [name for name in counters if not name.startswith("otelcol_exporter_queue")]
        if not counters:
            continue
        raw = not re.search(r"rate\(|increase\(|min_over_time\(", query)
        assert raw == (str(panel) in PLAIN_COUNTERS), query


@every_panel
def test_range_queries_ask_for_exemplars_where_there_are_some(panel: Panel) -> None:
    """Which series carry exemplars is seen in the running program, see tests/contract/test_exemplars.py."""
    for target in panel.json["targets"]:
        if panel.json["datasource"]["type"] == "prometheus" and target.get("range"):
            assert target["exemplar"] is bool(metrics_in(target["expr"]) & CARRIERS), target["expr"]


@every_panel
def test_every_series_has_a_name(panel: Panel) -> None:
    if panel.kind in {"timeseries", "bargauge", "heatmap"}:
        for target in panel.json["targets"]:
            assert target["legendFormat"] != "__auto"


@every_panel
def test_links_lead_somewhere(panel: Panel) -> None:
    links = panel.json.get("links", []) + panel.json["fieldConfig"]["defaults"].get("links", [])
    for link in links:
        url = unquote(link["url"])
        if url.startswith("/d/"):
            assert (ROOT / "grafana" / "runbooks" / f"{url.removeprefix('/d/')}.json").is_file(), url
        else:
            assert url.startswith("/explore?"), url


@pytest.mark.parametrize("name", boards())
def test_boards_lead_to_each_other_and_to_traces(name: str) -> None:
    urls = [link["url"] for link in boards()[name]["links"]]
    others = {f"/d/{board['uid']}" for other, board in boards().items() if other != name}
    assert others <= set(urls)
    assert any("miss.reason" in unquote(url) for url in urls)


@pytest.mark.parametrize("name", boards())
def test_panels_have_their_own_id_and_place(name: str) -> None:
    all_panels = boards()[name]["panels"]
    ids = [panel["id"] for panel in all_panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in all_panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, f"{panel['title']} overlaps"
        taken |= cells


def test_first_row_answers_whether_what_why_and_since_when() -> None:
    titles = [panel["title"] for panel in boards()["socket-mapping"]["panels"][:7]]
    assert titles == [
        "Are events missing their sockets now?",
        "Misses by a defect, last 5 minutes",
        "Nobody was there, last 5 minutes",
        "Why",
        "Which events",
        "Missing since",
        "Firing alerts",
    ]


def test_every_query_is_promql(tmp_path: Path) -> None:
    queries = {f"q:{number}": query for number, query in enumerate(q for panel in panels() for q in panel.queries)}
    rules = [{"record": name, "expr": substituted(query)} for name, query in queries.items()]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    result = subprocess.run([promtool(), "check", "rules", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
