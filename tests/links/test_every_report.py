"""Every state and every report, through the service, against the promises of docs/links.md."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.key_files import condition
from roundtrip.events import TYPE_OF, Failure
from roundtrip.identity import BotKey
from roundtrip.links.machine import ENDED, LIVE, Input
from roundtrip.links.record import LinkState
from roundtrip.links.transition_table import step
from tests.links.test_policy import REPORTS, classified
from tests.support.links import NAME, QR, Stage, settle, staged, write_key_file

S = LinkState

_PAIRED: Final = (S.PAIRED, S.CONNECTED, S.DEGRADED, S.DISCONNECTED)
_UNPAIRED: Final = (S.CONNECTING, S.QR, S.PAIRING_CODE)
_ENDS: Final[dict[LinkState, d.Report]] = {
    S.QR_EXPIRED: d.CodesUsedUp(),
    S.LOGGED_OUT: d.LoggedOutByPhone("401"),
    S.REPLACED: d.StreamReplaced(),
    S.BANNED: d.TemporaryBan(101, 6000.0),
    S.FAILED: d.ConnectFailed("400"),
    S.CLIENT_OUTDATED: d.Outdated(),
}
_GONE: Final = {S.LOGGED_OUT, S.QR_EXPIRED}


def number(n: int) -> str:
    return f"+1415555{n:04d}"


def cast(report: d.Report, n: int) -> d.Report:
    """The report about the account of key `n`."""
    if isinstance(report, d.Online):
        return d.Online(number(n), NAME)
    return d.PairSucceeded(number(n)) if isinstance(report, d.PairSucceeded) else report


async def reach(stage: Stage, key: BotKey, n: int, state: LinkState) -> None:
    await stage.start(key)
    session = stage.session(key)
    session.is_alive = True
    if state is S.QR:
        await stage.report(QR, key=key)
    elif state is S.PAIRING_CODE:
        await stage.report(d.PairingCodeShown("ABCD-1234", 160.0), key=key)
    elif state in _PAIRED:
        write_key_file(session.spec.store)
        await stage.report(QR, d.PairSucceeded(number(n)), key=key)
        if state is not S.PAIRED:
            await stage.report(d.Online(number(n), NAME), key=key)
        if state is S.DEGRADED:
            await stage.report(d.KeepAliveLost(), key=key)
        if state is S.DISCONNECTED:
            await stage.report(d.ConnectFailed("400"), key=key)
            await stage.clock.advance(400.0)
    elif state in _ENDS:
        if state not in (S.QR_EXPIRED, S.FAILED):
            write_key_file(session.spec.store)
            await stage.report(QR, d.PairSucceeded(number(n)), d.Online(number(n), NAME), key=key)
        await stage.report(_ENDS[state], key=key)
    assert stage.state(key) is state


def order(report: d.Report) -> int:
    """An outdated version concerns all links: last."""
    return isinstance(report, d.Outdated)


@pytest.mark.parametrize("state", [*_UNPAIRED, *_PAIRED], ids=str)
async def test_what_a_live_link_does_with_each_report(tmp_path: Path, state: LinkState) -> None:
    paired = state in _PAIRED
    async with staged(tmp_path, start_concurrency=64, truth_interval=1e5, refused_cap=600.0) as stage:
        for n, report in enumerate(sorted(REPORTS, key=order)):
            key = BotKey.parse(f"user-{n}", "bot")
            await reach(stage, key, n, state)
            session, before = stage.session(key), len(stage.publisher.types(key))
            starts = len(stage.driver.sessions)
            store = session.spec.store
            move = step(state, classified(report, paired))
            await stage.report(cast(report, n), key=key)

            found = stage.service.snapshot(key)
            context = f"{state} {report}"
            assert found.state is move.to, context
            new = stage.publisher.types(key)[before:]
            if move.event is None:
                assert new == [], context
            elif not move.if_changed:
                assert new == ["".join(part.title() for part in move.event.name.split("_"))], context
            link = stage.service._links[key]
            if found.state in ENDED:
                assert session.stopped, context
                assert link.worker_pid is None, context
                assert found.qr is None, context
                assert issubclass(TYPE_OF_NAME[new[-1]], Failure) == (found.reason_code is not None), context
            elif stage.driver.of(session.spec.link_id) is session and not session.stopped:
                assert link.lifecycle.runner.session is session, context
            else:  # a fresh one is to come, and it comes
                await stage.clock.advance(610.0)
                assert len(stage.driver.sessions) > starts, context
                assert session.stopped, context
            # Given up, with its keys, only when WhatsApp says that the account is gone.
            if paired:
                assert store.exists() is not isinstance(report, d.LoggedOutByPhone), context
            record = link.record
            assert record is not None
            now_paired = (paired or isinstance(report, d.PairSucceeded | d.Online)) and found.state not in _GONE
            assert record.paired is now_paired, context
            assert record.phone_number == (number(n) if now_paired else None), context


TYPE_OF_NAME: Final = {payload.__name__: payload for payload in TYPE_OF}


@pytest.mark.parametrize("state", _ENDS, ids=str)
async def test_an_ended_links_session_may_report_what_it_likes(tmp_path: Path, state: LinkState) -> None:
    key = BotKey.parse("user", "bot")
    async with staged(tmp_path) as stage:
        await reach(stage, key, 1, state)
        session, before = stage.session(key), stage.service.snapshot(key)
        events, deadlines = len(stage.publisher.published), stage.service.links()[0].deadlines
        link = stage.service._links[key]
        for report in REPORTS:
            session.report(cast(report, 1))
            link.report(cast(report, 1))  # also what was on its way when the session was let go
            await settle()
        assert stage.service.snapshot(key) == before
        assert len(stage.publisher.published) == events
        assert stage.service.links()[0].deadlines == deadlines
        assert len(stage.driver.sessions) == 1
        assert session.stopped
        assert (stage.metrics.restarts, stage.metrics.corrections) == (0, 0)
        if state is not S.CLIENT_OUTDATED:
            assert not stage.service._context.outdated


async def test_a_predecessor_may_report_what_it_likes(tmp_path: Path) -> None:
    key = BotKey.parse("user", "bot")
    async with staged(tmp_path) as stage:
        await reach(stage, key, 1, S.CONNECTED)
        old = stage.session(key)
        await stage.report(d.WorkerDied(-9), key=key)
        await stage.clock.advance(1.1)
        await stage.report(d.Online(number(1), NAME), key=key)
        stage.session(key).is_alive = True
        before, events = stage.service.snapshot(key), len(stage.publisher.published)
        for report in REPORTS:
            old.report(cast(report, 1))
            await settle()
        await stage.clock.advance(5.0)
        assert stage.service.snapshot(key) == before
        assert len(stage.publisher.published) == events
        assert len(stage.driver.sessions) == 2
        assert not stage.service._context.outdated


async def test_after_the_end_of_the_program_nothing_is_published_or_started(tmp_path: Path) -> None:
    key = BotKey.parse("user", "bot")
    async with staged(tmp_path) as stage:
        await reach(stage, key, 1, S.CONNECTED)
        session, events = stage.session(key), len(stage.publisher.published)
        await stage.report(d.Offline(), key=key)  # a deadline runs
    for report in REPORTS:
        session.report(report)
    stage.service._links[key].check_result(Input.WORKER_DIED)
    await stage.clock.advance(4000.0)
    assert len(stage.publisher.published) == events
    assert len(stage.driver.sessions) == 1
    assert session.stopped
    assert not [call for _, _, call in stage.clock._calls if call.callback is not None], "no timer outlives it"
    assert condition(session.spec.store).name == "GOOD"


@pytest.mark.parametrize("state", sorted(LIVE), ids=str)
async def test_no_live_link_waits_for_ever(tmp_path: Path, state: LinkState) -> None:
    """A session that falls silent in any state but `connected` is ended or replaced by its timers, or published."""
    key = BotKey.parse("user", "bot")
    async with staged(tmp_path, truth_interval=1e5) as stage:
        await reach(stage, key, 1, state)
        session = stage.session(key)
        if state is S.CONNECTED:
            await stage.report(d.Offline(), key=key)  # it stands by the library's word alone
        session.is_alive = None
        assert stage.service.links()[0].deadlines, "each wait has a deadline"
        await stage.clock.advance(2000.0)
        if state in _PAIRED:
            assert stage.state(key) in LIVE, "a paired account is not given up"
            if state is not S.CONNECTED:
                assert len(stage.driver.sessions) > 1
            assert stage.state(key) in (S.DISCONNECTED, S.DEGRADED, S.CONNECTING)
        else:
            assert stage.state(key) in (S.QR_EXPIRED, S.FAILED), "nobody waits for a code any more"
            assert stage.service.links()[0].deadlines == ()
        assert session.stopped
