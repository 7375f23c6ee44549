"""A pairing, from the start to the first connection: codes, their expiry, and what interrupts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from roundtrip import events as e
from roundtrip.clock import rfc3339
from roundtrip.drivers import base as d
from roundtrip.links.record import LinkState
from tests.support.links import KEY, NAME, ONLINE, OTHER, PHONE, QR, settle, staged, write_key_file

S = LinkState


async def test_from_the_start_to_connected(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        snapshot = await stage.service.start(KEY, None, f"00-{7:032x}-{8:016x}-01")
        assert snapshot.state is LinkState.CONNECTING
        assert stage.publisher.types() == ["Connecting"]
        await settle()
        await stage.clock.advance(1.0)
        await stage.report(QR)
        shown = stage.service.snapshot(KEY)
        assert (shown.state, shown.qr, shown.index, shown.total) == (LinkState.QR, QR.qr, 1, 6)
        end = stage.clock.now() + 60.0
        assert stage.publisher.last == e.Qr(QR.qr, 1, 6, rfc3339(end))
        assert stage.publisher.calls[-1]["expires_at"] == int(end * 1000)
        await stage.report(d.PairSucceeded(PHONE))
        assert stage.state() is LinkState.PAIRED
        assert stage.service.snapshot(KEY).qr is None
        await stage.clock.advance(2.0)
        await stage.report(ONLINE)
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=True)
        assert stage.metrics.pairings == [pytest.approx(3.0)]
        [context] = {call["traceparent"] for call in stage.publisher.calls}
        assert context.startswith(f"00-{7:032x}-"), "all events of a link join the trace of its request"
        assert {call["link_id"] for call in stage.publisher.calls} == {snapshot.link_id}
        assert stage.metrics.transitions == [
            ("connecting", "requested"),
            ("qr", "code_shown"),
            ("paired", "pair_success"),
            ("connected", "authenticated"),
        ]


async def test_a_phone_number_asks_for_a_pairing_code(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone="+49 (1512) 345-6789")
        assert stage.session().spec.phone_number == "+4915123456789"
        await stage.report(QR, d.PairingCodeShown("ABCD-1234", 160.0))
        assert stage.service.snapshot(KEY).pairing_code == "ABCD-1234"
        assert stage.service.snapshot(KEY).qr is None
        await stage.report(QR)  # the library goes on rotating, the user has a code to type
        assert stage.state() is LinkState.PAIRING_CODE
        assert stage.service.snapshot(KEY).pairing_code == "ABCD-1234"


async def test_a_refused_pairing_code_has_its_own_reason(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone=PHONE)
        await stage.report(d.ConnectFailed("pairing_code_refused"))
        assert stage.service.snapshot(KEY).reason_code == "pairing_code_refused"


@pytest.mark.parametrize("total", [1, 3, 6, 12])
async def test_codes_end_when_the_last_one_does_however_many_there_are(tmp_path: Path, total: int) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        session = stage.session()
        for index in range(1, total + 1):
            ttl = 60.0 if index == 1 else 20.0
            await stage.report(d.QrShown(f"2@{index},a,b,c", index, total, ttl))
            await stage.clock.advance(ttl)
            assert stage.state() is LinkState.QR
            assert stage.service.snapshot(KEY).qr is None  # ended, and not shown any more
        await stage.clock.advance(1.1)
        assert stage.state() is LinkState.QR_EXPIRED
        assert session.stopped
        assert stage.publisher.types() == ["Connecting", *["Qr"] * total, "QrExpired"]
        again = await stage.service.start(KEY)
        assert again.state is LinkState.CONNECTING
        assert again.link_id != session.spec.link_id


async def test_codes_that_stop_coming_expire_too(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR)
        await stage.clock.advance(QR.ttl + 9.0)
        assert stage.state() is LinkState.QR
        await stage.clock.advance(1.1)
        assert stage.state() is LinkState.QR_EXPIRED


async def test_a_late_next_code_is_waited_for_and_a_late_last_one_is_not(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(d.QrShown("2@a,b,c,d", 5, 6, 20.0))
        await stage.clock.advance(29.9)
        assert stage.state() is S.QR
        await stage.report(d.QrShown("2@b,b,c,d", 6, 6, 20.0))
        await stage.clock.advance(20.9)
        assert stage.state() is S.QR
        await stage.clock.advance(0.2)
        assert stage.state() is S.QR_EXPIRED
        await stage.start(phone=PHONE)
        await stage.report(d.PairingCodeShown("ABCD-1234", 160.0))
        await stage.clock.advance(160.9)
        assert stage.state() is S.PAIRING_CODE
        await stage.clock.advance(0.2)
        assert stage.state() is S.QR_EXPIRED


async def test_paired_without_a_login_is_restarted_and_published_after_a_minute(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        write_key_file(stage.session().spec.store)
        await stage.report(QR, d.PairSucceeded(PHONE), d.Offline())
        await stage.clock.advance(4.9)
        assert len(stage.driver.sessions) == 1
        await stage.clock.advance(0.2)
        assert len(stage.driver.sessions) == 2
        assert stage.driver.sessions[0].stopped
        await stage.clock.advance(54.0)
        assert stage.state() is LinkState.PAIRED
        await stage.clock.advance(2.0)
        assert stage.state() is LinkState.DISCONNECTED
        assert stage.publisher.last.reason_code == "pairing_incomplete"
        assert stage.publisher.types()[-1] == "Disconnected"
        await stage.report(ONLINE)
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=True)


async def test_a_login_whose_report_is_late_is_not_restarted(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        write_key_file(stage.session().spec.store)
        await stage.report(QR, d.PairSucceeded(PHONE))
        stage.session().is_alive = True  # in, and waiting for the account's name
        await stage.clock.advance(8.0)
        await stage.report(ONLINE)
        assert len(stage.driver.sessions) == 1


async def test_a_login_that_is_in_and_never_reports_is_asked_again_and_restarted_once_it_is_out(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        write_key_file(stage.session().spec.store)
        await stage.report(QR, d.PairSucceeded(PHONE))
        stage.session().is_alive = True
        await stage.clock.advance(stage.settings.login_timeout + 1)
        stage.session().is_alive = False
        assert len(stage.driver.sessions) == 1
        await stage.clock.advance(stage.settings.login_timeout + 1)
        assert len(stage.driver.sessions) == 2


async def test_another_kind_of_code_or_number_restarts_the_pairing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR)
        await stage.start(phone=PHONE)
        assert stage.publisher.types() == ["Connecting", "Qr", "Connecting"]
        assert stage.session().spec.phone_number == PHONE
        assert stage.driver.sessions[0].stopped
        await stage.report(d.PairingCodeShown("ABCD-1234", 160.0))
        assert not stage.service.begins_pairing(KEY, PHONE)
        await stage.start(phone=PHONE)  # the same wish: nothing changes
        assert len(stage.driver.sessions) == 2
        assert stage.service.begins_pairing(KEY, "+14155550199")
        await stage.start(phone="+14155550199")
        assert stage.session().spec.phone_number == "+14155550199"
        await stage.start()
        assert stage.session().spec.phone_number is None
        assert len({session.spec.link_id for session in stage.driver.sessions}) == 1
        assert stage.metrics.restarts == 0


@pytest.mark.parametrize("asked", ["qr", "code"])
async def test_a_changed_pairing_has_its_own_timeout_and_resets_the_counts(tmp_path: Path, asked: str) -> None:
    async with staged(tmp_path, pairing_patience=300.0, retry_limit=2, retry_cap=1.0) as stage:
        await stage.start(phone=None if asked == "code" else PHONE)
        for _ in range(2):
            await stage.report(d.Unreachable("x"))
            await stage.clock.advance(1.1)
        await stage.clock.advance(290.0 - 2.2)
        await stage.start(phone=PHONE if asked == "code" else None)
        await stage.clock.advance(1.1)
        before = len(stage.publisher.published)
        await stage.report(d.Unreachable("x"))
        assert len(stage.publisher.published) == before, "the first failure of this wish"
        await stage.clock.advance(200.0)
        assert stage.state() in (S.CONNECTING, S.DISCONNECTED)
        await stage.clock.advance(100.0)
        assert stage.state() is S.FAILED


async def test_a_restarted_session_asks_for_the_same_kind_of_code(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone=PHONE)
        await stage.report(d.WorkerDied(1))
        await stage.clock.advance(1.1)
        assert stage.session().spec.phone_number == PHONE
        seeds = {session.spec.seed for session in stage.driver.sessions}
        assert len(seeds) == 1
        write_key_file(stage.session().spec.store)
        await stage.report(d.PairSucceeded(PHONE), d.WorkerDied(1))
        await stage.clock.advance(3.0)
        assert stage.session().spec.phone_number is None, "a paired device asks for no code"
        await stage.start(OTHER)
        assert stage.session(OTHER).spec.seed not in seeds


async def test_a_code_whose_worker_crashed_is_withdrawn(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR, d.WorkerDied(2))
        assert stage.state() is LinkState.CONNECTING
        assert stage.publisher.types() == ["Connecting", "Qr", "Connecting"]
        await stage.clock.advance(1.1)
        await stage.report(QR)
        assert stage.state() is LinkState.QR


async def test_a_first_start_without_any_answer_is_published_within_a_minute(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.clock.advance(46.0)
        assert stage.publisher.types() == ["Connecting", "Disconnected"]
        assert stage.publisher.last.reason_code == "unreachable"
        await stage.clock.advance(60.0)
        assert len(stage.driver.sessions) >= 2
        await stage.clock.advance(1800.0)  # nobody waits for a code any more
        assert stage.state() is LinkState.FAILED


async def test_a_network_that_drops_everything_ends_a_pairing(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=2) as stage:
        await stage.start()
        await stage.clock.advance(600.0)
        assert stage.service.snapshot(KEY).reason_code == "unreachable"
