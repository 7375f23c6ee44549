"""The rules of Prometheus as the object that its Operator reads: the same groups, in a Kubernetes manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

RULES: Final = Path(__file__).parents[1] / "prometheus"
SOURCES: Final = ("recording.yaml", "alerts.yaml")
_HEAD: Final = "# Written by `make dashboards` from dashboards/prometheus: change it there.\n"


def groups() -> list[dict[str, Any]]:
    """The groups of all rule files, in order."""
    return [group for name in SOURCES for group in yaml.safe_load((RULES / name).read_text())["groups"]]


def prometheus_rule() -> str:
    """The manifest's text."""
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "roundtrip", "labels": {"app.kubernetes.io/name": "roundtrip"}},
        "spec": {"groups": groups()},
    }
    return _HEAD + yaml.dump(manifest, Dumper=_Readable, sort_keys=False, width=120, allow_unicode=True)


class _Readable(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)
