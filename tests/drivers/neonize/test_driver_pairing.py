"""The real neonize against the stand-in: linking an account, by QR and by pairing code."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
from tests.drivers.neonize.helpers import NAME, NUMBER, PHONE, Bench, gone
from tests.support.reports import ReportRecorder
from tests.whatsapp.schema import companion_reg


async def test_from_qr_to_connected_with_number_and_name(bench: Bench) -> None:
    reports = ReportRecorder()
    session = await bench.driver.start(bench.spec(), reports)
    code = await reports.next(d.QrShown)
    assert (code.index, code.total, code.ttl) == (1, 6, 60.0)
    await bench.whatsapp.scan(code.qr, PHONE, NAME)
    assert await reports.next(d.PairSucceeded) == d.PairSucceeded(NUMBER)
    assert await reports.next(d.Online) == d.Online(NUMBER, NAME)
    assert reports.names == ["QrShown", "PairSucceeded", "Online"]
    assert await session.alive() is True


async def test_the_name_of_a_business_comes_with_the_pairing(bench: Bench) -> None:
    bench.whatsapp.account(PHONE, "Analytical Engines").business = True
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    code = await reports.next(d.QrShown)
    await bench.whatsapp.scan(code.qr, PHONE)
    assert await reports.next(d.Online) == d.Online(NUMBER, "Analytical Engines")


async def test_an_account_whose_name_does_not_come_is_online_all_the_same(bench: Bench) -> None:
    account = bench.whatsapp.account(PHONE, "")
    account.business = True
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    code = await reports.next(d.QrShown)
    await bench.whatsapp.scan(code.qr, PHONE)
    assert await reports.next(d.Online) == d.Online(NUMBER, "")


async def test_a_paired_account_comes_back_without_a_code(bench: Bench) -> None:
    session, _, account = await bench.linked()
    await session.stop()
    logins = account.logins
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    assert await reports.next(d.Online) == d.Online(NUMBER, NAME)
    assert reports.names == ["Online"]
    assert account.logins == logins + 1


async def test_linking_by_a_code_typed_into_the_phone(bench: Bench) -> None:
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(phone_number=NUMBER), reports)
    shown = await reports.next(d.PairingCodeShown)
    assert len(shown.code.replace("-", "")) == 8
    assert 150 < shown.ttl <= 160
    bench.whatsapp.enter_code(shown.code, PHONE, NAME)
    assert await reports.next(d.Online) == d.Online(NUMBER, NAME)
    assert reports.names == ["PairingCodeShown", "PairSucceeded", "Online"]


async def test_codes_are_used_up_after_their_lifetime(bench: Bench) -> None:
    reports = ReportRecorder()
    bench.driver = bench.make(code_life=0.5)
    session = await bench.driver.start(bench.spec(), reports)
    await reports.next(d.QrShown)
    await reports.next(d.CodesUsedUp)
    await gone(session.pid)
    assert reports.names == ["QrShown", "CodesUsedUp"]


async def test_a_phone_whose_signature_is_wrong_does_not_link(bench: Bench) -> None:
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    code = await reports.next(d.QrShown)
    ref, noise, identity, _secret, *rest = code.qr.split(",")
    forged = ",".join([ref, noise, identity, "A" * 43 + "=", *rest])
    pairing = asyncio.create_task(bench.whatsapp.scan(forged, PHONE, NAME))
    assert await reports.next(d.ConnectFailed) == d.ConnectFailed("pair_error")
    pairing.cancel()
    await asyncio.wait([pairing])


@pytest.mark.slow
@pytest.mark.waits(40)
async def test_codes_end_with_the_list_that_whatsapp_gave(bench: Bench) -> None:
    bench.whatsapp.refs = 2
    reports = ReportRecorder()
    session = await bench.driver.start(bench.spec(), reports)
    for index in (1, 2):
        shown = await reports.next(d.QrShown, within=30)
        assert (shown.index, shown.total, shown.ttl) == (index, 2, 20.0)
        at = time.monotonic()
    await reports.next(d.CodesUsedUp, within=30)
    assert 15 < time.monotonic() - at < 25
    await gone(session.pid)


async def test_eight_codes(bench: Bench) -> None:
    bench.whatsapp.refs = 8
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(), reports)
    shown = await reports.next(d.QrShown)
    assert (shown.index, shown.total, shown.ttl) == (1, 8, 20.0), "whatsmeow gives 60 s to the sixth from the end"


async def test_a_pairing_code_lasts_as_long_as_the_codes_behind_it(bench: Bench) -> None:
    bench.whatsapp.refs = 3
    reports = ReportRecorder()
    await bench.driver.start(bench.spec(phone_number=NUMBER), reports)
    shown = await reports.next(d.PairingCodeShown)
    assert 50 < shown.ttl <= 60


@pytest.mark.parametrize("name", ["Roundtrip", "Büro №1"])
async def test_the_phone_lists_the_device_under_the_operators_name(bench: Bench, name: str) -> None:
    driver = NeonizeDriver(
        bench.whatsapp.proxy_url,
        worker_command=bench.whatsapp.worker_command,
        environment={"PATH": os.environ["PATH"], **bench.whatsapp.environment},
        device_name=name,
    )
    try:
        reports = ReportRecorder()
        await driver.start(bench.spec(), reports)
        await reports.next(d.QrShown)
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
