"""Sessions of this node end with its lease, before another node may start them; key files come back as they were."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from roundtrip.cluster.claims import Claimed, Claims
from roundtrip.cluster.fenced_driver import fenced
from roundtrip.cluster.key_vault import KeyVault
from roundtrip.cluster.link_store import PostgresLinkStore
from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report, Session, SessionSpec
from roundtrip.drivers.key_files import KeyFileState
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkRecord, LinkState, new_record
from roundtrip.links.storage import StoreError
from tests.outbox.contract.base import until
from tests.outbox.postgres.helpers import joined
from tests.support.postgres import value
from tests.support.tcp_proxy import tcp_proxy

KEY = BotKey("user", "bot")


class _Session:
    def __init__(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def logout(self) -> None:
        self.running = False

    async def alive(self) -> bool | None:
        return self.running


class _Driver:
    name = "fake"

    def __init__(self) -> None:
        self.sessions: list[_Session] = []

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> Session:
        self.sessions.append(_Session())
        return self.sessions[-1]

    async def close(self) -> None:
        pass


async def test_sessions_end_before_the_lease_does_and_none_starts_without_it(tmp_path: Path, database: str) -> None:
    """The store cannot be reached any more: nobody needs to tell."""
    port = int(database.rpartition(":")[2].partition("/")[0])
    async with tcp_proxy(port) as proxy:
        _, lease = await joined(database.replace(str(port), str(proxy.port)), seconds=2.0, answer_timeout=0.3)
        inner, reports, spec = _Driver(), list[Report](), SessionSpec("link", tmp_path / "keys", None)
        driver = fenced(inner, lease)
        lease.on_change = driver.lease_changed
        holding = asyncio.create_task(lease.hold())
        await driver.start(spec, reports.append)
        await asyncio.sleep(2.5)
        assert inner.sessions[0].running  # the lease is renewed
        proxy.silent = True
        await until(lambda: not inner.sessions[0].running)
        left = await value(database, "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM nodes")
        assert left > 0.1  # nobody else may start them yet
        assert reports == [d.WorkerDied(0)]
        with pytest.raises(OSError, match="lease"):
            await driver.start(spec, reports.append)
        await until(lambda: not lease.held)
        proxy.silent = False
        proxy.cut()
        await until(lambda: lease.held)
        await driver.start(spec, reports.append)
        assert inner.sessions[-1].running
        holding.cancel()
        await asyncio.wait((holding,))
        await lease.leave()


def _keys(path: Path, text: str) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE IF NOT EXISTS keys (text TEXT)")
    with db:
        db.execute("INSERT INTO keys VALUES (?)", (text,))
    db.close()


def _read(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return [row[0] for row in db.execute("SELECT text FROM keys")]
    finally:
        db.close()


async def _taken(store: PostgresLinkStore, key: BotKey = KEY, number: int = 100) -> Claimed:
    """Take a key's link for a store, as a start does."""
    claimed = (await Claims(store.tables).take(key, 1.0, number)).claimed
    assert claimed is not None
    store.hold(key, claimed.fence)
    return claimed


def _paired(record: LinkRecord) -> LinkRecord:
    return replace(record, state=LinkState.PAIRED, since=2.0, paired=True)


async def test_keys_are_stored_with_the_record_and_later_changes_soon(tmp_path: Path, database: str) -> None:
    base, lease = await joined(database)
    store = PostgresLinkStore(base, lease, tmp_path / "one", keep_every=0.05)
    assert await store.open() == []
    await _taken(store)
    record = new_record(KEY, 1.0)
    await store.save(record)
    path = store.key_file(record.link_id)
    _keys(path, "registered")
    assert await value(database, "SELECT count(*) FROM key_files") == 0
    await store.save(_paired(record))
    assert await value(database, "SELECT count(*) FROM key_files") == 1
    before = await value(database, "SELECT saved_at FROM key_files")
    held = sqlite3.connect(path)  # the library has it open, and what it wrote is in the log beside it
    with held:
        held.execute("INSERT INTO keys VALUES ('later')")
    async with asyncio.timeout(5):
        while await value(database, "SELECT saved_at FROM key_files") == before:
            await asyncio.sleep(0.02)
    other = PostgresLinkStore(base, lease, tmp_path / "two")
    await other.open()
    assert (await _taken(other)).record == _paired(record)
    await other.bring_back(record.link_id)
    assert _read(other.key_file(record.link_id)) == ["registered", "later"]
    held.close()
    await other.close()
    await store.close()
    await lease.leave()


