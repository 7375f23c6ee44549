"""A connection of a paired account: lost, restored, unanswered, and its name."""

from __future__ import annotations

import asyncio
from pathlib import Path

from roundtrip import events as e
from roundtrip.drivers import base as d
from roundtrip.links.record import LinkRecord, LinkState
from tests.support.links import (
    KEY,
    NAME,
    ONLINE,
    PHONE,
    QR,
    staged,
)


async def test_an_interruption_within_the_grace_period_is_not_published(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        count = len(stage.publisher.published)
        await stage.report(d.Offline())
        await stage.clock.advance(4.9)
        await stage.report(ONLINE)
        await stage.clock.advance(60.0)
        assert len(stage.publisher.published) == count
        assert stage.metrics.flaps == 1


async def test_a_disconnect_is_published_after_the_grace_period_and_so_is_its_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.Offline())
        stage.session().is_alive = False
        await stage.clock.advance(5.1)
        assert stage.publisher.types()[-1] == "Disconnected"
        assert stage.publisher.last.reason_code == "connection_lost"
        await stage.report(ONLINE)
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=False)
        assert stage.service.snapshot(KEY).reason_code is None


async def test_keep_alive_lost_and_restored(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.KeepAliveLost(), d.KeepAliveLost(), d.KeepAliveRestored())
        assert stage.publisher.types()[-2:] == ["Degraded", "Connected"]
        assert stage.state() is LinkState.CONNECTED


async def test_a_display_name_that_comes_later_is_published(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR, d.PairSucceeded(PHONE), d.Online(PHONE, ""))
        assert stage.publisher.last == e.Connected(PHONE, "", first=True)
        await stage.report(d.Online(PHONE, NAME), d.Online(PHONE, NAME), d.Online(PHONE, ""))
        assert stage.publisher.types().count("Connected") == 2
        assert stage.service.snapshot(KEY).display_name == NAME


async def test_a_connection_that_does_not_answer_is_replaced_within_90_seconds(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.clock.advance(40.0)  # the library's longest way to the first word
        await stage.report(d.KeepAliveLost())
        assert stage.publisher.last.reason_code == "keepalive_lost"
        assert stage.publisher.last.user_action
        await stage.clock.advance(44.0)
        await stage.report(d.KeepAliveLost())  # reported again: the timer goes on
        await stage.clock.advance(1.1)
        assert len(stage.driver.sessions) == 2
        await stage.report(ONLINE)
        assert stage.publisher.types()[-2:] == ["Degraded", "Connected"]


async def test_pings_answered_after_the_connection_was_lost_prove_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.KeepAliveLost(), d.Offline(), d.KeepAliveRestored())
        assert stage.state() is LinkState.DEGRADED
        stage.session().is_alive = False
        await stage.clock.advance(5.1)
        assert stage.state() is LinkState.DISCONNECTED


async def test_pings_that_go_unanswered_renew_the_connection_of_a_flapping_link_too(tmp_path: Path) -> None:
    """Its states are not published, but it is no less cut off for that."""
    async with staged(tmp_path, truth_interval=1e5, flap_limit=1, disconnect_grace=60.0, flap_calm=600.0) as stage:
        await stage.connect()
        await stage.report(d.Offline(), ONLINE, d.Offline(), ONLINE)
        assert stage.service.links()[0].flapping
        sessions = len(stage.driver.sessions)
        await stage.report(d.KeepAliveLost())
        await stage.clock.advance(stage.settings.degraded_timeout - 1)
        await stage.report(d.KeepAliveLost())  # again: the time still runs from the first
        assert len(stage.driver.sessions) == sessions
        await stage.clock.advance(2.0)
        assert len(stage.driver.sessions) == sessions + 1


async def test_the_span_of_a_session_names_the_worker_that_it_was_in_last(tmp_path: Path) -> None:
    """A driver may move a session meanwhile: whoever looks for its log lines looks in the last one."""
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().worker = "w2"  # type: ignore[attr-defined]  # a driver's own, where it has workers
    [attributes] = [span.attributes or {} for span in stage.spans.get_finished_spans() if span.name == "worker"]
    assert attributes["roundtrip.worker.id"] == "w2"


async def test_who_was_told_of_a_state_finds_it_while_the_record_is_written(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        save, written = stage.store.save, asyncio.Event()

        async def slow(record: LinkRecord) -> None:
            await written.wait()
            await save(record)

        stage.store.save = slow  # type: ignore[method-assign]  # a disk that takes its time
        reporting = asyncio.ensure_future(stage.report(d.TemporaryBan(101, 60.0)))
        while stage.publisher.types()[-1] != "Banned":
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert stage.service.snapshot(KEY).state is LinkState.BANNED
        written.set()
        await reporting
