"""The names that others use of the simulated driver, and its made-up accounts, codes and key files."""

from __future__ import annotations

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
from roundtrip.drivers.simulated.driver import SimulatedDriver, SimulatedSession

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
