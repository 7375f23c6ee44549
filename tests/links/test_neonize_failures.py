"""The real neonize against a stand-in that fails: what a session reports, stage by stage and number by number."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from roundtrip import settings
from roundtrip.drivers import base as d
from roundtrip.drivers.base import ConnectStage
from roundtrip.drivers.neonize import driver as neonize_driver
from roundtrip.drivers.neonize.driver import NeonizeDriver
from tests.links.reports import Heard
from tests.links.test_neonize_driver import NAME, NUMBER, PHONE, Bench, gone
from tests.whatsapp.schema import companion_reg
from tests.whatsapp.stand_in import StandIn, stand_in
from tests.whatsapp.troubles import How, Stage


@pytest.fixture
async def whatsapp() -> AsyncIterator[StandIn]:
    async with stand_in() as server:
        yield server


@pytest.fixture
async def bench(tmp_path: Path, whatsapp: StandIn) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, whatsapp)
    try:
        yield bench
    finally:
        await bench.driver.close()


# a start that fails


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
    for stage, how, expected in STAGES:
        bench.whatsapp.fail(stage, how)
        heard = Heard()
        failed = await bench.driver.start(bench.spec(), heard)
        found = await heard.next(d.Unreachable)
        assert found.stage is expected, (stage, how)
        assert heard.names == ["Unreachable"], (stage, how)
        await gone(failed.pid)
        bench.whatsapp.recover()
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    assert (await heard.next(d.Online)).phone_number == NUMBER
    assert account.logins == 2


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.parametrize("how", [How.HANG, How.REFUSE])
async def test_a_handshake_without_an_answer_is_no_refusal(bench: Bench, how: How) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.fail(Stage.NOISE, how)
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    found = await heard.next(d.Unreachable, within=40)  # the library waits 20 s
    assert found == d.Unreachable("the Noise handshake failed: timed out", ConnectStage.HANDSHAKE)


async def test_a_network_that_is_lost_after_the_scan_is_told(bench: Bench) -> None:
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    code = await heard.next(d.QrShown)
    bench.whatsapp.fail(Stage.WEBSOCKET)
    await bench.whatsapp.scan(code.qr, PHONE, NAME)
    await heard.next(d.PairSucceeded)
    assert (await heard.next(d.Unreachable, within=20)).stage is ConnectStage.DIAL
    bench.whatsapp.recover()
    again = Heard()
    await bench.driver.start(bench.spec(), again)
    assert (await again.next(d.Online)).phone_number == NUMBER, "no second scan"


# refusals by number


async def login(bench: Bench, reason: int | str, **more: str) -> Heard:
    """What a new session of the linked account hears when its login is refused."""
    bench.whatsapp.refuse(PHONE, reason, **more)
    heard = Heard()
    session = await bench.driver.start(bench.spec(), heard)
    async with asyncio.timeout(15):
        while not heard.all:
            await asyncio.sleep(0.02)
    await session.stop()
    return heard


@pytest.mark.slow
@pytest.mark.waits
async def test_every_refusal_is_told_by_its_number_and_leaves_the_keys(bench: Bench) -> None:
    session, _, account = await bench.linked()
    await session.stop()
    for reason in (415, 429, 463, 599):
        assert (await login(bench, reason)).all == [d.ConnectFailed(str(reason))]
    assert (await login(bench, "what")).all == [d.ConnectFailed("unknown")]
    bench.whatsapp.accept(PHONE)
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    await heard.next(d.Online)
    assert account.logins == 2


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
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    await heard.next(d.Online)


@pytest.mark.parametrize("reason", [413, 414])
async def test_what_makes_the_library_panic_is_told_as_a_death(bench: Bench, reason: int) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    (died,) = (await login(bench, reason)).all
    assert isinstance(died, d.WorkerDied)
    assert died.exit_status in (2, -signal.SIGABRT), "how Go ends a process, and how C does when Go asks it to"
    bench.whatsapp.accept(PHONE)
    again = Heard()
    await bench.driver.start(bench.spec(), again)
    await again.next(d.Online)


# what counts as alive


async def stays(session: neonize_driver.NeonizeSession, seconds: float, *allowed: bool | None) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert await session.alive() in allowed
        await asyncio.sleep(0.1)


async def test_a_connection_that_was_never_authenticated_is_not_alive(bench: Bench) -> None:
    session, heard, account = await bench.linked()
    assert await session.alive() is True
    lines = account.lines
    bench.whatsapp.fail(Stage.LOGIN, How.HANG, PHONE)
    bench.whatsapp.drop(PHONE)
    await heard.next(d.Offline)
    async with asyncio.timeout(10):
        while account.lines == lines:  # TLS and Noise are done
            await asyncio.sleep(0.02)
    await stays(session, 1.5, False)
    bench.whatsapp.recover()
    for line in bench.whatsapp.lines:
        line.channel.abort()
    await heard.next(d.Online)
    assert await session.alive() is True


async def test_asking_while_the_library_dials_blocks_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neonize_driver, "ALIVE_DEADLINE", 2.0)
    session, heard, _ = await bench.linked()
    bench.whatsapp.fail(Stage.PROXY, How.HANG)
    bench.whatsapp.drop(PHONE)
    await heard.next(d.Offline)
    started = time.monotonic()
    assert await asyncio.gather(*(session.alive() for _ in range(50))) == [False] * 50
    assert time.monotonic() - started < 2
    started = time.monotonic()
    await session.stop()
    assert time.monotonic() - started < 5


async def test_a_stream_that_ended_in_an_error_is_not_alive(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    channel = bench.whatsapp.accounts[PHONE].line
    assert channel is not None
    channel.channel.close = lambda: None  # type: ignore[method-assign]  # the error alone, and the connection stands
    bench.whatsapp.stream_error(PHONE, "599")
    await heard.next(d.StreamFailed)
    assert await session.alive() is False


# logging out


async def test_a_logout_that_cannot_reach_whatsapp_keeps_the_keys(bench: Bench) -> None:
    session, heard, account = await bench.linked()
    bench.whatsapp.fail(Stage.TCP)
    bench.whatsapp.drop(PHONE)
    await heard.next(d.Offline)
    started = time.monotonic()
    with pytest.raises(d.DeviceNotRemovedError):
        await session.logout()
    assert time.monotonic() - started < 13
    assert bench.spec().store.is_file()
    assert account.device_key
    bench.whatsapp.recover()
    again = Heard()
    later = await bench.driver.start(bench.spec(), again)
    await later.logout()  # at once: it waits for the connection
    assert account.device_key == b""
    assert list(bench.spec().store.parent.iterdir()) == []


async def test_a_logout_that_whatsapp_refuses_keeps_the_keys(bench: Bench) -> None:
    session, _, account = await bench.linked()
    bench.whatsapp.unwell(PHONE, "md", error="500")
    with pytest.raises(d.DeviceNotRemovedError):
        await session.logout()
    assert account.device_key
    assert bench.spec().store.is_file()
    await gone(session.pid)


async def test_a_logout_with_no_answer_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neonize_driver, "LOGOUT_DEADLINE", 3.0)
    session, _, _ = await bench.linked()
    bench.whatsapp.unwell(PHONE, "md", delay=60)
    started = time.monotonic()
    with pytest.raises(d.DeviceNotRemovedError):
        await session.logout()
    assert time.monotonic() - started < 6
    assert bench.spec().store.is_file()


async def test_a_logout_of_a_session_whose_worker_died_keeps_the_keys(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    os.kill(session.pid, signal.SIGKILL)
    await heard.next(d.WorkerDied)
    with pytest.raises(d.DeviceNotRemovedError):
        await session.logout()
    assert bench.spec().store.is_file()


async def test_a_logout_while_the_phone_removes_the_device(bench: Bench) -> None:
    session, _, _ = await bench.linked()
    bench.whatsapp.unwell(PHONE, "md", delay=60)
    logout = asyncio.create_task(session.logout())
    await asyncio.sleep(0.2)
    bench.whatsapp.logout_from_phone(PHONE)
    await logout
    assert list(bench.spec().store.parent.iterdir()) == []


# codes


@pytest.mark.slow
@pytest.mark.waits
async def test_codes_end_with_the_list_that_whatsapp_gave(bench: Bench) -> None:
    bench.whatsapp.refs = 2
    heard = Heard()
    session = await bench.driver.start(bench.spec(), heard)
    for index in (1, 2):
        shown = await heard.next(d.QrShown, within=30)
        assert (shown.index, shown.total, shown.ttl) == (index, 2, 20.0)
        at = time.monotonic()
    await heard.next(d.CodesUsedUp, within=30)
    assert 15 < time.monotonic() - at < 25
    await gone(session.pid)


async def test_eight_codes(bench: Bench) -> None:
    bench.whatsapp.refs = 8
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    shown = await heard.next(d.QrShown)
    assert (shown.index, shown.total, shown.ttl) == (1, 8, 20.0), "whatsmeow gives 60 s to the sixth from the end"


async def test_a_pairing_code_lasts_as_long_as_the_codes_behind_it(bench: Bench) -> None:
    bench.whatsapp.refs = 3
    heard = Heard()
    await bench.driver.start(bench.spec(phone_number=NUMBER), heard)
    shown = await heard.next(d.PairingCodeShown)
    assert 50 < shown.ttl <= 60


# what the phone's list of linked devices shows


@pytest.mark.parametrize("name", ["Roundtrip", "Büro №1"])
async def test_the_phone_lists_the_device_under_the_operators_name(bench: Bench, name: str) -> None:
    driver = NeonizeDriver(
        bench.whatsapp.proxy_url,
        worker_command=bench.whatsapp.worker_command,
        environment={"PATH": os.environ["PATH"], **bench.whatsapp.environment},
        device_name=name,
    )
    try:
        heard = Heard()
        await driver.start(bench.spec(), heard)
        await heard.next(d.QrShown)
    finally:
        await driver.close()
    pairing = bench.whatsapp.registrations[-1].payload.devicePairingData
    props = companion_reg.DeviceProps.FromString(pairing.deviceProps)
    assert props.os == name
    assert props.platformType == companion_reg.DeviceProps.DESKTOP
    assert not props.requireFullSync
    assert props.historySyncConfig.storageQuotaMb == 1
    assert not any(
        getattr(props.historySyncConfig, field.name)
        for field in props.historySyncConfig.DESCRIPTOR.fields
        if field.name.startswith("support")
    )


# workers that do not answer


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neonize_driver, "HEARTBEAT", 0.3)
    monkeypatch.setattr(neonize_driver, "SILENT", 1.0)


@pytest.mark.usefixtures("quick_watch")
async def test_a_worker_that_hangs_is_ended_and_told(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    os.kill(session.pid, signal.SIGSTOP)
    died = await heard.next(d.WorkerDied, within=5)
    assert died == d.WorkerDied(-signal.SIGKILL, unresponsive=True)
    await gone(session.pid)


@pytest.mark.usefixtures("quick_watch")
async def test_a_worker_that_waits_for_the_network_is_not_ended(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    bench.whatsapp.fail(Stage.PROXY, How.HANG)
    bench.whatsapp.drop(PHONE)
    await heard.next(d.Offline)
    await asyncio.sleep(3)  # the library dials all the while, and holds its lock
    assert heard.names[-1] == "Offline"
    assert await session.alive() is False


@pytest.mark.usefixtures("quick_watch")
async def test_a_parent_that_did_not_run_blames_no_worker(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    for pause in (3.0, 1.4, 3.0):
        time.sleep(pause)  # noqa: ASYNC251 -- this process' loop stands still, as it does while it is stopped
        await asyncio.sleep(0)
    await asyncio.sleep(2)
    assert heard.names[-1] == "Online"
    assert await session.alive() is True


async def test_a_worker_that_never_says_anything_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neonize_driver, "HEARTBEAT", 0.2)
    monkeypatch.setattr(neonize_driver, "FIRST_BEAT", 0.6)
    heard = Heard()
    driver = NeonizeDriver(worker_command=(sys.executable, "-c", "import time; time.sleep(60)"))
    await driver.start(d.SessionSpec("x", tmp_path / "x", None), heard)
    assert (await heard.next(d.WorkerDied, within=5)).unresponsive
    await driver.close()


def test_a_hung_worker_is_noticed_within_half_a_minute() -> None:
    assert neonize_driver.SILENT + 3 * neonize_driver.HEARTBEAT <= 30


@pytest.mark.parametrize("name", ["", "   ", "two\nlines", "x" * 65])
def test_a_device_name_that_no_list_can_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_AUTH", "trusted")
    monkeypatch.setenv("ROUNDTRIP_DEVICE_NAME", name)
    with pytest.raises(settings.SettingsError, match="ROUNDTRIP_DEVICE_NAME"):
        settings.load()
