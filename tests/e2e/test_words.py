"""What the page knows by heart: a picture for every state, words for every event and code, and colours one can read."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import product
from typing import Any

import pytest

from tests.support import known as program
from tests.support.program import ROOT
from tests.support.programs import require

WEB = ROOT / "backend" / "roundtrip" / "web"


def evaluate(module: str, expression: str) -> Any:
    """A JavaScript expression over a module of the page, `m`, as JSON."""
    node = require("node", "apt-get install nodejs")
    source = f"import * as m from {json.dumps((WEB / module).as_uri())}; console.log(JSON.stringify({expression}))"
    done = subprocess.run(
        [node, "--no-warnings", "--input-type=module", "-e", source], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_every_state_event_and_code_has_its_words() -> None:
    known = evaluate(
        "words.js",
        "{states: Object.keys(m.STATES), actions: Object.keys(m.PHONE_ACTIONS),"
        " titles: Object.keys(m.TITLES), errors: Object.keys(m.ERRORS)}",
    )
    assert set(known["states"]) == program.link_states() | {"unknown"}
    assert set(known["actions"]) == program.phone_actions()
    assert set(known["titles"]) == program.event_types()
    assert set(known["errors"]) >= program.refusals()


def test_history_does_not_move_the_state_back() -> None:
    view = "{state: 'connected', seq: 5, linkId: 'l', phoneNumber: '+1', displayName: 'Ada'}"
    old = "{seq: 4, type: 'whatsapp_qr', linkId: 'l', qr: 'x'}"
    assert evaluate("view.js", f"m.withEvent({view}, {old})")["state"] == "connected"
    new = "{seq: 6, type: 'whatsapp_degraded', linkId: 'l'}"
    after = evaluate("view.js", f"m.withEvent({view}, {new})")
    assert (after["state"], after["phoneNumber"], after["displayName"]) == ("degraded", "+1", "Ada")
    other = "{seq: 6, type: 'whatsapp_degraded', linkId: 'another'}"
    assert "phoneNumber" not in evaluate("view.js", f"m.withEvent({view}, {other})")
    ended = "{seq: 6, type: 'whatsapp_logged_out', linkId: 'l'}"
    assert "phoneNumber" not in evaluate("view.js", f"m.withEvent({view}, {ended})")


def palettes() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", (WEB / "style.css").read_text(), re.DOTALL)
    return {name: dict(re.findall(r"--([\w-]+): (#\w{6});", text)) for name, text in (("light", light), ("dark", dark))}


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(scheme: str) -> None:
    colours = palettes()[scheme]
    tones = ("good", "wait", "warn", "bad")
    pairs = [
        *product(("ink", "soft", "accent", *tones), ("paper", "card")),
        *((tone, f"{tone}-wash") for tone in tones),
        ("soft", "sunken"),
        ("accent-ink", "accent"),
        ("accent-ink", "accent-hover"),
    ]
    assert {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in pairs} == {
        pair: pytest.approx(21, abs=16.5)  # 4.5 to 37.5: AA for text
        for pair in pairs
    }
    for ground in ("paper", "card"):
        assert contrast(colours["edge"], colours[ground]) >= 3  # AA for the outlines of controls


def test_nothing_of_the_page_is_inline_or_from_elsewhere() -> None:
    page = (WEB / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)", page)
    for path in (
        path for path in WEB.rglob("*") if path.is_file() and path.suffix != ".map" and "vendor" not in path.parts
    ):
        foreign = set(re.findall(r"https?://[^\s\"'<>)]+", path.read_text()))
        assert foreign <= {"http://www.w3.org/2000/svg"}, path.name


def test_the_connection_says_how_it_goes_and_to_which_node() -> None:
    words = evaluate(
        "words.js",
        "[{}, {transport: 'websocket'}, {transport: 'polling', node: 'node-2'}]"
        ".map((one) => m.connectionWords({status: 'connected', ...one})[1])",
    )
    assert words == ["Live", "Live via websocket", "Live via polling on node-2"]
