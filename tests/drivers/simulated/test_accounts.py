"""The names that others use of the simulated driver, and its made-up accounts, codes and key files."""

from __future__ import annotations

import base64
import re
import sqlite3
from pathlib import Path

from roundtrip.drivers import simulated
from roundtrip.drivers.simulated import (
    SimulateAction,
    SimulatedAccount,
    SupportsSimulate,
    made_up_account,
    pairing_code,
    qr_text,
)
from roundtrip.drivers.simulated.driver import SimulatedDriver
from roundtrip.drivers.simulated.phone import SimulatedSession

ADA = SimulatedAccount("+14155550142", "Ada Costa")


def test_codes_look_real_and_never_repeat() -> None:
    codes = {qr_text() for _ in range(50)}
    assert len(codes) == 50
    for code in codes:
        assert code.startswith("2@")
        assert len(code.split(",")) == 4
    assert re.fullmatch(r"[1-9A-HJ-NP-TV-Z]{4}-[1-9A-HJ-NP-TV-Z]{4}", pairing_code())


def test_an_account_is_the_same_for_the_same_seed() -> None:
    assert made_up_account("a") == made_up_account("a")
    assert len({made_up_account(f"seed-{n}") for n in range(200)}) > 150


def test_every_action_is_played() -> None:
    assert set(SimulatedSession._ACTIONS) == set(SimulateAction)
    assert isinstance(SimulatedDriver(), SupportsSimulate)
    contract = "scan disconnect reconnect logout replace ban expire"
    assert set(contract.split()) <= {action.value for action in SimulateAction}


def test_the_key_file_holds_one_account(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    assert simulated.read_account(path) is None
    simulated.write_account(path, ADA)
    simulated.write_account(path, SimulatedAccount("+1", "Other"))
    assert simulated.read_account(path) == SimulatedAccount("+1", "Other")
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM account").fetchone() == (1,)
    db.execute("DELETE FROM account")
    db.commit()
    db.close()
    assert simulated.read_account(path) is None
    path.write_bytes(b"\xff" * 4000)
    assert simulated.read_account(path) is None


def test_the_actions_are_the_contracts() -> None:
    actions = (
        "scan disconnect reconnect logout replace ban expire degrade restore outdated crash hang unreachable "
        "connect_failure stream_error flap die_silently"
    )
    assert [action.value for action in SimulateAction] == actions.split()


def test_accounts_are_plausible_and_their_codes_have_the_shape_of_real_ones() -> None:
    accounts = [made_up_account(f"seed-{n}") for n in range(2000)]
    for account in accounts:
        assert re.fullmatch(r"\+1[2-8]\d{2}55501\d\d", account.phone_number)
        assert re.fullmatch(r"[A-Z][a-zöá]+ [A-Z][a-zöá]+", account.display_name)
    assert len({account.display_name for account in accounts}) == 120
    assert len({account.phone_number for account in accounts}) > 800
    assert made_up_account("\ud800") == made_up_account("\ud800"), "a seed with half a character has an account too"
    reference, *keys = qr_text().removeprefix("2@").split(",")
    assert [len(base64.b64decode(key, validate=True)) for key in keys] == [32, 32, 32]
    assert len(base64.b64decode(reference + "==", validate=True)) == 78
    assert len({pairing_code() for _ in range(50)}) == 50
