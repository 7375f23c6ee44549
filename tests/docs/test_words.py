"""Texts are in the field's terms: phrases that were rewritten once do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from roundtrip.cli import help_text
from tests.support.program import ROOT

SAY = {
    "run out": "expired",
    "runs out": "expires",
    "not let in": "refused",
    "the phone said yes": "paired",
    "what arrived": "event log",
    "rarer ends": "other outcomes",
    "die in silence": "stop responding",
    "what helps": "remediation",
    "that was too often": "too many requests",
    "(ask|asked|connect|connects) too often": "too many requests",
    "gets up": "page someone",
    "books balance": "the ledger balances",
    "what stands against": "how it is prevented",
    "whose fault": "cause",
    "nobody's news": "not reported",
    "they are gone when": "expired",
}
"""What was written, and the term of the field for it."""

TEXTS = sorted(
    {
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/*api.json"),
        *ROOT.glob("dashboards/runbooks/*.md"),
    }
)
SOURCES = sorted((ROOT / "backend" / "roundtrip").rglob("*.py"))
"""Of these, only what is shown: strings in quotes. The page's own words are tested with the page."""


def found(text: str) -> list[str]:
    plain = re.sub(r"\s+", " ", text.lower())
    return [f"{phrase!r}: say {term!r}" for phrase, term in SAY.items() if re.search(rf"\b{phrase}\b", plain)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_the_fields_terms(path: Path) -> None:
    assert found(path.read_text()) == []


def test_messages_and_help_use_the_fields_terms() -> None:
    assert found(help_text()) == []
    shown = {
        str(path.relative_to(ROOT)): wrong
        for path in SOURCES
        if (wrong := [line for text in re.findall(r'(?<!")"([^"\n]+)"(?!")', path.read_text()) for line in found(text)])
    }
    assert shown == {}


def test_a_phrase_is_found_over_the_end_of_a_line() -> None:
    assert found("The token has run\nout.") == ["'run out': say 'expired'"]
