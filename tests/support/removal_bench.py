"""What the tests of removals run on: a driver and a clock that they control, a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from roundtrip.drivers.base import SessionSpec
from roundtrip.links.policy import Bans
from roundtrip.links.record import DeviceState, Removal
from roundtrip.links.removals import Removals
from roundtrip.links.session import StartSlots
from tests.support import links
from tests.support.links import (
    KEY,
    PHONE,
    CountingStore,
    FakeClock,
    FakeDriver,
    FakeSession,
    settle,
    write_key_file,
)

DAY = 86400.0


TRY = 5.1
"""The first try comes after five seconds at most."""


class Bench:
    def __init__(self, folder: Path, store: CountingStore) -> None:
        self.clock = FakeClock()
        self.driver = FakeDriver()
        self.store = store
        self.bans = Bans(self.clock)
        self.turns = StartSlots(1)
        self.results: list[tuple[str, bool]] = []
        self.removals = self.anew()
        self.folder = folder

    def anew(self) -> Removals:
        removals = Removals(self.driver, self.store, self.clock, self.turns, self.bans)
        removals.on_result = lambda removal, removed: self.results.append((removal.link_id, removed))
        return removals

    def removal(self, lasts: float = DAY) -> Removal:
        write_key_file(self.store.key_file("link"))
        now = self.clock.now()
        return Removal(KEY, "link", PHONE, now, now + lasts)

    def session(self) -> FakeSession:
        """One that runs already."""
        spec = SessionSpec("link", self.store.key_file("link"), None)
        session = FakeSession(self.driver, spec, lambda _: None)
        session.logout_fails = True
        return session

    async def fail_first(self, lasts: float = DAY) -> None:
        """Begun, and the session at hand could not do it."""
        removal = self.removal(lasts)
        await self.removals.add(removal)
        assert await self.removals.begin(removal, self.session(), online=True) is DeviceState.REMOVING

    @property
    def keys(self) -> bool:
        return self.store.key_file("link").exists()

    async def over(self, removed: bool) -> None:
        await settle()
        assert self.results == [("link", removed)]
        assert not self.keys
        assert not self.removals.pending("link")
        assert len(self.removals) == 0
        assert await self.store.removals() == []
        sessions = len(self.driver.sessions)
        await self.clock.advance(2 * DAY)
        assert len(self.driver.sessions) == sessions, "nothing is tried after the end"
        assert len(self.results) == 1

    async def goes_on(self) -> None:
        await settle()
        assert self.results == []
        assert self.keys
        assert self.removals.pending("link")
        assert [removal.link_id for removal in await self.store.removals()] == ["link"]


@asynccontextmanager
async def benched(folder: Path) -> AsyncIterator[Bench]:
    store = CountingStore(folder)
    links.open_stores.add(store)
    await store.open()
    bench = Bench(folder, store)
    try:
        yield bench
    finally:
        await bench.removals.close()
        links.open_stores.discard(store)
        await store.close()
