"""A device that is still to be removed: tried later and later, given up in time, and never taken for removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report, SessionSpec
from roundtrip.links.policy import Ban, Bans
from roundtrip.links.record import DeviceState, Removal
from roundtrip.links.removals import ANSWER_LIMIT, RESULT_WAIT, Removals
from roundtrip.links.session import StartSlots
from roundtrip.links.store import StoreError
from tests.support import links
from tests.support.links import (
    KEY,
    ONLINE,
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
        self.told: list[tuple[str, bool]] = []
        self.removals = self.anew()
        self.folder = folder

    def anew(self) -> Removals:
        removals = Removals(self.driver, self.store, self.clock, self.turns, self.bans)
        removals.on_result = lambda removal, removed: self.told.append((removal.link_id, removed))
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
        assert self.told == [("link", removed)]
        assert not self.keys
        assert not self.removals.pending("link")
        assert len(self.removals) == 0
        assert await self.store.removals() == []
        sessions = len(self.driver.sessions)
        await self.clock.advance(2 * DAY)
        assert len(self.driver.sessions) == sessions, "nothing is tried after the end"
        assert len(self.told) == 1

    async def goes_on(self) -> None:
        await settle()
        assert self.told == []
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


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with benched(tmp_path) as bench:
        yield bench


async def test_a_session_that_is_online_removes_it_at_once(bench: Bench) -> None:
    removal, session = bench.removal(), bench.session()
    session.logout_fails = False
    await bench.removals.add(removal)
    assert bench.removals.pending("link")
    assert await bench.removals.begin(removal, session, online=True) is DeviceState.REMOVED
    assert session.logged_out
    assert not session.stopped
    assert bench.told == [], "whoever asked has the answer"
    assert not bench.keys
    assert not bench.removals.pending("link")
    assert await bench.store.removals() == []


async def test_a_session_that_is_not_online_is_not_waited_for(bench: Bench) -> None:
    removal, session = bench.removal(), bench.session()
    session.logout_fails = False
    await bench.removals.add(removal)
    assert await bench.removals.begin(removal, session, online=False) is DeviceState.REMOVING
    await bench.over(True)


async def test_whoever_asked_waits_a_little_and_is_told_later(bench: Bench) -> None:
    gate = asyncio.Event()

    class Slow(FakeSession):
        async def logout(self) -> None:
            await gate.wait()

    removal = bench.removal()
    await bench.removals.add(removal)
    session = Slow(bench.driver, SessionSpec("link", bench.store.key_file("link"), None), lambda _: None)
    asked = asyncio.create_task(bench.removals.begin(removal, session, online=True))
    await bench.clock.advance(RESULT_WAIT - 0.1)
    assert not asked.done()
    await bench.clock.advance(0.2)
    assert asked.done()
    assert asked.result() is DeviceState.REMOVING
    await bench.goes_on()
    gate.set()
    await bench.over(True)


async def test_a_failed_try_is_followed_by_a_fresh_session(bench: Bench) -> None:
    await bench.fail_first()
    await bench.goes_on()
    assert bench.driver.sessions == []
    await bench.clock.advance(TRY)
    (session,) = bench.driver.sessions
    assert session.spec == SessionSpec("link", bench.store.key_file("link"), None)
    for report in (d.Offline(), d.KeepAliveLost(), d.KeepAliveRestored(), d.StreamFailed("599")):
        session.report(report)
        await bench.goes_on()
        assert not session.stopped, "it may still come online"
    session.report(ONLINE)
    await settle()
    assert session.logged_out
    await bench.over(True)


@pytest.mark.parametrize("report", [d.QrShown("2@a,b,c,d", 1, 6, 60.0), d.PairingCodeShown("ABCD-1234", 160.0)])
async def test_keys_that_whatsapp_does_not_know_remove_nothing(bench: Bench, report: Report) -> None:
    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(report)
    await bench.over(False)
    assert bench.driver.sessions[0].stopped


async def test_a_person_who_was_quicker_has_removed_it(bench: Bench) -> None:
    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(d.LoggedOutByPhone("401"))
    await bench.over(True)
    assert bench.driver.sessions[0].stopped
    assert not bench.driver.sessions[0].logged_out


@pytest.mark.parametrize(
    "report",
    [d.Unreachable("x"), d.WorkerDied(1), d.ConnectFailed("400"), d.Outdated(), d.TemporaryBan(101, 60.0)],
    ids=lambda r: type(r).__name__,
)
async def test_whatever_else_a_session_meets_it_is_ended_and_tried_again(bench: Bench, report: Report) -> None:
    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(report)
    await bench.goes_on()
    assert bench.driver.sessions[0].stopped
    await bench.clock.advance(10.1)
    assert len(bench.driver.sessions) == 2
    bench.driver.sessions[1].report(ONLINE)
    await bench.over(True)


async def test_a_session_that_says_nothing_is_ended(bench: Bench) -> None:
    await bench.fail_first()
    await bench.clock.advance(5.0)
    assert len(bench.driver.sessions) == 1
    await bench.clock.advance(ANSWER_LIMIT - 3.0)
    assert not bench.driver.sessions[0].stopped
    await bench.clock.advance(3.1)
    assert bench.driver.sessions[0].stopped
    await bench.goes_on()
    await bench.clock.advance(10.1)
    assert len(bench.driver.sessions) == 2


async def test_it_is_tried_later_and_later_and_given_up_at_its_end(bench: Bench) -> None:
    bench.driver.start_fails = True
    tries: list[float] = []
    start = bench.driver.start

    async def counted(spec: SessionSpec, report: Callable[[Report], None]) -> FakeSession:
        tries.append(bench.clock.monotonic())
        return await start(spec, report)

    bench.driver.start = counted  # type: ignore[method-assign]  # it counts
    begun = bench.clock.monotonic()
    await bench.fail_first(3600.0)
    await bench.clock.advance(3599.0)
    await bench.goes_on()
    gaps = [later - earlier for earlier, later in zip([begun, *tries], tries, strict=False)]
    for n, gap in enumerate(gaps):
        whole = min(300.0, 5.0 * 2**n)
        assert whole / 2 <= gap <= whole
    assert len(gaps) > 12
    await bench.clock.advance(2.0)
    assert 3599.0 < tries[-1] - begun <= 3600.0, "one last try at the end"
    await bench.over(False)


async def test_no_step_of_the_clock_lengthens_it_or_cuts_it_short(bench: Bench) -> None:
    bench.driver.start_fails = True
    await bench.fail_first(600.0)
    bench.clock.step(-1e6)
    await bench.clock.advance(300.0)
    bench.clock.step(2e6)
    await bench.clock.advance(290.0)
    await bench.goes_on()
    await bench.clock.advance(11.0)
    await bench.over(False)


async def test_nobody_dials_while_the_number_is_banned(bench: Bench) -> None:
    now = bench.clock.now()
    bench.bans.add(PHONE, Ban(101, now, now + 1000.0, now + 1000.0))
    await bench.fail_first()
    await bench.clock.advance(999.0)
    assert bench.driver.sessions == []
    await bench.clock.advance(1.1)
    assert len(bench.driver.sessions) == 1


async def test_without_keys_there_is_no_way_to_remove_it(bench: Bench) -> None:
    removal = bench.removal()
    bench.store.key_file("link").unlink()
    await bench.removals.add(removal)
    await bench.removals.begin(removal, None, online=True)
    await bench.over(False)
    assert bench.driver.sessions == []


async def test_without_a_session_nobody_waits(bench: Bench) -> None:
    removal = bench.removal()
    await bench.removals.add(removal)
    assert await bench.removals.begin(removal, None, online=True) is DeviceState.REMOVING
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(ONLINE)
    await bench.over(True)


async def test_a_disk_that_does_not_answer_is_no_missing_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(link_id: str) -> object:
        raise StoreError("disk")

    monkeypatch.setattr(bench.store, "key_state", broken)
    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(ONLINE)
    await bench.over(True)


async def test_an_end_that_cannot_be_written_is_an_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(link_id: str) -> None:
        raise StoreError("disk")

    monkeypatch.setattr(bench.store, "delete_removal", broken)
    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(ONLINE)
    await settle()
    assert bench.told == [("link", True)]
    assert not bench.removals.pending("link")


async def test_what_cannot_be_written_down_is_not_begun(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(removal: Removal) -> None:
        raise StoreError("disk")

    monkeypatch.setattr(bench.store, "save_removal", broken)
    with pytest.raises(StoreError):
        await bench.removals.add(bench.removal())
    assert not bench.removals.pending("link")
    assert bench.keys


@pytest.mark.parametrize("when", ["waiting", "dialing", "logging out"])
async def test_the_end_of_the_program_interrupts_it_and_the_next_life_goes_on(bench: Bench, when: str) -> None:
    await bench.fail_first()
    if when != "waiting":
        await bench.clock.advance(TRY)
    if when == "logging out":
        gate = asyncio.Event()
        bench.driver.sessions[0].logout = gate.wait  # type: ignore[assignment,method-assign]  # it never answers
        bench.driver.sessions[0].report(ONLINE)
        await settle()
    await bench.removals.close()
    assert all(session.stopped for session in bench.driver.sessions)
    assert bench.told == []
    assert bench.keys
    left = await bench.store.removals()
    started = len(bench.driver.sessions)
    bench.removals = bench.anew()
    bench.removals.load(left)
    assert bench.removals.pending("link")
    assert len(bench.removals) == 1
    await bench.clock.advance(100.0)
    assert len(bench.driver.sessions) == started, "not before it is time"
    bench.removals.resume()
    bench.removals.resume()  # once is enough
    await bench.clock.advance(TRY)
    assert len(bench.driver.sessions) == started + 1
    bench.driver.sessions[-1].report(ONLINE)
    await bench.over(True)


async def test_beginning_twice_is_beginning_once(bench: Bench) -> None:
    await bench.fail_first()
    assert await bench.removals.begin(bench.removal(), None, online=False) is DeviceState.REMOVING
    await bench.clock.advance(TRY)
    assert len(bench.driver.sessions) == 1


async def test_a_session_that_cannot_be_stopped_stops_nothing(bench: Bench) -> None:
    async def broken() -> None:
        raise OSError("dead")

    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].stop = broken  # type: ignore[method-assign]
    bench.driver.sessions[0].report(d.Unreachable("x"))
    await bench.clock.advance(10.1)
    assert len(bench.driver.sessions) == 2


async def test_its_session_gives_its_turn_back(bench: Bench) -> None:
    await bench.fail_first()
    await bench.clock.advance(TRY)
    async with asyncio.timeout(1), bench.turns.slot("somebody else"):
        pass  # there is one more for a user that has none
    bench.driver.sessions[0].report(ONLINE)
    await settle()
    async with asyncio.timeout(1), bench.turns.slot(KEY.user_id):
        pass


@pytest.mark.parametrize(
    ("since", "until", "now", "left"),
    [(0.0, 100.0, 30.0, 70.0), (0.0, 100.0, 100.0, 0.0), (0.0, 100.0, 101.0, 0.0), (50.0, 100.0, 0.0, 50.0)],
)
def test_what_is_left_of_it(since: float, until: float, now: float, left: float) -> None:
    assert Removal(KEY, "l", None, since, until).remaining(now) == left
    assert Ban(101, since, None, until).left(now) == left
