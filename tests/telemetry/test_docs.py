"""The catalogue in the documentation is the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import Metric

from tests.support.known import metrics

DOC = Path(__file__).parents[2] / "docs" / "telemetry.md"
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", re.MULTILINE)


def row(family: Metric) -> tuple[str, str, str, str]:
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = sorted({label for sample in family.samples for label in sample.labels if label != "le"})
    name = family.name.removeprefix("roundtrip_").removesuffix("_total") + suffix
    return name, family.type, ", ".join(f"`{label}`" for label in labels) or "-", family.documentation


def test_every_metric_has_its_row_and_no_row_is_made_up() -> None:
    own = [family for family in metrics().collect() if family.name.startswith(("roundtrip_", "http_"))]
    assert _ROW.findall(DOC.read_text()) == [row(family) for family in own]
