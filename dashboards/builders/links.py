"""Links that lead from a panel into the traces behind it."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard

TRACES_UID: Final = "tempo"
LOGS_UID: Final = "loki"
"""Fixed by the provisioning, so that links can name them."""


def explore_traces(traceql: str) -> str:
    """The address of Tempo in Explore with a TraceQL query, or a trace id, over the dashboard's time range."""
    source = {"type": "tempo", "uid": TRACES_UID}
    return _explore({"refId": "A", "datasource": source, "queryType": "traceql", "limit": 20, "query": traceql})


def explore_logs(logql: str) -> str:
    """The address of Loki in Explore with a LogQL query, over the dashboard's time range."""
    source = {"type": "loki", "uid": LOGS_UID}
    return _explore({"refId": "A", "datasource": source, "queryType": "range", "expr": logql})


def _explore(query: dict[str, Any]) -> str:
    uid = query["datasource"]["uid"]
    pane = {"a": {"datasource": uid, "queries": [query], "range": {"from": "${__from}", "to": "${__to}"}}}
    # Grafana fills ${…} in before the address is parsed, so these characters stay as they are
    panes = quote(json.dumps(pane, separators=(",", ":")), safe="${}:,_.")
    return f"/explore?schemaVersion=1&orgId=1&panes={panes}"


def traces_link(title: str, traceql: str) -> dashboard.DashboardLink:
    """A panel's or a value's link to the traces that `traceql` finds."""
    return dashboard.DashboardLink(title).url(explore_traces(traceql)).target_blank(True)
