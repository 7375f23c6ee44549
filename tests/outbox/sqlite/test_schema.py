"""The folder and the file: how they are opened, what is refused, who may read them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Attempt, MissReason, Mode
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.outbox.sqlite.schema import FILE_NAME, open_database
from tests.outbox.contract.base import until
from tests.outbox.sqlite.helpers import Open, seqs_are
from tests.support.drafts import CONNECTED, KEY, Clock, draft, end, qr, store


@contextmanager
def refused(why: str) -> Iterator[None]:
    """The outbox does not open, and the person who started it is told why."""
    with pytest.raises(OutboxError, match=why) as refusal:
        yield
    assert refusal.value.code == "outbox_unavailable"


async def test_everything_is_private(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    await open_outbox()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "data").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


async def test_it_is_durable_by_its_settings(open_outbox: Open) -> None:
    outbox = await open_outbox()

    async def pragma(name: str) -> object:
        return await outbox._read(lambda reader: reader._db.execute(f"PRAGMA {name}").fetchone()[0])

    assert [await pragma(name) for name in ("journal_mode", "synchronous", "secure_delete")] == ["wal", 2, 1]


async def test_attempts_that_an_older_version_wrote_are_read_and_go_on(open_outbox: Open, tmp_path: Path) -> None:
    outbox = await open_outbox()
    event = await store(outbox, draft(CONNECTED, Clock()))
    await outbox.close()
    db = sqlite3.connect(tmp_path / "data" / FILE_NAME)
    old = '[{"at":5,"mode":"live","reason":"key_mismatch","keys":["other"]}]'  # before there was `looked_for`
    with db:
        db.execute("UPDATE events SET attempts = ?", (old,))
    db.close()
    outbox = await open_outbox()
    (again,) = await outbox.pending(KEY, 0, 9)
    (attempt,) = again.attempts
    assert (attempt.reason, attempt.keys, attempt.looked_for) == (MissReason.KEY_MISMATCH, ("other",), None)
    later = Attempt(
        9, Mode.LIVE, reason=MissReason.OTHER_BOT_CONNECTED, keys=("b",), looked_for="0a", connected=("0b",)
    )
    outbox.record(KEY, 1, [attempt, later])
    entry = await outbox.find(event.id)
    assert entry is not None
    assert entry.attempts == (attempt, later)


async def test_a_second_backend_on_the_folder_is_refused(open_outbox: Open, tmp_path: Path, clock: Clock) -> None:
    outbox = await open_outbox()
    with pytest.raises(OutboxError) as refusal:
        await open_outbox()
    assert refusal.value.code == "outbox_unavailable"
    assert str(tmp_path / "data") in refusal.value.message
    assert str(os.getpid()) in refusal.value.message
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 1
    await outbox.close()
    again = await open_outbox()
    assert await again.last_seq(KEY) == 1


async def test_a_newer_schema_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    await (await open_outbox()).close()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with refused(r"newer version of this program \(schema 99"):
        await open_outbox()


async def test_a_database_of_another_program_is_refused_and_unchanged(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db")
    db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    with refused("not an outbox of this program"):
        await open_outbox()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db")
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("recipes",)]
    db.close()


async def test_a_corrupt_file_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "outbox.db").write_bytes(b"this was an outbox once" * 500)
    with refused(r"cannot be used: file is not a database"):
        await open_outbox()


async def test_a_torn_file_is_refused(open_outbox: Open, tmp_path: Path, clock: Clock) -> None:
    outbox = await open_outbox()
    for _ in range(200):
        outbox.append(draft(CONNECTED, clock), lambda _: None)
    await outbox.close()
    path = tmp_path / "data" / "outbox.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    with refused("malformed"):
        await open_outbox()


async def test_a_folder_that_cannot_be_created_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("Cannot write in the data folder"):
        await open_outbox(tmp_path / "file" / "data")
    (tmp_path / "data" / "outbox.db").mkdir(parents=True)
    with refused("Cannot write the outbox"):
        await open_outbox()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_without_permission_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    with refused("Permission denied"):
        await open_outbox(tmp_path / "data" / "deeper")


@pytest.mark.parametrize("before", [None, 0o666])
def test_only_the_owner_may_read_and_write_the_file(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / FILE_NAME
    if before is not None:
        path.touch()
        path.chmod(before)
    open_database(tmp_path).close()
    assert path.stat().st_mode & 0o7777 == 0o600


async def test_an_outbox_that_never_opened_refuses_every_call(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this was an outbox once" * 500)
    outbox = SqliteOutbox(tmp_path)
    for _ in range(2):  # before the start, and after one that failed
        with pytest.raises(OutboxError) as refusal:
            await store(outbox, draft(CONNECTED, Clock()))
        assert refusal.value.code == "outbox_unavailable"
        with pytest.raises(OutboxError) as refusal:
            await outbox.start()
        assert refusal.value.code == "outbox_unavailable"
        assert not outbox.full
    await outbox.close()


async def test_a_file_that_cannot_be_rewritten_is_used_as_it_is(
    open_outbox: Open, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = await open_outbox()
    event = await store(outbox, draft(CONNECTED, clock, ttl=10**9))
    await outbox.close()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA auto_vacuum=NONE")
    db.execute("VACUUM")
    db.close()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
    outbox = await open_outbox(retention=0.0)
    assert await outbox.pending(KEY, 0, 9) == [event]
    made = [store(outbox, draft(qr("x" * 2000), clock, supersede=False)) for _ in range(500)]
    for one in await asyncio.gather(*made):
        outbox.resolve(end(one, at=clock.ms))
    clock.pass_ms(100)
    await until(lambda: seqs_are(outbox, [1]))
    before = outbox._writer._next_sweep
    await until(lambda: outbox._writer._next_sweep > before)
    assert outbox._writer._next_sweep > time.monotonic()  # it does not sweep without end
