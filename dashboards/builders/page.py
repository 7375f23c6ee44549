"""A dashboard's frame: variables, links to the other dashboards, annotations."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from dashboards.builders.links import explore_traces
from dashboards.builders.panels import BLUE, GREEN, METRICS, PURPLE, RED
from dashboards.builders.promql import SELECTOR

DASHBOARDS: Final = {
    "roundtrip-socket-mapping": "Socket mapping",
    "roundtrip-delivery": "Delivery",
    "roundtrip-whatsapp-links": "WhatsApp links",
    "roundtrip-backend": "Backend",
}
"""Titles by uid. Uids are fixed: alerts, runbooks and bookmarks lead to them."""


_BUILD: Final = f"max by (version) (roundtrip_build_info{{{SELECTOR}}}"

ANNOTATIONS: Final = (
    ("Faults switched on", PURPLE, f"max by (fault) (roundtrip_fault_active{{{SELECTOR}}}) > 0"),
    ("Process started", BLUE, f"max by (instance) (time() - process_start_time_seconds{{{SELECTOR}}} < 60)"),
    ("Version changed", GREEN, f"{_BUILD}) unless {_BUILD} offset 5m)"),
    (
        "Alerts that fire",
        RED,
        'max by (alertname, severity) (ALERTS{alertname=~"Roundtrip.+",severity!="info",alertstate="firing"})',
    ),
)
"""What happened beside what a panel shows: name, colour, and the query that is not empty while it does."""


def page(uid: str, description: str, *, event_types: bool = True, keys: bool = False) -> dashboard.Dashboard:
    """A dashboard with the variables, links and annotations that all share; `keys` adds a variable for one key."""
    board = (
        dashboard.Dashboard(f"Roundtrip / {DASHBOARDS[uid]}")
        .uid(uid)
        .description(description)
        .tags(["roundtrip"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .type("prometheus")
            .label("Metrics")
            .current(model.VariableOption(selected=True, text="Prometheus", value="prometheus"))
        )
        .with_variable(
            dashboard.DatasourceVariable("logs")
            .type("loki")
            .label("Logs")
            .current(model.VariableOption(selected=True, text="Loki", value="loki"))
        )
        .with_variable(_choice("job", "label_values(roundtrip_build_info, job)", "Job"))
        .with_variable(_choice("instance", 'label_values(roundtrip_build_info{job=~"$job"}, instance)', "Instance"))
    )
    if event_types:
        board.with_variable(_choice("type", f"label_values(roundtrip_events_pending{{{SELECTOR}}}, type)", "Event"))
    if keys:
        board.with_variable(
            dashboard.TextBoxVariable("key")
            .label("Key's hash")
            .description("Narrows the log lines to one user's bot: the hash that log lines and spans have as its key.")
            .default_value("")
        )
    board.with_variable(dashboard.ConstantVariable("admin").label("The admin listener").value("http://127.0.0.1:9464"))
    for other, title in DASHBOARDS.items():
        if other != uid:
            board.link(
                dashboard.DashboardLink(title)
                .type(model.DashboardLinkType.LINK)
                .url(f"/d/{other}")
                .icon("dashboard")
                .keep_time(True)
                .include_vars(True)
            )
    board.link(
        dashboard.DashboardLink("Traces of misses")
        .type(model.DashboardLinkType.LINK)
        .url(explore_traces("{ span.roundtrip.miss.reason != nil }"))
        .icon("bolt")
        .target_blank(True)
    )
    for name, color, expr in ANNOTATIONS:
        board.annotation(
            dashboard.AnnotationQuery().name(name).datasource(METRICS).enable(True).icon_color(color).expr(expr)
        )
    return board


def _choice(name: str, query: str, label: str) -> dashboard.QueryVariable:
    """A variable with every value chosen unless a person narrows it."""
    return (
        dashboard.QueryVariable(name)
        .datasource(METRICS)
        .query({"query": query, "refId": "A"})
        .label(label)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
