"""Draws a dashboard over a running Prometheus with Grafana's own components, where no Grafana can be had.

    cd dashboards/render && npm ci
    python dashboards/render/picture.py http://127.0.0.1:9090 socket-mapping docs/pictures/socket-mapping.png

The panels, their queries and their settings are those of the generated JSON. Heatmaps and log
tables are left out, and plain tables are drawn plainly.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from operator import itemgetter
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
DRAWN = {"row", "stat", "timeseries", "table"}
EVERYTHING = {"job": ".+", "instance": ".+", "type": ".+"}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def ask(prometheus: str, path: str, **params: str) -> list[dict[str, Any]]:
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(params)}"
    with urllib.request.urlopen(url, timeout=20) as response:  # noqa: S310  # the address that the caller gave
        result: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return result


def filled(expr: str, seconds: int, step: int) -> str:
    """The query as Grafana sends it: variables replaced."""
    expr = expr.replace("$__rate_interval", f"{max(4 * step, 20)}s")
    expr = expr.replace("$__range_s", str(seconds)).replace("$__range", f"{seconds}s")
    for name, value in EVERYTHING.items():
        expr = expr.replace(f"${name}", value)
    return expr


def named(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend).replace("__auto", "")


def data(prometheus: str, panel: dict[str, Any], start: float, end: float, step: int) -> dict[str, Any]:
    """What a panel shows: series over time, or rows of a table."""
    series: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for target in panel.get("targets", []):
        expr = filled(target["expr"], int(end - start), step)
        if target.get("instant"):
            found = [(one["metric"], [one["value"]]) for one in ask(prometheus, "query", query=expr, time=str(end))]
        else:
            times = {"start": str(start), "end": str(end), "step": str(step)}
            found = [(one["metric"], one["values"]) for one in ask(prometheus, "query_range", query=expr, **times)]
        for labels, points in found:
            values = [[when, None if value == "NaN" else float(value)] for when, value in points]
            series.append({"name": named(target["legendFormat"], labels), "points": values})
            rows.append(labels | {"Value": values[-1][1]})
    for transformation in panel.get("transformations", []):
        rows = [organized(row, transformation["options"]) for row in rows]
    for sort in panel.get("options", {}).get("sortBy", []):
        rows.sort(key=itemgetter(sort["displayName"]), reverse=sort["desc"])
    return {"panel": panel, "series": series, "rows": rows}


def organized(row: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Grafana's transformation `organize`: columns hidden and renamed."""
    return {options["renameByName"].get(k, k): v for k, v in row.items() if not options["excludeByName"].get(k)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus")
    parser.add_argument("dashboard")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--until", type=float, help="seconds since the epoch; the present if left out")
    parser.add_argument("--width", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=1000, help="grid rows from the top to draw")
    asked = parser.parse_args()
    board = json.loads((HERE.parent / "grafana" / f"{asked.dashboard}.json").read_text())
    end = asked.until or time.time()
    start = end - asked.minutes * 60
    step = max(1, int((end - start) / 240))
    chosen = [
        panel
        for panel in board["panels"]
        if panel["type"] in DRAWN
        and panel.get("datasource", {}).get("type") != "loki"
        and panel["gridPos"]["y"] + panel["gridPos"]["h"] <= asked.rows
    ]
    shown = [data(asked.prometheus, panel, start, end, step) for panel in chosen]
    page = {"width": asked.width, "from": start, "to": end, "panels": shown}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "app.js"
        flags = ["--bundle", "--jsx=automatic", "--format=iife", "--define:process.env.NODE_ENV='production'"]
        loaders = [f"--loader:.{ending}=dataurl" for ending in ("svg", "ttf", "woff", "woff2", "png")]
        command: list[str | Path] = [
            HERE / "node_modules/.bin/esbuild",
            HERE / "app.jsx",
            *flags,
            *loaders,
            f"--outfile={script}",
        ]
        subprocess.run([*command, "--log-level=error"], check=True)  # noqa: S603  # fixed arguments
        html = Path(folder) / "page.html"
        html.write_text(
            f"<!doctype html><div id=root></div><script>window.page={json.dumps(page)}</script>"
            "<link rel=stylesheet href=app.css><script src=app.js></script>"
        )
        height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in chosen) * 34 + 8
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            tab = browser.new_page(viewport={"width": asked.width, "height": height})
            tab.on("pageerror", lambda error: print(error))  # noqa: T201  # whoever draws must see it
            tab.goto(html.as_uri())
            tab.wait_for_timeout(1500)
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            tab.screenshot(path=asked.out)
            browser.close()


if __name__ == "__main__":
    main()
