"""What is shown of a link while the store is away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from roundtrip.delivery import snapshots
from roundtrip.delivery.snapshots import Snapshots
from roundtrip.identity import BotKey
from roundtrip.links.payloads import Snapshot
from roundtrip.links.record import LinkState
from roundtrip.outbox.base import OutboxError
from tests.support.program import api, running
from tests.support.py_client import py_client

KEY, OTHER = BotKey("user", "bot"), BotKey("user", "other")
AWAY = OutboxError("store_unavailable", "away")


class Store:
    """A store, and the links of this node and of others."""

    def __init__(self) -> None:
        self.away = self.asked = False
        self.known: dict[BotKey, int] = {}
        self.here = {KEY}

    async def last_seq(self, key: BotKey) -> int:
        if self.away:
            raise AWAY
        return 7

    def known_seq(self, key: BotKey) -> int:
        return self.known.get(key, 0)

    async def check(self) -> None:
        self.asked = True
        if self.away:
            raise AWAY

    async def snapshot(self, key: BotKey, seq: int) -> Snapshot:
        if self.away and key not in self.here:
            raise AWAY
        return Snapshot(*key, "link", LinkState.CONNECTED, seq, "2026-01-01T00:00:00.000Z")


async def test_what_was_shown_last_is_shown_again_and_marked() -> None:
    store = Store()
    shown = Snapshots(store, store.snapshot)
    seq, fresh = await shown.read(OTHER)
    assert (seq, fresh.stale, store.asked) == (7, False, False)
    store.away = True
    seq, old = await shown.read(OTHER)
    assert (seq, old.stale, old.seq) == (7, True, 7)
    store.away = False
    assert await shown.read(OTHER) == (7, fresh)


async def test_a_link_of_this_node_is_known_if_its_seq_is() -> None:
    store = Store()
    shown = Snapshots(store, store.snapshot)
    store.away = True
    for key in (KEY, OTHER):
        with pytest.raises(OutboxError):
            await shown.read(key)
    store.known = {KEY: 3, OTHER: 3}
    seq, old = await shown.read(KEY)
    assert (seq, old.seq, old.stale) == (3, 3, True)
    with pytest.raises(OutboxError):  # how it is with a link of another node is not known, its seq says nothing of it
        await shown.read(OTHER)


async def test_a_bound_number_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "REMEMBERED", 2)
    store = Store()
    shown = Snapshots(store, store.snapshot)
    keys = [BotKey("user", str(number)) for number in range(3)]
    for key in (*keys[:2], keys[0], keys[2]):
        await shown.read(key)
    store.away = True
    for key in (keys[0], keys[2]):
        assert (await shown.read(key))[1].stale
    with pytest.raises(OutboxError):
        await shown.read(keys[1])


async def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    """The embedded store: a snapshot at a request, at a socket's request and at its connect, during and after."""
    async with running(tmp_path, simulated_scan_after=0.1, simulated_speed=20) as program, api(program) as user:
        await user.link()
        await user.state("connected")
        before = await user.snapshot()
        assert "stale" not in before
        await user.fault("outbox_down", on=True)
        with_mark = before | {"stale": True}
        async with asyncio.timeout(10):
            while await user.snapshot() != with_mark:
                await user.call("PUT", "/api/bots/other/link")  # it fails, and so becomes known
        async with py_client(program.url) as page:
            await page.io.emit("status")
            await page.until(lambda: len(page.snapshots) == 2)
            assert page.snapshots == [with_mark] * 2
            await user.fault("outbox_down", on=False)
            assert await user.snapshot() == before
            await page.io.emit("status")
            await page.until(lambda: len(page.snapshots) == 3)
            assert page.snapshots[2] == before
