"""What is tried again, how often and how fast: unreachable, refused, and workers that crash, hang or stay silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from roundtrip import events as e
from roundtrip.drivers import base as d
from roundtrip.links.record import LinkState
from tests.support.links import (
    KEY,
    NAME,
    ONLINE,
    PHONE,
    QR,
    staged,
)


async def test_unreachable_is_published_and_retried_in_fresh_processes(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=3, retry_cap=8.0) as stage:
        await stage.start()
        for attempt in range(3):
            assert len(stage.driver.sessions) == attempt + 1
            await stage.report(d.Unreachable("no route"))
            assert stage.state() is LinkState.CONNECTING
            assert stage.driver.sessions[attempt].stopped
            await stage.clock.advance(8.0)
        await stage.report(d.Unreachable("no route", d.ConnectStage.HANDSHAKE))
        assert stage.state() is LinkState.DISCONNECTED
        assert stage.service.snapshot(KEY).reason_code == "unreachable"
        assert stage.publisher.types() == ["Connecting", "Disconnected"]
        await stage.clock.advance(600.0)
        started = len(stage.driver.sessions)
        assert started > 4
        while len(stage.driver.sessions) == started:
            await stage.clock.advance(5.0)
        await stage.report(QR)
        assert stage.state() is LinkState.QR


async def test_a_paired_link_goes_on_trying_to_reach_whatsapp(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=2, retry_cap=10.0, restart_limit=3) as stage:
        await stage.connect()
        await stage.report(d.Offline(), d.Unreachable("gone"))
        for _ in range(8):
            await stage.clock.advance(10.1)
            await stage.report(d.Unreachable("gone"))
        assert stage.state() is LinkState.DISCONNECTED
        results = [
            payload.reason_code for _, payload in stage.publisher.published if isinstance(payload, e.Disconnected)
        ]
        assert results == ["connection_lost", "unreachable"]
        await stage.clock.advance(10.1)
        await stage.report(ONLINE)
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=False)


async def test_a_network_that_drops_everything_ends_no_paired_link(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=3) as stage:
        await stage.connect()
        await stage.report(d.Offline())
        stage.session().is_alive = False
        for _ in range(40):
            await stage.clock.advance(100.0)  # no session ever says a word
            stage.session().is_alive = None
        assert stage.state() is LinkState.DISCONNECTED
        started = len(stage.driver.sessions)
        assert started > 5
        while len(stage.driver.sessions) == started:
            await stage.clock.advance(5.0)
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


@pytest.mark.parametrize("reason", ["400", "409", "413", "414", "415", "418", "429", "463", "501", "unknown"])
async def test_a_paired_link_that_is_refused_is_tried_slowly_for_ever(tmp_path: Path, reason: str) -> None:
    async with staged(tmp_path, refused_first=2.0, refused_cap=10.0) as stage:
        await stage.connect()
        factor = 4.0 if reason == "429" else 1.0
        for attempt in range(8):
            assert len(stage.driver.sessions) == attempt + 1
            await stage.report(d.ConnectFailed(reason))
            assert stage.state() is LinkState.DISCONNECTED
            least = factor * min(10.0, 2.0 * 2**attempt) / 2
            await stage.clock.advance(least - 0.1)
            assert len(stage.driver.sessions) == attempt + 1
            await stage.clock.advance(least + 0.2)
        assert stage.publisher.types().count("Disconnected") == 1
        results = stage.publisher.last
        assert results.reason_code == ("rate_limited" if factor > 1 else "connect_failure")
        assert "Press" not in results.user_action
        await stage.report(ONLINE)
        await stage.report(d.ConnectFailed(reason))  # let in: the next refusal begins anew
        await stage.clock.advance(2.0 * factor + 0.1)
        assert len(stage.driver.sessions) == 10


async def test_a_crash_within_the_grace_period_is_not_published(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        count = len(stage.publisher.published)
        await stage.report(d.WorkerDied(-9))
        assert stage.state() is LinkState.CONNECTED
        await stage.clock.advance(1.1)
        assert len(stage.driver.sessions) == 2
        await stage.report(ONLINE)
        await stage.clock.advance(10.0)
        assert len(stage.publisher.published) == count
        assert stage.metrics.restarts == 1
        assert stage.service.links()[0].restarts == 1


async def test_a_paired_links_worker_that_keeps_crashing_is_restarted_at_the_cap(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=3, retry_cap=4.0) as stage:
        await stage.connect()
        for _ in range(30):
            await stage.report(d.WorkerDied(134))
            await stage.clock.advance(4.1)
        assert len(stage.driver.sessions) == 31
        assert stage.state() is LinkState.DISCONNECTED
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"
        assert stage.publisher.types()[4:] == ["Disconnected", "Disconnected"]  # lost, then why
        assert stage.service.crashing == 1
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_an_unpaired_links_worker_that_keeps_crashing_is_given_up(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=3, retry_cap=4.0) as stage:
        await stage.start()
        for _ in range(4):
            await stage.report(d.WorkerDied(134))
            await stage.clock.advance(4.1)
        assert stage.state() is LinkState.FAILED
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"
        await stage.start()  # asked for anew: counted anew
        await stage.report(d.WorkerDied(134))
        assert stage.state() is LinkState.CONNECTING


async def test_crashes_outside_the_window_do_not_add_up(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=2, restart_window=100.0, retry_cap=4.0, flap_window=10.0) as stage:
        await stage.connect()
        for _ in range(6):
            await stage.report(d.WorkerDied(134))
            await stage.clock.advance(4.1)
            await stage.report(ONLINE)
            stage.session().is_alive = True
            await stage.clock.advance(60.0)
        assert stage.state() is LinkState.CONNECTED


async def test_no_step_of_the_clock_resets_or_fails_a_link(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=2, restart_window=100.0, retry_cap=2.0) as stage:
        await stage.start()
        for step in (86400.0, -86400.0):
            await stage.report(d.WorkerDied(1))
            stage.clock.step(step)
            await stage.clock.advance(2.1)
        assert stage.state() is LinkState.CONNECTING
        await stage.report(d.WorkerDied(1))
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"  # counted over both steps


async def test_a_driver_that_cannot_start_counts_as_a_crash(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=2, retry_cap=4.0) as stage:
        stage.driver.start_fails = True
        await stage.start()
        await stage.clock.advance(20.0)
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"


async def test_a_session_without_any_report_is_restarted(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10_000.0) as stage:
        await stage.start()
        await stage.clock.advance(59.0)
        assert len(stage.driver.sessions) == 1
        await stage.clock.advance(5.0)
        assert len(stage.driver.sessions) == 2
        assert stage.driver.sessions[0].stopped


async def test_a_worker_that_hangs_before_its_first_report_is_replaced_soon(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.WorkerDied(-9))
        await stage.clock.advance(1.1)
        stage.session().is_alive = None
        await stage.clock.advance(70.0)
        assert len(stage.driver.sessions) == 3


async def test_each_workers_end_is_counted_once_and_by_its_kind(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0, truth_misses=2, restart_limit=9, retry_cap=1.0) as stage:
        await stage.connect()
        for status in (-9, 134, 0):
            await stage.report(d.WorkerDied(status))
            await stage.clock.advance(1.1)
            await stage.report(ONLINE)
            stage.session().is_alive = True
        stage.session().is_alive = None
        await stage.clock.advance(25.0)
        await stage.report(ONLINE)
        stage.session().is_alive = True
        await stage.service.logout(KEY)
        assert stage.exits == ["killed", "crashed", "exited", "unresponsive", "stopped"]
        assert len(stage.driver.sessions) == 5
        stage.driver.start_fails = True
        await stage.start()
        await stage.clock.advance(0.1)
        assert stage.exits[5:] == ["crashed"]
