"""Bad minutes at WhatsApp heal by themselves: the whole program with the real library, one row a test.

The rule under all of them: a paired account is given up only when WhatsApp says that it is gone. What the page is told
is true, and nothing is called connected that WhatsApp has not let in.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.whatsapp.scenario import NUMBER, PHONE, Scenario, elapsed, scenario
from tests.whatsapp.schema import companion_reg
from tests.whatsapp.troubles import How, Stage

pytestmark = [pytest.mark.slow, pytest.mark.waits]

FINAL = {"failed", "logged_out", "replaced", "qr_expired", "client_outdated"}
"""What a page must not be told of a paired account that WhatsApp did not give up."""

LOAD = 40.0
"""Seconds that something may take on a machine that does much else; what it really takes is far less."""


def never_final(it: Scenario) -> None:
    assert not FINAL & set(it.types()), it.types()
    assert len(it.keys()) == 1


async def comes_back(it: Scenario, within: float = LOAD) -> None:
    """Connected again, by itself, with the same keys and no code."""
    since = it.count
    await it.told("whatsapp_connected", within=within)
    snapshot = await it.api.state("connected", within=within)
    assert snapshot["phoneNumber"] == NUMBER
    assert not {"qr", "pairing_code"} & set(it.types(since))
    assert (await it.view())["state"] == "connected"


async def test_a_start_that_fails_at_every_stage(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        failures = [
            (Stage.TCP, How.REFUSE),
            (Stage.PROXY, How.REFUSE),
            (Stage.TLS, How.LIE),
            (Stage.WEBSOCKET, How.REFUSE),
            (Stage.NOISE, How.LIE),
            (Stage.NOISE, How.LIE),
            (Stage.LOGIN, How.REFUSE),
        ]
        for stage, how in failures:
            it.whatsapp.fail(stage, how, times=1)
        account = it.whatsapp.accounts[PHONE]
        logins = account.logins
        await it.restart()
        await it.until(lambda: account.logins > logins, within=2 * LOAD)
        await it.api.state("connected", within=LOAD)
        assert [(trouble.stage, trouble.how) for _, trouble in it.whatsapp.troubles.met] == failures
        never_final(it)
        assert (await it.view())["state"] == "connected"
        assert await it.metric("roundtrip_link_restarts_total") >= 5


async def test_the_network_is_lost_at_the_reconnect_after_the_scan(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.api.link()
        code = await it.told("whatsapp_qr", within=LOAD)
        it.whatsapp.fail(Stage.WEBSOCKET, How.REFUSE, times=1)
        await it.whatsapp.scan(code["qr"], PHONE)
        await it.told("whatsapp_paired", within=LOAD)
        await comes_back(it)
        assert it.whatsapp.troubles.met
        never_final(it)


async def test_no_answer_at_the_reconnect_after_the_scan(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.api.link()
        code = await it.told("whatsapp_qr", within=LOAD)
        it.whatsapp.fail(Stage.PROXY, How.HANG, times=1)
        await it.whatsapp.scan(code["qr"], PHONE)
        await it.told("whatsapp_paired", within=LOAD)
        await comes_back(it)
        never_final(it)


@pytest.mark.parametrize("more", [{"code": "199", "expire": "5"}, {}], ids=["unknown code", "nothing named"])
async def test_a_ban_that_has_no_name(tmp_path: Path, more: dict[str, str]) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        account = it.whatsapp.accounts[PHONE]
        it.whatsapp.refuse(PHONE, 402, **more)
        it.whatsapp.drop(PHONE)
        banned = await it.told("whatsapp_banned", within=LOAD)
        lines, at = account.lines, time.monotonic()
        assert "press" not in banned["userAction"].lower()
        assert (await it.view())["state"] == "banned"
        if more:
            until = datetime.fromisoformat(banned["until"])
            assert abs((until - datetime.now(UTC)).total_seconds() - 5) < 4
        await it.until(lambda: account.lines > lines, within=LOAD)
        assert elapsed(at) > 2, "nobody dials during a ban"
        it.whatsapp.accept(PHONE)
        await comes_back(it)
        never_final(it)


async def test_nothing_is_connected_that_was_never_let_in(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        account = it.whatsapp.accounts[PHONE]
        lines = account.lines
        it.whatsapp.fail(Stage.LOGIN, How.HANG, PHONE)
        it.whatsapp.drop(PHONE)
        await it.told("whatsapp_disconnected", within=LOAD)
        await it.until(lambda: account.lines > lines, within=LOAD)
        assert "connected" not in await it.quiet(5), "the truth is looked at every second"
        assert (await it.view())["state"] == "disconnected"
        it.whatsapp.recover()
        await comes_back(it)
        never_final(it)


@pytest.mark.waits(45)
async def test_a_connection_that_the_network_forgot(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        it.whatsapp.freeze(PHONE)
        at = time.monotonic()
        degraded = await it.told("whatsapp_degraded", "whatsapp_disconnected", within=60)
        if degraded["type"] == "whatsapp_degraded":
            assert degraded["reasonCode"]
            assert degraded["userAction"]
        await comes_back(it, within=90)
        assert elapsed(at) < 90
        never_final(it)


async def test_refusals_that_may_pass(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        account = it.whatsapp.accounts[PHONE]
        for reason in (463, 599):
            it.whatsapp.refuse(PHONE, reason)
            it.whatsapp.drop(PHONE)
            lines = account.lines
            await it.told("whatsapp_disconnected", within=LOAD)
            await it.until(lambda lines=lines: account.lines >= lines + 2, within=LOAD)
            it.whatsapp.accept(PHONE)
            await comes_back(it)
        never_final(it)
        assert 'whatsapp_reason": "463"' in it.program.text().replace('":"', '": "')


async def test_a_refusal_for_asking_too_often_is_retried_four_times_as_slowly(tmp_path: Path) -> None:
    first, cap, factor, times = 0.4, 0.8, 4, 4
    async with scenario(tmp_path, refused_first=first, refused_cap=cap) as it:
        await it.pair()
        account = it.whatsapp.accounts[PHONE]
        it.whatsapp.refuse(PHONE, 429)
        it.whatsapp.drop(PHONE)
        await it.until(lambda: len(account.refused_at) >= times, within=LOAD)
        out = await it.told("whatsapp_disconnected", within=LOAD)
        assert out["reasonCode"] == "rate_limited", out
        gaps = [after - before for before, after in pairwise(account.refused_at[:times])]
        # the least that the jitter leaves of each wait
        least = [min(cap, first * 2**attempt) / 2 * factor for attempt in range(times - 1)]
        assert all(gap >= wait for gap, wait in zip(gaps, least, strict=True)), (gaps, least)
        it.whatsapp.accept(PHONE)
        await comes_back(it)
        never_final(it)


async def test_a_ban_by_the_number_406(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        it.whatsapp.refuse(PHONE, 406)
        it.whatsapp.drop(PHONE)
        out = await it.told("whatsapp_banned", "whatsapp_logged_out", within=LOAD)
        assert "Press" not in out["userAction"]
        assert out["reasonCode"] != "logged_out_by_whatsapp"


async def test_what_makes_the_library_panic(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        it.whatsapp.refuse(PHONE, 413)
        it.whatsapp.drop(PHONE)
        await it.grows('roundtrip_worker_exits_total{cause="panicked"}', 1, within=LOAD)
        it.whatsapp.accept(PHONE)
        await it.api.state("connected", within=LOAD)
        await it.until(lambda: it.whatsapp.accounts[PHONE].logins >= 2, within=LOAD)
        await it.span("worker move", roundtrip_worker_exit="panicked")
        never_final(it)


async def test_the_program_is_ready_while_whatsapp_is_ill(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        it.whatsapp.fail(Stage.TLS, How.HANG)
        await it.restart()
        at = time.monotonic()
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{it.program.admin_url}/readyz") as answer:
                    if answer.status == 200:
                        break
                assert elapsed(at) < 5, "ready means that pages can be served"
                await asyncio.sleep(0.1)
        it.whatsapp.recover()


async def test_more_deaths_of_a_worker_than_the_limit(tmp_path: Path) -> None:
    async with scenario(tmp_path, flap_limit=100, restart_limit=2) as it:
        await it.pair()
        account = it.whatsapp.accounts[PHONE]
        for _ in range(4):
            worker = await it.worker()
            logins = account.logins
            os.kill(worker.pid, signal.SIGKILL)
            await it.until(lambda logins=logins: account.logins > logins, within=LOAD)
        await it.api.state("connected", within=LOAD)
        never_final(it)
        assert await it.metric('roundtrip_worker_exits_total{cause="killed"}') == 4


async def test_another_kind_of_code(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.api.link()
        await it.told("whatsapp_qr", within=LOAD)
        await it.api.link(phone_number=NUMBER)
        shown = await it.told("whatsapp_pairing_code", within=LOAD)
        await it.api.link(phone_number="+4915112345678")
        other = await it.told("whatsapp_pairing_code", within=LOAD)
        assert other["pairingCode"] != shown["pairingCode"]
        await it.api.link(phone_number=NUMBER)
        third = await it.told("whatsapp_pairing_code", within=LOAD)
        it.whatsapp.enter_code(third["pairingCode"], PHONE)
        assert (await it.told("whatsapp_connected", within=LOAD))["phoneNumber"] == NUMBER


async def test_a_logout_that_cannot_reach_whatsapp(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        account = it.whatsapp.accounts[PHONE]
        it.whatsapp.fail(Stage.TCP, How.REFUSE)
        it.whatsapp.drop(PHONE)
        await it.told("whatsapp_disconnected", within=LOAD)
        at = time.monotonic()
        status, _ = await it.api.call("DELETE", "/api/bots/bot/link")
        assert status == 200
        assert elapsed(at) < 3, "the page does not wait for WhatsApp"
        out = await it.told("whatsapp_logged_out", within=LOAD)
        assert out["reasonCode"] == "requested"
        assert "phone" in out["userAction"]
        await asyncio.sleep(1)
        assert len(it.keys()) == 1, "the removal needs them"
        assert account.device_key
        it.whatsapp.recover()
        await it.until(lambda: not account.device_key, within=2 * LOAD)
        await it.until(lambda: not it.keys(), within=LOAD)


async def test_a_first_link_whose_dials_vanish(tmp_path: Path) -> None:
    async with scenario(tmp_path, stuck_timeout=6) as it:
        it.whatsapp.fail(Stage.PROXY, How.HANG)
        await it.api.link()
        told = await it.told("whatsapp_disconnected", "whatsapp_failed", within=60)
        assert told["reasonCode"] == "unreachable"
        it.whatsapp.recover()
        await it.told("whatsapp_qr", within=LOAD)


@pytest.mark.waits(30)
async def test_a_worker_that_does_not_answer(tmp_path: Path) -> None:
    async with scenario(tmp_path, truth_interval=600) as it:
        await it.pair()
        worker, logins = await it.worker(), it.whatsapp.accounts[PHONE].logins
        os.kill(worker.pid, signal.SIGSTOP)
        at = time.monotonic()
        await it.until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, within=45)
        assert elapsed(at) < 30
        await it.until(lambda: it.whatsapp.accounts[PHONE].logins > logins, within=LOAD)
        await it.api.state("connected", within=LOAD)
        assert await it.metric('roundtrip_worker_exits_total{cause="unresponsive"}') == 1
        await it.span("worker move", roundtrip_worker_exit="unresponsive")
        never_final(it)


@pytest.mark.waits(35)
async def test_a_program_that_was_suspended_blames_no_worker(tmp_path: Path) -> None:
    from roundtrip.drivers.neonize.process import HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT

    async with scenario(tmp_path, ack_timeout=60, ping_timeout=120) as it:
        await it.pair()
        worker, logins = await it.worker(), it.whatsapp.accounts[PHONE].logins
        os.kill(it.program.pid, signal.SIGSTOP)
        await asyncio.sleep(HEARTBEAT_TIMEOUT + HEARTBEAT_INTERVAL + 2)
        os.kill(it.program.pid, signal.SIGCONT)
        assert await it.quiet(2 * HEARTBEAT_INTERVAL + 1) == []
        assert (await it.worker()).pid == worker.pid
        assert it.whatsapp.accounts[PHONE].logins == logins
        assert (await it.view())["state"] == "connected"


@pytest.mark.waits(20)
async def test_codes_that_nobody_scans(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        it.whatsapp.refs = 1
        await it.api.link()
        shown = await it.told("whatsapp_qr", within=LOAD)
        assert (shown["index"], shown["total"]) == (1, 1)
        left = (datetime.fromisoformat(shown["expiresAt"]) - datetime.now(UTC)).total_seconds()
        assert 10 < left <= 20
        await it.told("whatsapp_qr_expired", within=45)
        assert it.types() == ["connecting", "qr", "qr_expired"]
        await it.until(lambda: not it.keys())


async def test_the_name_on_the_phone(tmp_path: Path) -> None:
    async with scenario(tmp_path, device_name="Front desk") as it:
        await it.api.link()
        await it.told("whatsapp_qr", within=LOAD)
        pairing = it.whatsapp.registrations[-1].payload.devicePairingData
        assert companion_reg.DeviceProps.FromString(pairing.deviceProps).os == "Front desk"


@pytest.mark.waits(65)
async def test_a_connection_that_goes_into_a_black_hole_with_all_that_follow(tmp_path: Path) -> None:
    """Nothing arrives and nothing is refused, neither on the connection that stands nor on new ones, for a while."""
    async with scenario(tmp_path, stuck_timeout=6) as it:
        await it.pair()
        it.whatsapp.fail(Stage.TCP, How.HANG)
        it.whatsapp.freeze(PHONE)
        await it.told("whatsapp_degraded", "whatsapp_disconnected", within=60)
        await it.until(lambda: len(it.whatsapp.troubles.met) > 1, within=60)  # it was dialed, and dialed again
        at = time.monotonic()
        it.whatsapp.recover()
        await comes_back(it, within=90)
        assert elapsed(at) < 90
        never_final(it)


async def test_one_number_under_two_bots_says_so(tmp_path: Path) -> None:
    async with scenario(tmp_path) as it:
        await it.pair()
        assert not it.events[-1].get("alsoLinkedElsewhere")
        await it.api.link("second")
        second = await it.api.state("qr", "second", within=LOAD)
        await it.whatsapp.scan(second["qr"], PHONE)
        assert (await it.api.state("connected", "second", within=LOAD))["alsoLinkedElsewhere"] is True
        async with asyncio.timeout(LOAD):
            while not (await it.api.snapshot()).get("alsoLinkedElsewhere"):
                await asyncio.sleep(0.1)
        assert len(it.keys()) == 2
