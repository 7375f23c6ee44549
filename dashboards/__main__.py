"""`python -m dashboards` writes the dashboards' JSON, the rules of Kubernetes and the console's table of alerts;
`--check` only says which files differ."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import alert_table
from dashboards.builders import backend_health, delivery, kubernetes, runbooks, socket_mapping, whatsapp_links

FOLDER: Final = Path(__file__).parent / "grafana"

BUILDERS: Final[dict[str, Callable[[], Dashboard]]] = {
    "socket-mapping.json": socket_mapping.build,
    "delivery.json": delivery.build,
    "whatsapp-links.json": whatsapp_links.build,
    "backend.json": backend_health.build,
    **runbooks.builders(),
}


RULES: Final = Path(__file__).parents[1] / "deploy" / "kubernetes" / "monitoring" / "rules.yaml"


def files() -> dict[Path, Callable[[], str]]:
    """Every file that is written, and what makes its text."""
    others = {RULES: kubernetes.prometheus_rule, alert_table.MODULE: alert_table.render}
    return {FOLDER / name: partial(render, name) for name in BUILDERS} | others


def render(name: str) -> str:
    """The text of one dashboard's file."""
    board = BUILDERS[name]().build()
    for number, panel in enumerate(board.panels or (), start=1):
        panel.id_val = number  # links to a single panel need an id that stays
    return JSONEncoder(sort_keys=True, indent=2).encode(board) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a file differs")
    check = parser.parse_args().check
    stale = []
    for path, make in files().items():
        text = make()
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(path.name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    if stale:
        sys.stdout.write(f"{'differs' if check else 'written'}: {', '.join(stale)}\n")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