async def test_a_file_of_ones_own_is_newer_than_its_copy_unless_another_had_it(tmp_path: Path, database: str) -> None:
    base, lease = await joined(database)
    record = new_record(KEY, 1.0)

    async def store(name: str) -> PostgresLinkStore:
        opened = PostgresLinkStore(base, lease, tmp_path / name, keep_every=3600)
        await opened.open()
        await opened.sweep(frozenset())
        await _taken(opened)
        await opened.bring_back(record.link_id)
        return opened

    one = await store("one")
    _keys(one.key_file(record.link_id), "first")
    await one.save(_paired(record))
    _keys(one.key_file(record.link_id), "not stored: killed")
    again = await store("one")
    assert _read(again.key_file(record.link_id)) == ["first", "not stored: killed"]
    two = await store("two")
    _keys(two.key_file(record.link_id), "of the second")
    await two.close()
    third = await store("one")
    assert _read(third.key_file(record.link_id)) == ["first", "of the second"]
    for opened in (one, again, third):
        opened._closed = True
        if opened._keeper is not None:
            opened._keeper.cancel()
        opened.tables.close()
    await lease.leave()


async def test_a_link_that_is_let_go_leaves_its_newest_keys_in_the_store_alone(tmp_path: Path, database: str) -> None:
    base, lease = await joined(database)
    store = PostgresLinkStore(base, lease, tmp_path / "one", keep_every=3600)
    await store.open()
    fence = (await _taken(store)).fence
    record = new_record(KEY, 1.0)
    _keys(store.key_file(record.link_id), "first")
    await store.save(_paired(record))
    _keys(store.key_file(record.link_id), "last")
    assert await store.let_go(KEY, frozenset({record.link_id})) == fence
    assert not store.key_file(record.link_id).exists()
    assert await Claims(store.tables).release(KEY, fence, None)
    with pytest.raises(StoreError, match="RT002"):
        await store.save(_paired(record))
    assert await value(database, "SELECT state FROM links") == "paired"
    [again] = await Claims(store.tables).claim([KEY])
    assert (again.record, again.reason, again.fence > fence) == (_paired(record), "handed_over", True)
    await store.bring_back(record.link_id)
    assert _read(store.key_file(record.link_id)) == ["first", "last"]
    await store.close()
    await lease.leave()


async def test_an_older_record_never_replaces_a_newer(tmp_path: Path, database: str) -> None:
    """A write whose connection was lost may still arrive."""
    base, lease = await joined(database)
    store = PostgresLinkStore(base, lease, tmp_path)
    await store.open()
    await _taken(store)
    record = new_record(KEY, 1.0)
    late = [[text] for text in (*record.key, *store.row(record))]
    await store.save(replace(record, state=LinkState.FAILED, since=2.0))
    await value(database, "SELECT save_links_1($1, $2, $3, $4, $5, $6, $7)", *late)
    assert await value(database, "SELECT state FROM links") == "failed"
    await store.close()
    await lease.leave()


async def test_a_node_without_its_lease_changes_no_record(tmp_path: Path, database: str) -> None:
    base, lease = await joined(database, "first", seconds=0.3)
    store = PostgresLinkStore(base, lease, tmp_path)
    await store.open()
    await _taken(store)
    await asyncio.sleep(0.4)
    _, other = await joined(database, "second")
    with pytest.raises(StoreError):
        await store.save(new_record(KEY, 1.0))
    assert await value(database, "SELECT count(*) FROM links") == 0  # nothing came of the start that it was taken for
    await store.close()
    await lease.leave()
    await other.leave()


async def test_a_file_that_is_none_is_not_stored(tmp_path: Path) -> None:
    vault = KeyVault(tmp_path)
    vault.open()
    vault.path("link.db").write_bytes(b"no database" * 100)
    assert await vault.read("link.db") is None
    assert await vault.read("missing.db") is None
    assert await vault.state("missing.db") is KeyFileState.MISSING
