"""`roundtrip migrate-store` moves an installation: links stay paired, the ledger is complete, `seq` goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support.postgres import value
from tests.support.program import BACKEND, ROOT, api, environment, running

FAST: dict[str, Any] = {"simulated_scan_after": 0.1, "simulated_speed": 20}


def migrate(source: str, target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BACKEND, "migrate-store", "--from", source, "--to", target],
        cwd=ROOT,
        env=environment(Path("unused")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_an_installation_moves_and_goes_on(tmp_path: Path, database: str) -> None:
    async with running(tmp_path / "old", **FAST) as program, api(program) as user:
        await user.link()
        before = await user.state("connected")
        ledger = await user.ledger()
        in_use = migrate(f"sqlite:{tmp_path / 'old'}", database)
        assert in_use.returncode == 1
        assert "in use by another backend" in in_use.stderr
        program.terminate()
        await program.ended()
    moved = migrate(f"sqlite:{tmp_path / 'old'}", database)
    assert moved.returncode == 0, moved.stderr
    assert f"moved 1 keys, {len(ledger)} events, 1 links" in moved.stdout
    again = migrate(f"sqlite:{tmp_path / 'old'}", database)
    assert (again.returncode, "holds data already: nothing was moved" in again.stderr) == (1, True)
    async with running(tmp_path / "new", store=database, **FAST) as program, api(program) as user:
        after = await user.state("connected")
        assert (after["linkId"], after["phoneNumber"]) == (before["linkId"], before["phoneNumber"])
        now = await user.ledger()
        assert [(event["id"], event["seq"], event["type"]) for event in now[: len(ledger)]] == [
            (event["id"], event["seq"], event["type"]) for event in ledger
        ]
        assert [event["seq"] for event in now] == list(range(1, len(now) + 1))
        await user.link("second")  # a new key beside those that were moved
        await user.state("connected", "second")
        assert "ledger_unbalanced" not in program.text()
    assert await value(database, "SELECT count(*) FROM keys") == 2


def test_wrong_arguments_are_one_clear_line(tmp_path: Path) -> None:
    for source, target, status, words in (
        ("redis:x", "postgresql://h/d", 2, "--from must be sqlite:DIR"),
        (f"sqlite:{tmp_path}", "mysql://h/d", 2, "--to must be postgresql://"),
        (f"sqlite:{tmp_path}", "postgresql://127.0.0.1:1/d", 1, "holds no outbox"),
    ):
        done = migrate(source, target)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (status, 1)
        assert words in done.stderr
