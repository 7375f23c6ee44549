"""A removal that does not succeed at once: tried again with backoff, across restarts, until it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report, SessionSpec
from roundtrip.links.policy import Ban
from roundtrip.links.storage import StoreError
from tests.support.links import (
    KEY,
    ONLINE,
    PHONE,
    FakeSession,
    settle,
)
from tests.support.removal_bench import TRY, Bench


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


async def test_nothing_is_dialed_while_the_number_is_banned(bench: Bench) -> None:
    now = bench.clock.now()
    bench.bans.add(PHONE, Ban(101, now, now + 1000.0, now + 1000.0))
    await bench.fail_first()
    await bench.clock.advance(999.0)
    assert bench.driver.sessions == []
    await bench.clock.advance(1.1)
    assert len(bench.driver.sessions) == 1


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
    assert bench.results == [("link", True)]
    assert not bench.removals.pending("link")


@pytest.mark.parametrize("when", ["waiting", "dialing", "logging out"])
async def test_the_end_of_the_program_interrupts_it_and_the_next_run_resumes_it(bench: Bench, when: str) -> None:
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
    assert bench.results == []
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


async def test_a_session_that_cannot_be_stopped_stops_nothing(bench: Bench) -> None:
    async def broken() -> None:
        raise OSError("dead")

    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].stop = broken  # type: ignore[method-assign]
    bench.driver.sessions[0].report(d.Unreachable("x"))
    await bench.clock.advance(10.1)
    assert len(bench.driver.sessions) == 2


async def test_its_session_releases_its_start_slot(bench: Bench) -> None:
    await bench.fail_first()
    await bench.clock.advance(TRY)
    async with asyncio.timeout(10), bench.turns.slot("somebody else"):
        pass  # there is one more for a user that has none
    bench.driver.sessions[0].report(ONLINE)
    await settle()
    async with asyncio.timeout(10), bench.turns.slot(KEY.user_id):
        pass
