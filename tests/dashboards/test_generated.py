"""The committed JSON is what the builders make, and Grafana's own model of a dashboard understands all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.__main__ import BUILDERS, FOLDER, files
from tests.dashboards.boards import boards

UIDS = {
    "socket-mapping": "roundtrip-socket-mapping",
    "delivery": "roundtrip-delivery",
    "whatsapp-links": "roundtrip-whatsapp-links",
    "backend": "roundtrip-backend",
}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_committed_file_is_what_the_builders_make(path: Path) -> None:
    assert path.read_text() == files()[path](), "run `make dashboards` and commit"


def test_there_is_no_file_without_a_builder() -> None:
    assert {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.json")} == set(BUILDERS)


def test_uids_are_fixed() -> None:
    assert {name: board["uid"] for name, board in boards().items()} == UIDS


@pytest.mark.parametrize("name", UIDS)
def test_nothing_is_lost_in_grafanas_own_model(name: str) -> None:
    """The model is generated from Grafana's schema: a field that it does not know would not come back."""
    board = boards()[name]
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    assert _without_null(again) == _without_null(board)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value
