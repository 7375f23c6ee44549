"""The real neonize against the stand-in: what a session reports of its connection, and of the end of its account."""

from __future__ import annotations

import pytest

from roundtrip.drivers import base as d
from tests.drivers.neonize.helpers import NAME, NUMBER, PHONE, Bench, gone
from tests.support.reports import ReportRecorder


async def test_a_dropped_connection_comes_back(bench: Bench) -> None:
    session, reports, _ = await bench.linked()
    bench.whatsapp.drop(PHONE)
    await reports.next(d.Offline)
    assert await reports.next(d.Online) == d.Online(NUMBER, NAME)
    assert await session.alive() is True


async def test_a_logout_on_the_phone(bench: Bench) -> None:
    session, reports, _ = await bench.linked()
    bench.whatsapp.logout_from_phone(PHONE)
    assert await reports.next(d.LoggedOutByPhone) == d.LoggedOutByPhone("401")
    await gone(session.pid)
    assert reports.names[-1] == "LoggedOutByPhone", "the end of the worker is no news of its own"


@pytest.mark.parametrize("reason", [401, 403, 406])
async def test_a_login_refused_because_the_device_is_gone(bench: Bench, reason: int) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.refuse(PHONE, reason)
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    assert await reports.next(d.LoggedOutByPhone) == d.LoggedOutByPhone(str(reason))


async def test_the_same_keys_elsewhere(bench: Bench) -> None:
    session, reports, _ = await bench.linked()
    bench.whatsapp.replace(PHONE)
    await reports.next(d.StreamReplaced)
    await gone(session.pid)


async def refused(bench: Bench, reason: int | str, **more: str) -> ReportRecorder:
    """A session whose connection drops and whose next login is refused."""
    _, reports, _ = await bench.linked()
    bench.whatsapp.refuse(PHONE, reason, **more)
    bench.whatsapp.drop(PHONE)
    return reports


async def test_a_temporary_ban_with_its_end(bench: Bench) -> None:
    reports = await refused(bench, 402, code="101", expire="3600")
    assert await reports.next(d.TemporaryBan) == d.TemporaryBan(101, 3600.0)


async def test_a_library_that_is_too_old(bench: Bench) -> None:
    reports = await refused(bench, 405)
    await reports.next(d.Outdated)


async def test_a_refusal_with_a_known_reason(bench: Bench) -> None:
    reports = await refused(bench, 409)
    assert await reports.next(d.ConnectFailed) == d.ConnectFailed("409")


async def test_a_refusal_with_an_unknown_reason(bench: Bench) -> None:
    reports = await refused(bench, 499)
    assert await reports.next(d.ConnectFailed) == d.ConnectFailed("499")


@pytest.mark.parametrize("reason", [409, 499])
async def test_a_first_login_that_is_refused(bench: Bench, reason: int) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.refuse(PHONE, reason)
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    assert await reports.next(d.ConnectFailed) == d.ConnectFailed(str(reason))


async def test_a_server_that_is_unwell_is_tried_again(bench: Bench) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.refuse(PHONE, 503)
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    await reports.next(d.Offline)
    bench.whatsapp.accept(PHONE)
    assert await reports.next(d.Online) == d.Online(NUMBER, NAME)


async def test_a_store_that_cannot_be_read(bench: Bench) -> None:
    store = bench.spec().store
    store.parent.mkdir()
    store.write_bytes(b"no database" * 500)
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    assert await reports.next(d.ConnectFailed) == d.ConnectFailed("store_unreadable")


async def test_a_stream_error_of_no_known_kind(bench: Bench) -> None:
    _, reports, _ = await bench.linked()
    bench.whatsapp.stream_error(PHONE, "599")
    assert await reports.next(d.StreamFailed) == d.StreamFailed("599")
    await reports.next(d.Online)


async def test_nobody_answers_at_the_address(bench: Bench) -> None:
    await bench.whatsapp.stop()
    reports = ReportRecorder()
    session = await bench.driver.start(bench.spec(), reports)
    found = await reports.next(d.Unreachable)
    assert found.message == "the dial failed: connection refused"
    await gone(session.pid)
    assert reports.names == ["Unreachable"]


async def test_a_connection_lost_before_a_phone_paired(bench: Bench) -> None:
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    await reports.next(d.QrShown)
    for line in bench.whatsapp.lines:
        line.channel.abort()
    await reports.next(d.Unreachable)


@pytest.mark.slow
@pytest.mark.waits(60)
async def test_pings_that_go_unanswered(bench: Bench) -> None:
    _, reports, _ = await bench.linked()
    bench.whatsapp.silence(PHONE)
    await reports.next(d.KeepAliveLost, within=60)
    bench.whatsapp.silence(PHONE, on=False)
    await reports.next(d.KeepAliveRestored, within=60)
