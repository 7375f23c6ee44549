"""What is believed, against the library's own word."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from roundtrip.drivers import base as d
from roundtrip.errors import StorageError
from roundtrip.links.machine import Input
from roundtrip.links.queue import CheckResult
from roundtrip.links.reconciliation import CONFIRM, CONFIRM_ONLINE
from roundtrip.links.record import LinkState
from tests.support.links import KEY, ONLINE, QR, settle, staged


async def test_working_but_dead_is_corrected(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().is_alive = False
        await stage.clock.advance(40.0)
        assert stage.state() is LinkState.DISCONNECTED
        assert stage.metrics.corrections == 1
        assert ("disconnected", "corrected") in stage.metrics.transitions
        assert len(stage.driver.sessions) == 2  # and a fresh session is started
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_a_successor_does_not_inherit_the_misses(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0, truth_misses=3) as stage:
        await stage.connect()
        stage.session().is_alive = None
        await stage.clock.advance(21.0)  # two misses
        await stage.report(d.WorkerDied(-9))
        await stage.clock.advance(1.1)
        await stage.report(ONLINE)
        stage.session().is_alive = None
        await stage.clock.advance(20.0)
        assert len(stage.driver.sessions) == 2
        await stage.clock.advance(10.0)
        assert len(stage.driver.sessions) == 3


async def test_dead_but_working_is_corrected_too(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.Offline())
        stage.session().is_alive = True  # and nobody says that it is back
        await stage.clock.advance(6.0)
        assert stage.state() is LinkState.DISCONNECTED
        await stage.clock.advance(34.1)
        assert stage.state() is LinkState.DISCONNECTED  # nothing is called connected that did not say so itself
        assert stage.metrics.corrections == 1
        assert len(stage.driver.sessions) == 2
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_what_agrees_is_left_alone(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        count = len(stage.publisher.published)
        await stage.clock.advance(600.0)
        assert (stage.metrics.corrections, len(stage.publisher.published), len(stage.driver.sessions)) == (0, count, 1)


async def test_a_contradiction_that_a_report_explains_is_none(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.clock.advance(29.0)
        stage.session().is_alive = False
        await stage.clock.advance(2.0)  # seen once, to be confirmed
        await stage.report(d.Offline(), ONLINE)
        stage.session().is_alive = True
        await stage.clock.advance(3.0)
        assert stage.metrics.corrections == 0
        assert stage.state() is LinkState.CONNECTED


async def test_whatever_happened_meanwhile_voids_a_contradiction(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().is_alive = False
        await stage.clock.advance(31.0)  # seen once, to be confirmed
        await stage.report(d.Offline(), ONLINE)
        await stage.clock.advance(2.0)  # the library still says no, but it is news that has to be looked at anew
        assert stage.metrics.corrections == 0


async def test_a_finding_about_a_session_that_is_gone_is_void(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        link = stage.service._links[KEY]
        link.report(d.WorkerDied(-9))
        link.inbox.put(CheckResult(Input.WORKER_HUNG, link.lifecycle.runner.starts - 1))
        await stage.clock.advance(2.0)
        assert stage.metrics.restarts == 1
        assert stage.metrics.corrections == 0


async def test_a_worker_that_does_not_answer_is_replaced(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=30.0, truth_misses=3) as stage:
        await stage.connect()
        stage.session().is_alive = None
        await stage.clock.advance(61.0)
        assert len(stage.driver.sessions) == 1
        await stage.clock.advance(32.0)
        assert len(stage.driver.sessions) == 2
        assert stage.driver.sessions[0].stopped
        assert stage.metrics.corrections == 1
        assert stage.metrics.restarts == 1


async def test_one_answer_in_between_is_enough(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        for _ in range(4):
            stage.session().is_alive = None
            await stage.clock.advance(60.0)
            stage.session().is_alive = True
            await stage.clock.advance(30.0)
        assert len(stage.driver.sessions) == 1


async def test_a_hung_worker_that_shows_a_code_is_replaced_too(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0) as stage:
        await stage.start()
        await stage.report(QR)
        stage.session().is_alive = None
        await stage.clock.advance(35.0)
        assert len(stage.driver.sessions) == 2
        assert stage.state() is LinkState.CONNECTING


async def test_a_session_that_raises_counts_as_silent(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0) as stage:
        await stage.connect()

        async def broken() -> bool | None:
            raise RuntimeError("library")

        stage.session().alive = broken  # type: ignore[method-assign]
        await stage.clock.advance(35.0)
        assert len(stage.driver.sessions) == 2


async def test_a_stream_error_is_checked_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().is_alive = False
        await stage.report(d.StreamFailed("599"))
        assert stage.state() is LinkState.CONNECTED
        await stage.clock.advance(2.1)
        assert stage.state() is LinkState.DISCONNECTED


async def test_links_without_an_answering_session_are_not_checked(tmp_path: Path) -> None:
    """A link that is ended, that dials still, or that waits for the outbox is not compared with anything."""
    async with staged(tmp_path, truth_interval=1e5) as stage:
        asked: list[str] = []

        async def alive() -> bool | None:
            asked.append(stage.state())
            return None

        await stage.start()
        stage.session().alive = alive  # type: ignore[method-assign]  # it counts
        await stage.service.reconcile()  # it has reported nothing yet
        assert asked == []
        stage.publisher.fails = StorageError("outbox_full", "full")
        await stage.report(QR)
        await stage.service.reconcile()
        assert asked == []
        stage.publisher.fails = None
        await stage.clock.advance(5.1)
        await stage.service.reconcile()
        assert asked == ["qr"]
        await stage.report(d.CodesUsedUp())
        await stage.service.reconcile()
        assert asked == ["qr"]


async def test_misses_are_in_a_row_and_of_one_session(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=1e5, truth_misses=3) as stage:
        await stage.connect()
        reconciler = stage.service._reconciler
        for answers in ((None, None, True), (None, None, True), (None, None)):
            for answer in answers:
                stage.session().is_alive = answer
                await stage.service.reconcile()
                await settle()
        assert len(stage.driver.sessions) == 1
        with capture_logs() as logs:
            await stage.service.reconcile()
            await stage.clock.advance(1.1)
        assert [entry["misses"] for entry in logs if entry["event"] == "session_silent"] == [3]
        assert len(stage.driver.sessions) == 2
        assert reconciler._misses == {}
        await stage.report(ONLINE)
        stage.session().is_alive = None
        for _ in range(2):
            await stage.service.reconcile()
            await settle()
        assert len(stage.driver.sessions) == 2, "its successor begins anew"


@pytest.mark.parametrize("answer", [True, False])
async def test_a_contradiction_is_confirmed_before_it_counts(tmp_path: Path, answer: bool) -> None:
    """That it is online may be a report on its way, which waits for the account's name: that is waited for longer."""
    confirm = CONFIRM_ONLINE if answer else CONFIRM
    async with staged(tmp_path, truth_interval=1e5) as stage:
        await stage.connect()
        if answer:
            await stage.report(d.Offline())
            stage.session().is_alive = False
            await stage.clock.advance(5.1)
        for changes_its_mind in (True, False):
            stage.session().is_alive = answer
            check = asyncio.create_task(stage.service.reconcile())
            await stage.clock.advance(confirm - 0.1)
            assert stage.metrics.corrections == 0
            stage.session().is_alive = answer is not changes_its_mind
            await stage.clock.advance(0.2)
            await check
            assert stage.metrics.corrections == (not changes_its_mind)


