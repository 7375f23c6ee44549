"""An older program's links.db: opened, brought to the present form, and nothing of it lost."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Final

import pytest
from msgspec.structs import astuple, replace

from roundtrip.identity import BotKey
from roundtrip.links.policy import Ban
from roundtrip.links.record import DeviceState, LinkRecord, LinkState, Removal
from roundtrip.links.storage import StoreError
from roundtrip.links.store import SCHEMA_VERSION, LinkStore
from tests.support.links import KEY, NAME, ONLINE, OTHER, PHONE, settle, staged, write_key_file

VERSION_1: Final = """
CREATE TABLE links (
  user_id TEXT NOT NULL, bot_id TEXT NOT NULL, link_id TEXT NOT NULL UNIQUE, state TEXT NOT NULL,
  since REAL NOT NULL, started_at REAL NOT NULL, phone_number TEXT, display_name TEXT,
  paired INTEGER NOT NULL, connected_before INTEGER NOT NULL, reason_code TEXT, banned_until REAL,
  also_linked INTEGER NOT NULL,
  PRIMARY KEY (user_id, bot_id)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""
"""As the first release made it. Never changed: it is what lies on people's disks."""

OLD: Final = [
    LinkRecord(KEY, "a" * 32, LinkState.CONNECTED, 20.5, 10.25, PHONE, NAME, True, True),
    LinkRecord(OTHER, "b" * 32, LinkState.BANNED, 21.0, 11.0, "+14155550199", "Ádá", True, False, "banned", 99.5, True),
    LinkRecord(BotKey.parse("user-3", "x"), "c" * 32, LinkState.QR_EXPIRED, 22.0, 12.0),
]


def version_1(folder: Path) -> None:
    db = sqlite3.connect(folder / "links.db")
    db.executescript(VERSION_1)
    with db:
        db.executemany(
            f"INSERT INTO links VALUES ({', '.join('?' * 13)})",  # noqa: S608  constant
            [(*r.key, *astuple(r)[1:12]) for r in OLD],
        )
    db.close()


def version(folder: Path) -> int:
    db = sqlite3.connect(folder / "links.db")
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


async def test_the_first_releases_records_are_kept(tmp_path: Path) -> None:
    version_1(tmp_path)
    store = LinkStore(tmp_path)
    assert await store.open() == OLD
    ended = replace(OLD[0], state=LinkState.LOGGED_OUT, device=DeviceState.REMOVING, retry_at=123.5)
    await store.save(ended)
    await store.save_removal(Removal(KEY, "a" * 32, PHONE, 1.0, 2.0))
    await store.save_ban(PHONE, Ban(101, 1.0, None, 5.0))
    await store.close()
    assert version(tmp_path) == SCHEMA_VERSION
    again = LinkStore(tmp_path)  # migrated once, not each time
    assert await again.open() == [ended, *OLD[1:]]
    assert await again.removals() == [Removal(KEY, "a" * 32, PHONE, 1.0, 2.0)]
    assert await again.bans(4.9) == {PHONE: Ban(101, 1.0, None, 5.0)}
    await again.close()


async def test_the_first_releases_accounts_are_restored(tmp_path: Path) -> None:
    version_1(tmp_path)
    (tmp_path / "sessions").mkdir()
    for record in OLD[:2]:
        write_key_file(tmp_path / "sessions" / record.store_name)
    async with staged(tmp_path, restore=False) as stage:
        restore = asyncio.create_task(stage.service.restore())
        await settle()
        assert stage.state(KEY) is LinkState.CONNECTING
        await stage.report(ONLINE)
        await restore
        assert stage.state(KEY) is LinkState.CONNECTED
        assert stage.service.snapshot(KEY).phone_number == PHONE
        # The end of its ban was long ago.
        assert stage.state(OTHER) is LinkState.BANNED
        await stage.clock.advance(2.0)
        assert stage.state(OTHER) is LinkState.CONNECTING


async def test_an_interrupted_migration_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("roundtrip.links.store._SCHEMA", "CREATE TABLE broken (")
        store = LinkStore(tmp_path)
        with pytest.raises(StoreError):
            await store.open()
        await store.close()
    assert version(tmp_path) == 1, "all of it or nothing"
    store = LinkStore(tmp_path)
    assert await store.open() == OLD
    await store.close()


@pytest.mark.parametrize("number", [-1, SCHEMA_VERSION + 1])
async def test_an_unknown_version_is_left_as_it_is(tmp_path: Path, number: int) -> None:
    version_1(tmp_path)
    db = sqlite3.connect(tmp_path / "links.db")
    db.execute(f"PRAGMA user_version = {number}")
    db.close()
    store = LinkStore(tmp_path)
    with pytest.raises(StoreError, match=f"schema version {number}, this program knows {SCHEMA_VERSION}"):
        await store.open()
    await store.close()
    assert version(tmp_path) == number


async def test_every_field_survives(tmp_path: Path) -> None:
    """One record per field, so that no column stands for another."""
    bare = LinkRecord(KEY, "l", LinkState.CONNECTING, 0.0, 0.0)
    changes: list[dict[str, object]] = [
        {"state": LinkState.FAILED},
        {"since": 1.5},
        {"started_at": 2.5},
        {"phone_number": PHONE},
        {"display_name": NAME},
        {"paired": True},
        {"connected_before": True},
        {"reason_code": "banned"},
        {"banned_until": 3.5},
        {"also_linked": True},
        {"retry_at": 4.5},
    ]
    changes += [{"device": device} for device in DeviceState]
    assert {name for change in changes for name in change} == set(bare.__struct_fields__) - {"key", "link_id"}
    store = LinkStore(tmp_path)
    await store.open()
    records = [
        replace(bare, key=BotKey.parse("u", str(n)), link_id=str(n), **change) for n, change in enumerate(changes)
    ]
    for record in records:
        await store.save(record)
    await store.close()
    again = LinkStore(tmp_path)
    found = await again.open()
    assert {record.link_id: record for record in found} == {record.link_id: record for record in records}
    assert found[-1] == records[2], "the one that began last comes last"
    await again.close()


async def test_bans_that_are_over_or_lifted_are_deleted(tmp_path: Path) -> None:
    store = LinkStore(tmp_path)
    await store.open()
    bans = {"+1": Ban(101, 1.0, 5.0, 5.0), "+2": Ban(0, 2.0, None, 6.0), "+3": Ban(102, 2.0, 9.0, 9.0)}
    for number, ban in bans.items():
        await store.save_ban(number, ban)
    await store.delete_ban("+3")
    assert await store.bans(4.9) == {"+1": bans["+1"], "+2": bans["+2"]}
    assert await store.bans(5.0) == {"+2": bans["+2"]}
    assert await store.bans(0.0) == {"+2": bans["+2"]}, "deleted, not only left out"
    await store.close()


async def test_removals_are_read_in_the_order_of_their_requests(tmp_path: Path) -> None:
    store = LinkStore(tmp_path)
    await store.open()
    late, soon = Removal(KEY, "a", None, 9.0, 10.0), Removal(OTHER, "b", PHONE, 3.0, 99.0)
    for removal in (late, soon, replace(soon, until=100.0)):
        await store.save_removal(removal)
    assert await store.removals() == [replace(soon, until=100.0), late]
    await store.delete_removal("b")
    assert await store.removals() == [late]
    await store.close()


async def test_what_is_committed_is_on_the_disk(tmp_path: Path) -> None:
    """A crash of the machine loses no record: write-ahead log, flushed with each commit."""
    store = LinkStore(tmp_path)
    await store.open()
    db = store._db
    assert db is not None
    asked = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "busy_timeout")]
    assert asked == ["wal", 2, 5000]
    await store.check()
    await store.close()
    await store.close()  # twice is no error
    with pytest.raises(StoreError, match="not open"):
        await store.check()
