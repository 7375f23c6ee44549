"""The table of docs/links.md against the code: every code has its row, and its last cell is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from roundtrip.drivers import base as d
from roundtrip.events import PAYLOADS, EventType, Failure
from roundtrip.links import payloads, reasons
from roundtrip.links.machine import LIVE, Input
from roundtrip.links.record import LinkState
from roundtrip.links.transition_table import TABLE
from roundtrip.settings import Settings
from tests.support.program import ROOT

ROWS: Final = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (ROOT / "docs" / "links.md").read_text().split("## After a restart")[0].splitlines()
    if line.startswith("| ") and "`whatsapp_" in line
]
REPORTS_OF: Final[dict[Input, Sequence[d.Report]]] = {
    Input.LOGGED_OUT: [d.LoggedOutByPhone(number) for number in ("401", "403", "406", "?")],
    Input.BANNED: [d.TemporaryBan(code, None) for code in (0, 101, 102, 103, 104, 106)],
    Input.REFUSED: [d.ConnectFailed("400"), d.ConnectFailed("429")],
    Input.CONNECT_FAILED: [d.ConnectFailed("400"), d.ConnectFailed("pairing_code_refused")],
}
RETRIED: Final = LIVE | {LinkState.BANNED}


def documented() -> dict[tuple[str, str | None], list[str]]:
    """Event and reason code: the rows' last cells."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for _, event_cell, _, user_needed in ROWS:
        event, *codes = re.findall(r"`(\w+)`", event_cell)
        for code in codes or [None]:
            found.setdefault((event, code), []).append(user_needed)
    return found


def published() -> dict[tuple[str, str | None], LinkState]:
    """Event and reason code: the state that the event reports."""
    pairs: dict[tuple[str, str | None], LinkState] = {}
    for (_, cause), move in TABLE.items():
        if move.event is None:
            continue
        failure = issubclass(PAYLOADS[move.event], Failure)
        for report in REPORTS_OF.get(cause) or (None,):
            for paired in (True, False):
                why = Input.FLAPPING if cause is Input.FLAPPING else cause
                code = payloads.reason_code(why, report, paired) if failure else None
                pairs[move.event.wire, code] = move.to
    return pairs


def test_every_event_and_code_has_a_row_and_every_row_exists() -> None:
    assert set(documented()) == set(published())


def test_every_reason_code_is_documented() -> None:
    text = (ROOT / "docs" / "links.md").read_text()
    assert {code for code in reasons.ADVICE if f"`{code}`" not in text} == set()


def test_whether_the_user_is_needed_is_true() -> None:
    for pair, users_needed in documented().items():
        event, code = pair
        if code is None:
            continue
        state = published()[pair]
        for user_needed in users_needed:
            if state in RETRIED:
                assert user_needed == "no", pair
                advice = reasons.advice(code, retrying=state in LIVE, device=None)
                assert "Press" not in advice.user_action, pair
            elif (event, code) != (EventType.LOGGED_OUT.wire, "cancelled"):
                assert user_needed != "no", pair


def test_the_settings_that_are_named_exist() -> None:
    for row in ROWS:
        for name in re.findall(r"`([A-Z][A-Z_]+)`", " ".join(row)):
            assert name.lower() in Settings.model_fields, name