async def test_a_contradiction_of_a_session_that_was_replaced_meanwhile_is_none(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=1e5) as stage:
        await stage.connect()
        stage.session().is_alive = False
        check = asyncio.create_task(stage.service.reconcile())
        await stage.clock.advance(0.1)
        await stage.report(d.WorkerDied(1))
        await stage.clock.advance(1.1)
        await stage.report(ONLINE)
        stage.session().is_alive = False
        await stage.clock.advance(1.0)
        await check
        assert stage.metrics.corrections == 0


async def test_what_is_known_to_be_away_is_no_contradiction(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=1e5, flap_limit=1, disconnect_grace=60.0) as stage:
        await stage.connect()
        stage.session().is_alive = False
        await stage.report(d.Offline())
        check = asyncio.create_task(stage.service.reconcile())
        await stage.clock.advance(3.0)
        await check
        await stage.report(ONLINE, d.Offline())
        assert stage.service.links()[0].flapping
        check = asyncio.create_task(stage.service.reconcile())
        await stage.clock.advance(3.0)
        await check
        assert stage.metrics.corrections == 0


async def test_a_session_that_never_answers_delays_the_others_no_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roundtrip.links.reconciliation._ANSWER_LIMIT", 0.01)
    async with staged(tmp_path, truth_interval=1e5, truth_misses=1) as stage:
        await stage.connect()
        stage.session().alive = asyncio.Event().wait  # type: ignore[method-assign]
        async with asyncio.timeout(5):
            await stage.service.reconcile()
        await stage.clock.advance(1.1)
        assert len(stage.driver.sessions) == 2
        assert stage.exits == ["unresponsive"]
