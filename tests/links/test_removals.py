"""One attempt to remove a device from its account: who waits for it, and what its session reports."""

from __future__ import annotations

import asyncio

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Report, SessionSpec
from roundtrip.links.policy import Ban
from roundtrip.links.record import DeviceState, Removal
from roundtrip.links.removals import ANSWER_LIMIT, RESULT_WAIT
from roundtrip.links.storage import StoreError
from tests.support.links import (
    KEY,
    ONLINE,
    FakeSession,
)
from tests.support.removal_bench import TRY, Bench


async def test_a_session_that_is_online_removes_it_at_once(bench: Bench) -> None:
    removal, session = bench.removal(), bench.session()
    session.logout_fails = False
    await bench.removals.add(removal)
    assert bench.removals.pending("link")
    assert await bench.removals.begin(removal, session, online=True) is DeviceState.REMOVED
    assert session.logged_out
    assert not session.stopped
    assert bench.results == [], "the caller has the result"
    assert not bench.keys
    assert not bench.removals.pending("link")
    assert await bench.store.removals() == []


async def test_a_session_that_is_not_online_is_not_waited_for(bench: Bench) -> None:
    removal, session = bench.removal(), bench.session()
    session.logout_fails = False
    await bench.removals.add(removal)
    assert await bench.removals.begin(removal, session, online=False) is DeviceState.REMOVING
    await bench.over(True)


async def test_a_logout_waits_for_the_result_a_while_and_is_notified_later(bench: Bench) -> None:
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


@pytest.mark.parametrize("report", [d.QrShown("2@a,b,c,d", 1, 6, 60.0), d.PairingCodeShown("ABCD-1234", 160.0)])
async def test_keys_that_whatsapp_does_not_know_remove_nothing(bench: Bench, report: Report) -> None:
    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(report)
    await bench.over(False)
    assert bench.driver.sessions[0].stopped


async def test_a_device_that_was_removed_on_the_phone_counts_as_removed(bench: Bench) -> None:
    await bench.fail_first()
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(d.LoggedOutByPhone("401"))
    await bench.over(True)
    assert bench.driver.sessions[0].stopped
    assert not bench.driver.sessions[0].logged_out


async def test_a_session_without_a_report_is_ended(bench: Bench) -> None:
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


async def test_without_keys_there_is_no_way_to_remove_it(bench: Bench) -> None:
    removal = bench.removal()
    bench.store.key_file("link").unlink()
    await bench.removals.add(removal)
    await bench.removals.begin(removal, None, online=True)
    await bench.over(False)
    assert bench.driver.sessions == []


async def test_without_a_session_the_logout_does_not_wait(bench: Bench) -> None:
    removal = bench.removal()
    await bench.removals.add(removal)
    assert await bench.removals.begin(removal, None, online=True) is DeviceState.REMOVING
    await bench.clock.advance(TRY)
    bench.driver.sessions[0].report(ONLINE)
    await bench.over(True)


async def test_what_cannot_be_written_down_is_not_begun(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(removal: Removal) -> None:
        raise StoreError("disk")

    monkeypatch.setattr(bench.store, "save_removal", broken)
    with pytest.raises(StoreError):
        await bench.removals.add(bench.removal())
    assert not bench.removals.pending("link")
    assert bench.keys


async def test_beginning_twice_is_beginning_once(bench: Bench) -> None:
    await bench.fail_first()
    assert await bench.removals.begin(bench.removal(), None, online=False) is DeviceState.REMOVING
    await bench.clock.advance(TRY)
    assert len(bench.driver.sessions) == 1


@pytest.mark.parametrize(
    ("since", "until", "now", "left"),
    [(0.0, 100.0, 30.0, 70.0), (0.0, 100.0, 100.0, 0.0), (0.0, 100.0, 101.0, 0.0), (50.0, 100.0, 0.0, 50.0)],
)
def test_the_remaining_time_of_a_removal_and_a_ban(since: float, until: float, now: float, left: float) -> None:
    assert Removal(KEY, "l", None, since, until).remaining(now) == left
    assert Ban(101, since, None, until).left(now) == left
