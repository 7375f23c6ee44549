"""What is believed, against the library's own word."""

from __future__ import annotations

from pathlib import Path

from backend.links import driver as d
from backend.links.link import Finding
from backend.links.machine import Input
from backend.links.snapshot import LinkState
from tests.links.helpers import KEY, ONLINE, QR, staged


async def test_working_but_dead_is_corrected(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().is_alive = False
        await stage.clock.pass_(40.0)
        assert stage.state() is LinkState.DISCONNECTED
        assert stage.meter.corrections == 1
        assert ("disconnected", "corrected") in stage.meter.transitions
        assert len(stage.driver.sessions) == 2  # and a fresh session is started
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_a_successor_does_not_inherit_the_misses(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0, truth_misses=3) as stage:
        await stage.connect()
        stage.session().is_alive = None
        await stage.clock.pass_(21.0)  # two misses
        await stage.report(d.WorkerDied(-9))
        await stage.clock.pass_(1.1)
        await stage.report(ONLINE)
        stage.session().is_alive = None
        await stage.clock.pass_(20.0)
        assert len(stage.driver.sessions) == 2
        await stage.clock.pass_(10.0)
        assert len(stage.driver.sessions) == 3


async def test_dead_but_working_is_corrected_too(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.Offline())
        stage.session().is_alive = True  # and nobody says that it is back
        await stage.clock.pass_(6.0)
        assert stage.state() is LinkState.DISCONNECTED
        await stage.clock.pass_(34.1)
        assert stage.state() is LinkState.DISCONNECTED  # nothing is called connected that did not say so itself
        assert stage.meter.corrections == 1
        assert len(stage.driver.sessions) == 2
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_what_agrees_is_left_alone(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        said = len(stage.publisher.said)
        await stage.clock.pass_(600.0)
        assert (stage.meter.corrections, len(stage.publisher.said), len(stage.driver.sessions)) == (0, said, 1)


async def test_a_contradiction_that_a_report_explains_is_none(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.clock.pass_(29.0)
        stage.session().is_alive = False
        await stage.clock.pass_(2.0)  # seen once, to be confirmed
        await stage.report(d.Offline(), ONLINE)
        stage.session().is_alive = True
        await stage.clock.pass_(3.0)
        assert stage.meter.corrections == 0
        assert stage.state() is LinkState.CONNECTED


async def test_whatever_happened_meanwhile_voids_a_contradiction(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().is_alive = False
        await stage.clock.pass_(31.0)  # seen once, to be confirmed
        await stage.report(d.Offline(), ONLINE)
        await stage.clock.pass_(2.0)  # the library still says no, but it is news that has to be looked at anew
        assert stage.meter.corrections == 0


async def test_a_finding_about_a_session_that_is_gone_is_void(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        link = stage.service._links[KEY]
        link.report(d.WorkerDied(-9))
        link.inbox.put(Finding(Input.WORKER_HUNG, link.life.runner.starts - 1))
        await stage.clock.pass_(2.0)
        assert stage.meter.restarts == 1
        assert stage.meter.corrections == 0


async def test_a_worker_that_does_not_answer_is_replaced(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=30.0, truth_misses=3) as stage:
        await stage.connect()
        stage.session().is_alive = None
        await stage.clock.pass_(61.0)
        assert len(stage.driver.sessions) == 1
        await stage.clock.pass_(32.0)
        assert len(stage.driver.sessions) == 2
        assert stage.driver.sessions[0].stopped
        assert stage.meter.corrections == 1
        assert stage.meter.restarts == 1


async def test_one_answer_in_between_is_enough(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        for _ in range(4):
            stage.session().is_alive = None
            await stage.clock.pass_(60.0)
            stage.session().is_alive = True
            await stage.clock.pass_(30.0)
        assert len(stage.driver.sessions) == 1


async def test_a_hung_worker_that_shows_a_code_is_replaced_too(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0) as stage:
        await stage.start()
        await stage.report(QR)
        stage.session().is_alive = None
        await stage.clock.pass_(35.0)
        assert len(stage.driver.sessions) == 2
        assert stage.state() is LinkState.CONNECTING


async def test_a_session_that_raises_counts_as_silent(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0) as stage:
        await stage.connect()

        async def broken() -> bool | None:
            raise RuntimeError("library")

        stage.session().alive = broken  # type: ignore[method-assign]
        await stage.clock.pass_(35.0)
        assert len(stage.driver.sessions) == 2


async def test_a_stream_error_is_looked_into_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().is_alive = False
        await stage.report(d.StreamFailed("599"))
        assert stage.state() is LinkState.CONNECTED
        await stage.clock.pass_(2.1)
        assert stage.state() is LinkState.DISCONNECTED
