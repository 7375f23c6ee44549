"""Runbooks as pages: a dashboard each, so that Grafana renders them under a fixed address, `/d/<alert's name>`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard, text
from grafana_foundation_sdk.models import text as text_model

SOURCES: Final = Path(__file__).parents[1] / "runbooks"


def builders() -> dict[str, Callable[[], dashboard.Dashboard]]:
    """By the file that each is written to."""
    return {f"runbooks/{path.stem}.json": partial(build, path) for path in sorted(SOURCES.glob("*.md"))}


def build(path: Path) -> dashboard.Dashboard:
    """The page of one runbook, from its Markdown; its heading is the alert's name."""
    name, _, rest = path.read_text().partition("\n")
    return (
        dashboard.Dashboard(f"Runbook / {name.removeprefix('# ')}")
        .uid(path.stem)
        .tags(["roundtrip-runbook"])
        .readonly()
        .link(dashboard.DashboardLink("All runbooks").url("/dashboards?tag=roundtrip-runbook"))
        .with_panel(
            text.Panel()
            .title(path.stem)
            .description("What the alert means and what to do about it.")
            .mode(text_model.TextMode.MARKDOWN)
            .content(rest.strip())
            .span(24)
            .height(30)
        )
    )
