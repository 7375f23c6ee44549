"""The generated dashboards as tests read them: panels, their queries, and what a query asks of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2] / "dashboards"

EVERYTHING: Final = {"job": ".+", "instance": ".+", "type": ".+"}
"""The variables as they stand when a dashboard is opened."""


@dataclass(frozen=True)
class Panel:
    """One panel; `board` is the file's name without its ending."""

    board: str
    title: str
    kind: str
    json: Mapping[str, Any]

    @property
    def queries(self) -> list[str]:
        """The PromQL of its targets, empty for other data sources."""
        if self.json["datasource"]["type"] != "prometheus":
            return []
        return [target["expr"] for target in self.json["targets"]]

    def __str__(self) -> str:
        return f"{self.board}: {self.title}"


@cache
def boards() -> dict[str, dict[str, Any]]:
    """Every dashboard by its file's name without its ending."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "grafana").glob("*.json"))}


def panels() -> list[Panel]:
    """Every panel but the rows."""
    return list(_panels())


def _panels() -> Iterator[Panel]:
    for name, board in boards().items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield Panel(name, panel["title"], panel["type"], panel)


def panel(board: str, title: str) -> Panel:
    """One panel by its name. Raises `LookupError`."""
    for found in panels():
        if (found.board, found.title) == (board, title):
            return found
    raise LookupError(f"there is no panel {title!r} on {board}")


def substituted(query: str, *, rate_interval: str = "20s", range_seconds: int = 300) -> str:
    """What Grafana sends: the query with its variables filled in."""
    query = query.replace("$__rate_interval", rate_interval).replace("$__range_s", str(range_seconds))
    query = query.replace("$__range", f"{range_seconds}s")
    for name, value in EVERYTHING.items():
        query = query.replace(f"${name}", value)
    assert "$" not in query, f"unknown variable in {query}"
    return query


EXEMPLARS = {
    "roundtrip_missed_emits_total",
    "roundtrip_delivery_seconds_bucket",
    "roundtrip_receipt_seconds_bucket",
    "roundtrip_ack_seconds_bucket",
}
"""The program's series that carry exemplars; tests/contract/test_exemplars.py compares with the running program."""

_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_OURS = re.compile(
    r"^(roundtrip_|http_server_|roundtrip:|process_|python_|traces_span_metrics_|otelcol_|prometheus_|alertmanager_|up$|ALERTS$)"
)


def metrics_in(query: str) -> set[str]:
    """The names of metrics and recording rules that a query mentions, matchers and label lists left out."""
    bare = re.sub(r"\{[^}]*\}", "{}", query)
    found = {word for word in _WORD.findall(bare) if _OURS.match(word)}
    found |= set(re.findall(r'__name__="([^"]+)"', query))
    for pattern in re.findall(r'__name__=~"([^"]+)"', query):
        if match := re.fullmatch(r"(\w*)\(([\w|]+)\)(\w*)", pattern):
            found |= {f"{match[1]}{middle}{match[3]}" for middle in match[2].split("|")}
    return found
