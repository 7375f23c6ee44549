"""Links that lead from a panel into the traces behind it."""

from __future__ import annotations

import json
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import dashboard

TRACES_UID: Final = "tempo"
"""Fixed by the provisioning, so that links can name it."""


def explore_traces(traceql: str) -> str:
    """The address of Tempo in Explore with a TraceQL query, or a trace id, over the dashboard's time range."""
    query = {
        "refId": "A",
        "datasource": {"type": "tempo", "uid": TRACES_UID},
        "queryType": "traceql",
        "limit": 20,
        "query": traceql,
    }
    pane = {
        "a": {"datasource": TRACES_UID, "queries": [query], "range": {"from": "${__from}", "to": "${__to}"}},
    }
    # Grafana fills ${…} in before the address is parsed, so these characters stay as they are
    panes = quote(json.dumps(pane, separators=(",", ":")), safe="${}:,_.")
    return f"/explore?schemaVersion=1&orgId=1&panes={panes}"


def traces_link(title: str, traceql: str) -> dashboard.DashboardLink:
    """A panel's or a value's link to the traces that `traceql` finds."""
    return dashboard.DashboardLink(title).url(explore_traces(traceql)).target_blank(True)
