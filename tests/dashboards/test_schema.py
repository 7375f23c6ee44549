"""The dashboards against the schema of the Grafana release that the stack runs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, Final

import pytest
import yaml
from jsonschema import Draft7Validator, ValidationError

from tests.dashboards.boards import ROOT, boards
from tests.dashboards.grafana_schema import grafana_schema

pytestmark = pytest.mark.slow

Json = dict[str, Any]

_UNUSED: Final = "the SDK writes the fields of interval variables into every variable; Grafana reads them there only"
EXCEPTIONS: Final[dict[tuple[str, str], tuple[Json, str]]] = {
    ("AnnotationQuery", "expr"): (
        {"type": "string"},
        "the query of Prometheus' own annotations; the schema has the fields that are the same for every data source",
    ),
    ("VariableModel", "auto"): ({"type": "boolean"}, _UNUSED),
    ("VariableModel", "auto_count"): ({"type": "integer"}, _UNUSED),
    ("VariableModel", "auto_min"): ({"type": "string"}, _UNUSED),
}
"""Fields that the schema lacks, by definition and name: what is allowed there, and why. Everything else is held to it:
no definition allows a field that it does not name. It leaves open what belongs to plugins: panels' `options` and
`custom`, and `targets`; test_lint.py and the proof of the stack look at these."""


def validator(without: tuple[str, str] | None = None) -> Draft7Validator:
    """Grafana's schema with the exceptions, but for one."""
    schema = copy.deepcopy(grafana_schema())
    for (definition, field), (allowed, _reason) in EXCEPTIONS.items():
        if (definition, field) != without:
            fields = schema["definitions"][definition]["properties"]
            assert field not in fields, f"{definition}.{field} is in the schema now: the exception can go"
            fields[field] = allowed
    return Draft7Validator(schema)


def said(error: ValidationError) -> str:
    """The error with the branches below it, so that one sees what is wrong with a panel, not only that it is."""
    below = [said(one) for one in error.context or []]
    return "\n  ".join([f"{error.json_path}: {error.message[:300]}", *below])


@pytest.mark.parametrize("name", sorted(boards()))
def test_a_dashboard_is_what_grafana_calls_one(name: str) -> None:
    errors = [said(error) for error in validator().iter_errors(boards()[name])]
    assert not errors, "\n".join(errors)


@pytest.mark.parametrize("exception", EXCEPTIONS, ids=".".join)
def test_each_exception_is_needed(exception: tuple[str, str]) -> None:
    strict = validator(without=exception)
    assert any(not strict.is_valid(board) for board in boards().values())


def _first_panel(board: Json) -> Json:
    return next(one for one in board["panels"] if one["type"] != "row")


BROKEN: Final[dict[str, Callable[[Json], object]]] = {
    "a required field is misspelt": lambda board: board.update(schemaVersions=board.pop("schemaVersion")),
    "a panel's field is misspelt": lambda board: _first_panel(board).update(titel=_first_panel(board).pop("title")),
    "a panel has no type": lambda board: _first_panel(board).pop("type"),
    "a title is a number": lambda board: _first_panel(board).update(title=7),
    "a place is a text": lambda board: _first_panel(board)["gridPos"].update(w="12"),
    "an unknown colour mode": lambda board: _first_panel(board)["fieldConfig"]["defaults"].update(
        color={"mode": "sad"}
    ),
    "a threshold without a colour": lambda board: _first_panel(board)["fieldConfig"]["defaults"].update(
        thresholds={"mode": "absolute", "steps": [{"value": 1}]}
    ),
    "a link without a title": lambda board: board["links"][0].pop("title"),
    "an unknown kind of variable": lambda board: board["templating"]["list"][0].update(type="guess"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_dashboard_is_refused(what: str) -> None:
    board = copy.deepcopy(boards()["socket-mapping"])
    BROKEN[what](board)
    assert not validator().is_valid(board)


def test_the_schema_is_that_of_the_grafana_that_runs() -> None:
    image = yaml.safe_load((ROOT.parent / "docker-compose.yml").read_text())["services"]["grafana"]["image"]
    package = json.loads((ROOT / "schema" / "package.json").read_text())
    assert image.split("@")[0] == f"grafana/grafana:{package['devDependencies']['@grafana/schema']}"
