"""The real neonize against a stand-in that fails: reports by stage and by number, and what counts as alive."""

from __future__ import annotations

import asyncio
import time

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.base import ConnectStage
from roundtrip.drivers.neonize import driver_session
from roundtrip.drivers.neonize.suspects import ALONE_LIMIT
from roundtrip.telemetry.tracing import OFF
from tests.drivers.neonize.helpers import NAME, NUMBER, PHONE, Bench, gone
from tests.support.reports import ReportRecorder
from tests.whatsapp.troubles import How, Stage

STAGES = [
    (Stage.TCP, How.REFUSE, ConnectStage.DIAL),
    (Stage.PROXY, How.REFUSE, ConnectStage.DIAL),
    (Stage.TLS, How.REFUSE, ConnectStage.DIAL),
    (Stage.TLS, How.LIE, ConnectStage.DIAL),
    (Stage.WEBSOCKET, How.REFUSE, ConnectStage.DIAL),
    (Stage.WEBSOCKET, How.LIE, ConnectStage.DIAL),
    (Stage.NOISE, How.LIE, ConnectStage.HANDSHAKE),
]


@pytest.mark.slow
@pytest.mark.waits
async def test_a_start_that_fails_names_its_stage_and_ends_nothing(bench: Bench) -> None:
    session, _, account = await bench.linked()
    await session.stop()
    logins = account.logins
    for stage, how, expected in STAGES:
        bench.whatsapp.fail(stage, how)
        reports = ReportRecorder()
        failed = await bench.driver.start(bench.spec(), reports)
        found = await reports.next(d.Unreachable)
        assert found.stage is expected, (stage, how)
        assert reports.names == ["Unreachable"], (stage, how)
        await gone(failed.pid)
        bench.whatsapp.recover()
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    assert (await reports.next(d.Online)).phone_number == NUMBER
    assert account.logins == logins + 1


@pytest.mark.slow
@pytest.mark.waits(20)
@pytest.mark.parametrize("how", [How.HANG, How.REFUSE])
async def test_a_handshake_without_an_answer_is_no_refusal(bench: Bench, how: How) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.fail(Stage.NOISE, how)
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    found = await reports.next(d.Unreachable, within=40)  # the library waits 20 s
    assert found == d.Unreachable("the Noise handshake failed: timed out", ConnectStage.HANDSHAKE)


async def test_a_network_that_is_lost_after_the_scan_is_reported(bench: Bench) -> None:
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    code = await reports.next(d.QrShown)
    bench.whatsapp.fail(Stage.WEBSOCKET)
    await bench.whatsapp.scan(code.qr, PHONE, NAME)
    await reports.next(d.PairSucceeded)
    assert (await reports.next(d.Unreachable, within=20)).stage is ConnectStage.DIAL
    bench.whatsapp.recover()
    again = ReportRecorder()
    await bench.driver.start(bench.spec(), again)
    assert (await again.next(d.Online)).phone_number == NUMBER, "no second scan"


async def login(bench: Bench, reason: int | str, **more: str) -> ReportRecorder:
    """What a new session of the linked account hears when its login is refused."""
    bench.whatsapp.refuse(PHONE, reason, **more)
    reports = ReportRecorder()
    session = await bench.driver.start(bench.spec(), reports)
    async with asyncio.timeout(15):
        while not reports.all:
            await asyncio.sleep(0.02)
    await session.stop()
    return reports


@pytest.mark.slow
@pytest.mark.waits
async def test_every_refusal_is_reported_by_its_number_and_leaves_the_keys(bench: Bench) -> None:
    session, _, account = await bench.linked()
    await session.stop()
    logins = account.logins
    for reason in (415, 429, 463, 599):
        assert (await login(bench, reason)).all == [d.ConnectFailed(str(reason))]
    assert (await login(bench, "what")).all == [d.ConnectFailed("unknown")]
    bench.whatsapp.accept(PHONE)
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    await reports.next(d.Online)
    assert account.logins == logins + 1


@pytest.mark.slow
@pytest.mark.waits
async def test_every_ban_is_a_ban(bench: Bench) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    for more, expected in (
        ({"code": "101", "expire": "3600"}, d.TemporaryBan(101, 3600.0)),
        ({"code": "101"}, d.TemporaryBan(101, None)),
        ({"code": "199", "expire": "3600"}, d.TemporaryBan(199, 3600.0)),
        ({"expire": "60"}, d.TemporaryBan(0, 60.0)),
        ({"code": "199"}, d.TemporaryBan(199, None)),
        ({}, d.TemporaryBan(0, None)),
    ):
        assert (await login(bench, 402, **more)).all == [expected], more
    bench.whatsapp.accept(PHONE)
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    await reports.next(d.Online)


@pytest.mark.parametrize("reason", [413, 414])
async def test_a_session_that_makes_the_library_panic_is_given_up_and_its_keys_kept(bench: Bench, reason: int) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    exits: list[str] = []
    bench.driver.observe(OFF, exits.append)
    assert (await login(bench, reason)).all == [d.SessionCrashes()]
    assert exits == ["panicked"] * ALONE_LIMIT
    bench.whatsapp.accept(PHONE)
    again = ReportRecorder()
    await bench.driver.start(bench.spec(), again)
    await again.next(d.Online)


async def stays(session: driver_session.NeonizeSession, seconds: float, *allowed: bool | None) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert await session.alive() in allowed
        await asyncio.sleep(0.1)


async def test_a_connection_that_was_never_authenticated_is_not_alive(bench: Bench) -> None:
    session, reports, account = await bench.linked()
    assert await session.alive() is True
    lines = account.lines
    bench.whatsapp.fail(Stage.LOGIN, How.HANG, PHONE)
    bench.whatsapp.drop(PHONE)
    await reports.next(d.Offline)
    async with asyncio.timeout(10):
        while account.lines == lines:  # TLS and Noise are done
            await asyncio.sleep(0.02)
    await stays(session, 1.5, False)
    bench.whatsapp.recover()
    for line in bench.whatsapp.lines:
        line.channel.abort()
    await reports.next(d.Online)
    assert await session.alive() is True


async def test_asking_while_the_library_dials_blocks_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_session, "ALIVE_TIMEOUT", 10.0)
    session, reports, _ = await bench.linked()
    bench.whatsapp.fail(Stage.PROXY, How.HANG)
    bench.whatsapp.drop(PHONE)
    await reports.next(d.Offline)
    started = time.monotonic()
    assert await asyncio.gather(*(session.alive() for _ in range(50))) == [False] * 50
    assert time.monotonic() - started < driver_session.ALIVE_TIMEOUT
    started = time.monotonic()
    await session.stop()
    assert time.monotonic() - started < 5


async def test_a_stream_that_ended_in_an_error_is_not_alive(bench: Bench) -> None:
    session, reports, _ = await bench.linked()
    channel = bench.whatsapp.accounts[PHONE].line
    assert channel is not None
    channel.channel.close = lambda: None  # type: ignore[method-assign]  # the error alone, and the connection stands
    bench.whatsapp.stream_error(PHONE, "599")
    await reports.next(d.StreamFailed)
    assert await session.alive() is False
