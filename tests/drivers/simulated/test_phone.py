"""The simulated phone: its public actions, its accounts and its codes."""

from __future__ import annotations

import base64
import re

from roundtrip.drivers.simulated.script import SimulateAction, pairing_code, person_of, qr_text


def test_the_actions_of_the_simulated_phone_are_the_contracts() -> None:
    actions = (
        "scan disconnect reconnect logout replace ban expire degrade restore outdated crash hang unreachable "
        "connect_failure stream_error flap die_silently"
    )
    assert [action.value for action in SimulateAction] == actions.split()


def test_people_are_plausible_and_their_codes_have_the_real_ones_shape() -> None:
    people = [person_of(f"seed-{n}") for n in range(2000)]
    for someone in people:
        assert re.fullmatch(r"\+1[2-8]\d{2}55501\d\d", someone.phone_number)
        assert re.fullmatch(r"[A-Z][a-zöá]+ [A-Z][a-zöá]+", someone.display_name)
    assert len({someone.display_name for someone in people}) == 120
    assert len({someone.phone_number for someone in people}) > 800
    assert person_of("\ud800") == person_of("\ud800"), "a key with half a character has a phone too"
    reference, *keys = qr_text().removeprefix("2@").split(",")
    assert [len(base64.b64decode(key, validate=True)) for key in keys] == [32, 32, 32]
    assert len(base64.b64decode(reference + "==", validate=True)) == 78
    assert len({pairing_code() for _ in range(50)}) == 50
