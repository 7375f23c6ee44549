"""The life of a link through the service: what is said, in which order, and what becomes of the session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from roundtrip import events as e
from roundtrip.api.problems import STATUS
from roundtrip.clock import rfc3339
from roundtrip.drivers import base as d
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.errors import StorageError
from roundtrip.identity import BotKey
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from tests.support.links import (
    KEY,
    NAME,
    ONLINE,
    OTHER,
    PHONE,
    QR,
    FakePublisher,
    Stage,
    settle,
    staged,
    write_key_file,
)

FULL = StorageError("outbox_full", "full")


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


async def test_an_unknown_bot_is_idle(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        snapshot = stage.service.snapshot(KEY)
        assert (snapshot.state, snapshot.link_id, snapshot.seq) == (LinkState.IDLE, None, 0)
        assert (await stage.service.logout(KEY)).state is LinkState.IDLE
        assert stage.service.links() == []


async def test_a_second_start_changes_nothing_while_a_link_lives(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        first, second = await asyncio.gather(stage.service.start(KEY), stage.service.start(KEY))
        await settle()
        assert first.link_id == second.link_id
        await stage.report(QR)
        assert (await stage.service.start(KEY)).state is LinkState.QR
        assert len(stage.driver.sessions) == 1
        assert stage.publisher.types() == ["Connecting", "Qr"]


@pytest.mark.parametrize(
    "phone", ["", "12345", "+1", "hello", "+49 1", "+" + "9" * 60, "+1 415 555 0142 x12", "0170 1234567"]
)
async def test_a_wrong_phone_number_is_refused_and_not_repeated(tmp_path: Path, phone: str) -> None:
    async with staged(tmp_path) as stage:
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY, phone)
        assert (refused.value.code, STATUS[refused.value.code]) == ("phone_number_invalid", 400)
        assert not phone or phone not in refused.value.message
        assert stage.service.links() == []
        assert stage.publisher.published == []


async def test_a_phone_number_asks_for_a_pairing_code(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone="+49 (1512) 345-6789")
        assert stage.session().spec.phone_number == "+4915123456789"
        await stage.report(QR, d.PairingCodeShown("ABCD-1234", 160.0))
        assert stage.service.snapshot(KEY).pairing_code == "ABCD-1234"
        assert stage.service.snapshot(KEY).qr is None
        await stage.report(QR)  # the library goes on rotating, the person has a code to type
        assert stage.state() is LinkState.PAIRING_CODE
        assert stage.service.snapshot(KEY).pairing_code == "ABCD-1234"


async def test_a_refused_pairing_code_says_so(tmp_path: Path) -> None:
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


async def test_paired_and_not_let_in_connects_again_and_is_told_after_a_minute(tmp_path: Path) -> None:
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


async def test_a_login_that_is_only_not_told_yet_is_left_alone(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        write_key_file(stage.session().spec.store)
        await stage.report(QR, d.PairSucceeded(PHONE))
        stage.session().is_alive = True  # in, and waiting for the account's name
        await stage.clock.advance(8.0)
        await stage.report(ONLINE)
        assert len(stage.driver.sessions) == 1


async def test_a_blink_is_not_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        said = len(stage.publisher.published)
        await stage.report(d.Offline())
        await stage.clock.advance(4.9)
        await stage.report(ONLINE)
        await stage.clock.advance(60.0)
        assert len(stage.publisher.published) == said
        assert stage.metrics.flaps == 1


async def test_a_real_disconnect_is_told_after_the_grace_period_and_its_end_too(tmp_path: Path) -> None:
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


async def test_a_name_that_comes_later_is_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR, d.PairSucceeded(PHONE), d.Online(PHONE, ""))
        assert stage.publisher.last == e.Connected(PHONE, "", first=True)
        await stage.report(d.Online(PHONE, NAME), d.Online(PHONE, NAME), d.Online(PHONE, ""))
        assert stage.publisher.types().count("Connected") == 2
        assert stage.service.snapshot(KEY).display_name == NAME


@pytest.mark.parametrize(
    ("number", "code"),
    [("401", "device_removed"), ("403", "primary_device_gone"), ("406", "account_banned")],
)
async def test_a_logout_from_the_phone(tmp_path: Path, number: str, code: str) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        store = stage.session().spec.store
        await stage.report(d.LoggedOutByPhone(number))
        assert isinstance(stage.publisher.last, e.LoggedOut)
        assert stage.publisher.last.reason_code == code
        assert stage.session().stopped
        assert not store.exists()
        snapshot = stage.service.snapshot(KEY)
        assert (snapshot.phone_number, snapshot.display_name) == (None, None)


async def test_replaced_is_not_retried_but_can_be_taken_over_without_a_scan(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        link_id = stage.service.snapshot(KEY).link_id
        await stage.report(d.StreamReplaced())
        await stage.clock.advance(600.0)
        assert stage.state() is LinkState.REPLACED
        assert len(stage.driver.sessions) == 1
        assert stage.session().stopped
        assert stage.session().spec.store.exists()
        assert (await stage.service.start(KEY)).link_id == link_id
        await settle()
        await stage.report(ONLINE)
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=False)


async def test_banned_until(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.TemporaryBan(104, 3600.0))
        until = rfc3339(stage.clock.now() + 3600)
        assert isinstance(stage.publisher.last, e.Banned)
        assert (stage.publisher.last.until, stage.publisher.last.reason_code) == (until, "banned_same_messages")
        assert stage.service.snapshot(KEY).until == until
        await stage.clock.advance(600.0)
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY)
        assert refused.value.code == "banned"
        assert refused.value.retry_after == pytest.approx(3000.0)
        await stage.clock.advance(2999.0)
        assert len(stage.driver.sessions) == 1
        await stage.clock.advance(3.0)  # over: tried again by itself, and told
        assert stage.publisher.types()[-2:] == ["Banned", "Connecting"]
        assert len(stage.driver.sessions) == 2
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_a_ban_is_the_numbers_and_not_the_bots(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.TemporaryBan(104, 3600.0))
        await stage.service.logout(KEY)
        with pytest.raises(LinkError, match="blocked"):
            await stage.service.start(OTHER, PHONE)
        started = len(stage.driver.sessions)
        await stage.start(KEY)  # any other number may be linked here
        write_key_file(stage.session().spec.store)
        await stage.report(QR, d.PairSucceeded(PHONE))  # but it is the same one
        assert stage.state() is LinkState.BANNED
        assert stage.session().stopped
        await stage.clock.advance(3500.0)
        assert len(stage.driver.sessions) == started + 1, "nobody dials during a ban, not to remove a device either"


async def test_a_ban_without_an_end_gets_a_pause_of_its_own(tmp_path: Path) -> None:
    async with staged(tmp_path, ban_cooldown=600.0) as stage:
        await stage.connect()
        await stage.report(d.TemporaryBan(0, None))
        assert (stage.publisher.last.until, stage.publisher.last.reason_code) == (None, "banned")
        assert stage.publisher.last.retry_at == rfc3339(stage.clock.now() + 600)
        stage.clock.step(-86400.0)
        await stage.clock.advance(599.0)
        assert len(stage.driver.sessions) == 1
        await stage.clock.advance(3.0)
        assert len(stage.driver.sessions) == 2


async def test_an_outdated_client_stops_new_starts_everywhere(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.start(OTHER)
        await stage.report(d.Outdated(), key=OTHER)
        assert stage.state(OTHER) is LinkState.CLIENT_OUTDATED
        assert stage.state(KEY) is LinkState.CONNECTED
        assert stage.service._context.outdated
        for key in (OTHER, BotKey.parse("user-3", "x")):
            with pytest.raises(LinkError) as refused:
                await stage.service.start(key)
            assert refused.value.code == "client_outdated"
        await stage.report(d.WorkerDied(-9))  # and a restart of a living one finds out at once
        assert stage.state(KEY) is LinkState.CLIENT_OUTDATED
        assert len(stage.driver.sessions) == 2


@pytest.mark.parametrize("reason", ["400", "unknown", "99999"])
async def test_a_connect_failure_with_any_reason(tmp_path: Path, reason: str) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(d.ConnectFailed(reason))
        assert isinstance(stage.publisher.last, e.Failed)
        assert stage.publisher.last.reason_code == "connect_failure"
        assert stage.session().stopped


async def test_unreachable_is_told_and_tried_on_in_fresh_processes(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=3, retry_cap=8.0) as stage:
        await stage.start()
        for attempt in range(3):
            assert len(stage.driver.sessions) == attempt + 1
            await stage.report(d.Unreachable("no route"))
            assert stage.state() is LinkState.CONNECTING
            assert stage.driver.sessions[attempt].stopped
            await stage.clock.advance(8.0)
        await stage.report(d.Unreachable("no route", d.ConnectStage.HANDSHAKE))
        assert stage.state() is LinkState.DISCONNECTED
        assert stage.service.snapshot(KEY).reason_code == "unreachable"
        assert stage.publisher.types() == ["Connecting", "Disconnected"]
        await stage.clock.advance(600.0)
        started = len(stage.driver.sessions)
        assert started > 4
        while len(stage.driver.sessions) == started:
            await stage.clock.advance(5.0)
        await stage.report(QR)
        assert stage.state() is LinkState.QR


async def test_a_first_start_into_a_black_hole_is_told_within_a_minute(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.clock.advance(46.0)
        assert stage.publisher.types() == ["Connecting", "Disconnected"]
        assert stage.publisher.last.reason_code == "unreachable"
        await stage.clock.advance(60.0)
        assert len(stage.driver.sessions) >= 2
        await stage.clock.advance(1800.0)  # nobody waits for a code any more
        assert stage.state() is LinkState.FAILED


async def test_a_paired_link_goes_on_trying_to_reach_whatsapp(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=2, retry_cap=10.0, restart_limit=3) as stage:
        await stage.connect()
        await stage.report(d.Offline(), d.Unreachable("gone"))
        for _ in range(8):
            await stage.clock.advance(10.1)
            await stage.report(d.Unreachable("gone"))
        assert stage.state() is LinkState.DISCONNECTED
        told = [payload.reason_code for _, payload in stage.publisher.published if isinstance(payload, e.Disconnected)]
        assert told == ["connection_lost", "unreachable"]
        await stage.clock.advance(10.1)
        await stage.report(ONLINE)
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=False)


async def test_a_worker_that_dies_comes_back_unnoticed(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        said = len(stage.publisher.published)
        await stage.report(d.WorkerDied(-9))
        assert stage.state() is LinkState.CONNECTED
        await stage.clock.advance(1.1)
        assert len(stage.driver.sessions) == 2
        await stage.report(ONLINE)
        await stage.clock.advance(10.0)
        assert len(stage.publisher.published) == said
        assert stage.metrics.restarts == 1
        assert stage.service.links()[0].restarts == 1


async def test_a_code_whose_worker_died_leaves_the_screen(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR, d.WorkerDied(2))
        assert stage.state() is LinkState.CONNECTING
        assert stage.publisher.types() == ["Connecting", "Qr", "Connecting"]
        await stage.clock.advance(1.1)
        await stage.report(QR)
        assert stage.state() is LinkState.QR


async def test_a_paired_links_worker_that_keeps_dying_is_started_at_the_cap(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=3, retry_cap=4.0) as stage:
        await stage.connect()
        for _ in range(30):
            await stage.report(d.WorkerDied(134))
            await stage.clock.advance(4.1)
        assert len(stage.driver.sessions) == 31
        assert stage.state() is LinkState.DISCONNECTED
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"
        assert stage.publisher.types()[4:] == ["Disconnected", "Disconnected"]  # lost, then why
        assert stage.service.crashing == 1
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_an_unpaired_links_worker_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=3, retry_cap=4.0) as stage:
        await stage.start()
        for _ in range(4):
            await stage.report(d.WorkerDied(134))
            await stage.clock.advance(4.1)
        assert stage.state() is LinkState.FAILED
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"
        await stage.start()  # asked for anew: counted anew
        await stage.report(d.WorkerDied(134))
        assert stage.state() is LinkState.CONNECTING


@pytest.mark.parametrize("reason", ["400", "409", "413", "414", "415", "418", "429", "463", "501", "unknown"])
async def test_a_paired_link_that_is_refused_is_tried_slowly_for_ever(tmp_path: Path, reason: str) -> None:
    async with staged(tmp_path, refused_first=2.0, refused_cap=10.0) as stage:
        await stage.connect()
        factor = 4.0 if reason == "429" else 1.0
        for attempt in range(8):
            assert len(stage.driver.sessions) == attempt + 1
            await stage.report(d.ConnectFailed(reason))
            assert stage.state() is LinkState.DISCONNECTED
            least = factor * min(10.0, 2.0 * 2**attempt) / 2
            await stage.clock.advance(least - 0.1)
            assert len(stage.driver.sessions) == attempt + 1
            await stage.clock.advance(least + 0.2)
        assert stage.publisher.types().count("Disconnected") == 1
        told = stage.publisher.last
        assert told.reason_code == ("rate_limited" if factor > 1 else "connect_failure")
        assert "Press" not in told.user_action
        await stage.report(ONLINE)
        await stage.report(d.ConnectFailed(reason))  # let in: the next refusal begins anew
        await stage.clock.advance(2.0 * factor + 0.1)
        assert len(stage.driver.sessions) == 10


@pytest.mark.parametrize(("number", "code"), [("401", "device_removed"), ("406", "account_banned")])
async def test_a_refusal_that_means_the_end_is_one(tmp_path: Path, number: str, code: str) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.ConnectFailed(number))
        assert stage.publisher.last.reason_code == code
        assert stage.publisher.last.retryable is (number == "401")
        assert stage.state() is LinkState.LOGGED_OUT


async def test_a_connection_that_does_not_answer_is_replaced_within_90_seconds(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.clock.advance(40.0)  # the library's longest way to the first word
        await stage.report(d.KeepAliveLost())
        assert stage.publisher.last.reason_code == "keepalive_lost"
        assert stage.publisher.last.user_action
        await stage.clock.advance(44.0)
        await stage.report(d.KeepAliveLost())  # said again: the deadline goes on
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


async def test_deaths_that_lie_apart_are_forgiven(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=2, restart_window=100.0, retry_cap=4.0, flap_window=10.0) as stage:
        await stage.connect()
        for _ in range(6):
            await stage.report(d.WorkerDied(134))
            await stage.clock.advance(4.1)
            await stage.report(ONLINE)
            stage.session().is_alive = True
            await stage.clock.advance(60.0)
        assert stage.state() is LinkState.CONNECTED


async def test_a_driver_that_cannot_start_counts_as_a_death(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=2, retry_cap=4.0) as stage:
        stage.driver.start_fails = True
        await stage.start()
        await stage.clock.advance(20.0)
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"


async def test_a_session_that_says_nothing_at_all_is_restarted(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10_000.0) as stage:
        await stage.start()
        await stage.clock.advance(59.0)
        assert len(stage.driver.sessions) == 1
        await stage.clock.advance(5.0)
        assert len(stage.driver.sessions) == 2
        assert stage.driver.sessions[0].stopped


async def test_a_worker_that_freezes_before_its_first_word_is_replaced_soon(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.WorkerDied(-9))
        await stage.clock.advance(1.1)
        stage.session().is_alive = None
        await stage.clock.advance(70.0)
        assert len(stage.driver.sessions) == 3


async def test_each_workers_end_is_counted_once_and_by_its_kind(tmp_path: Path) -> None:
    async with staged(tmp_path, truth_interval=10.0, truth_misses=2, restart_limit=9, retry_cap=1.0) as stage:
        await stage.connect()
        for status in (-9, 134, 0):
            await stage.report(d.WorkerDied(status))
            await stage.clock.advance(1.1)
            await stage.report(ONLINE)
            stage.session().is_alive = True
        stage.session().is_alive = None
        await stage.clock.advance(25.0)
        await stage.report(ONLINE)
        stage.session().is_alive = True
        await stage.service.logout(KEY)
        assert stage.metrics.exits == ["killed", "crashed", "exited", "unresponsive", "stopped"]
        assert len(stage.driver.sessions) == 5
        stage.driver.start_fails = True
        await stage.start()
        await stage.clock.advance(0.1)
        assert stage.metrics.exits[5:] == ["crashed"]


async def test_a_network_that_swallows_everything_costs_no_account(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=3) as stage:
        await stage.connect()
        await stage.report(d.Offline())
        stage.session().is_alive = False
        for _ in range(40):
            await stage.clock.advance(100.0)  # no session ever says a word
            stage.session().is_alive = None
        assert stage.state() is LinkState.DISCONNECTED
        started = len(stage.driver.sessions)
        assert started > 5
        while len(stage.driver.sessions) == started:
            await stage.clock.advance(5.0)
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_a_network_that_swallows_everything_ends_a_pairing(tmp_path: Path) -> None:
    async with staged(tmp_path, retry_limit=2) as stage:
        await stage.start()
        await stage.clock.advance(600.0)
        assert stage.service.snapshot(KEY).reason_code == "unreachable"


async def test_a_flood_of_reports_ends_the_worker(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(*[d.QrShown(f"2@{n},a,b,c", 1, 6, 60.0) for n in range(500)])
        assert stage.session().stopped
        assert len(stage.publisher.published) < 10
        await stage.clock.advance(1.1)
        assert len(stage.driver.sessions) == 2
        assert stage.state() is LinkState.CONNECTING


async def test_starts_are_limited_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path, start_concurrency=2) as stage:
        keys = [BotKey.parse("user", f"bot-{n}") for n in range(5)]
        for key in keys:
            await stage.start(key)
        assert len(stage.driver.sessions) == 2
        await stage.report(QR, key=keys[0])
        assert len(stage.driver.sessions) == 3
        await stage.clock.advance(20.1)  # silence does not block the others for ever
        assert len(stage.driver.sessions) == 5


async def test_late_reports_of_an_ended_session_are_dropped(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        old = stage.session()
        await stage.report(d.WorkerDied(-9))
        await stage.clock.advance(1.1)
        old.report(d.LoggedOutByPhone("401"))
        await settle()
        assert stage.state() is LinkState.CONNECTED
        await stage.report(d.StreamReplaced(), d.Offline(), ONLINE)
        assert stage.state() is LinkState.REPLACED


async def test_too_many_links(tmp_path: Path) -> None:
    async with staged(tmp_path, max_links_per_user=2) as stage:
        one, two, three = (BotKey.parse("user", f"bot-{n}") for n in range(3))
        await stage.start(one)
        await stage.start(two)
        await stage.start(one)  # alive, so nothing new
        with pytest.raises(LinkError) as refused:
            await stage.start(three)
        assert (refused.value.code, STATUS[refused.value.code]) == ("too_many_links", 429)
        assert stage.state(three) is LinkState.IDLE
        await stage.service.logout(one)
        await stage.start(three)
        assert stage.state(three) is LinkState.CONNECTING


async def test_the_same_account_under_two_keys_is_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect(KEY)
        await stage.connect(OTHER)
        for key in (KEY, OTHER):
            snapshot = stage.service.snapshot(key)
            assert (snapshot.also_linked_elsewhere, snapshot.reason_code) == (True, "also_linked_elsewhere")
            assert snapshot.user_action
            assert snapshot.state is LinkState.CONNECTED
        assert stage.publisher.types(KEY) == ["Connecting", "Qr", "Paired", "Connected", "Connected"]
        assert [p.also_linked_elsewhere for _, p in stage.publisher.published if isinstance(p, e.Connected)] == [
            False,
            True,
            True,
        ]
        third = BotKey.parse(KEY.user_id, "third")
        await stage.start(third, PHONE)
        assert stage.publisher.last == e.Connecting(also_linked_elsewhere=True)  # warned before it is paired
        await stage.start(BotKey.parse("stranger", "bot"), PHONE)
        assert stage.publisher.last == e.Connecting()  # whose number it is is nobody else's business
        await stage.service.logout(KEY)
        await settle()
        assert stage.service.snapshot(OTHER).reason_code is None
        assert stage.publisher.published[-1] == (OTHER, e.Connected(PHONE, NAME, first=False))


async def test_a_different_account_is_no_second(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect(KEY)
        await stage.connect(OTHER, "+14155550143")
        assert stage.service.snapshot(OTHER).reason_code is None


# failing to write


async def test_a_start_that_cannot_be_stored_never_was(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.publisher.fails = StorageError("outbox_unavailable", "down")
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY)
        assert (refused.value.code, STATUS[refused.value.code]) == ("outbox_unavailable", 503)
        assert stage.state() is LinkState.IDLE
        assert stage.driver.sessions == []
        stage.publisher.fails = None
        stage.publisher.full = True
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY)
        assert refused.value.code == "outbox_full"
        stage.publisher.full = False
        await stage.start()
        assert stage.state() is LinkState.CONNECTING
    async with staged(tmp_path) as stage:
        assert len(stage.service.links()) == 1


async def test_a_start_that_failed_leaves_no_record(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.publisher.fails = FULL
        with pytest.raises(LinkError):
            await stage.service.start(KEY)
    async with staged(tmp_path) as stage:
        assert stage.service.links() == []


async def test_a_start_that_failed_leaves_the_link_before_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.StreamReplaced())
        stage.publisher.fails = FULL
        with pytest.raises(LinkError):
            await stage.service.start(KEY)
        assert stage.state() is LinkState.REPLACED
    async with staged(tmp_path) as stage:
        assert stage.state() is LinkState.REPLACED
        assert stage.service.snapshot(KEY).phone_number == PHONE


async def test_an_event_that_cannot_be_stored_waits_and_the_state_with_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR)
        stage.publisher.fails = FULL
        await stage.report(d.PairSucceeded(PHONE), ONLINE)
        await stage.clock.advance(30.0)
        assert stage.state() is LinkState.QR
        assert stage.service.links()[0].stalled
        for order in (stage.service.logout(KEY), stage.service.start(KEY)):
            with pytest.raises(LinkError) as refused:
                await order
            assert refused.value.code == "outbox_full"
        stage.publisher.fails = None
        await stage.clock.advance(5.1)
        assert stage.publisher.types() == ["Connecting", "Qr", "Paired", "Connected"]
        assert stage.state() is LinkState.CONNECTED
        assert not stage.service.links()[0].stalled


async def test_a_code_that_ended_while_it_waited_is_not_published(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        stage.publisher.fails = FULL
        await stage.report(QR)
        await stage.clock.advance(61.0)
        stage.publisher.fails = None
        await stage.report(d.QrShown("2@second,a,b,c", 2, 6, 20.0))
        await stage.clock.advance(5.1)
        assert [p.index for _, p in stage.publisher.published if isinstance(p, e.Qr)] == [2]


async def test_a_waiting_event_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        stage.publisher.fails = FULL
        await stage.report(QR)
    assert stage.driver.sessions[0].stopped


async def test_whoever_waits_at_the_end_is_told(tmp_path: Path) -> None:
    class Slow(FakePublisher):
        async def publish(self, *args: object, **more: object) -> None:
            await asyncio.Event().wait()

    stage = Stage(tmp_path)
    stage.service._context.publisher = Slow()
    await stage.service.open()
    waiting = asyncio.create_task(stage.service.start(KEY))
    await settle()
    await stage.service.close()
    with pytest.raises(LinkError) as refused:
        await waiting
    assert refused.value.code == "shutting_down"
    with pytest.raises(LinkError):
        await stage.service.start(OTHER)


# logout


REACHED: dict[LinkState, tuple[d.Report, ...]] = {
    LinkState.CONNECTING: (),
    LinkState.QR: (QR,),
    LinkState.PAIRING_CODE: (d.PairingCodeShown("ABCD-1234", 160.0),),
    LinkState.PAIRED: (QR, d.PairSucceeded(PHONE)),
    LinkState.CONNECTED: (d.PairSucceeded(PHONE), ONLINE),
    LinkState.DEGRADED: (d.PairSucceeded(PHONE), ONLINE, d.KeepAliveLost()),
    LinkState.DISCONNECTED: (d.PairSucceeded(PHONE), ONLINE, d.Offline()),
    LinkState.QR_EXPIRED: (QR, d.CodesUsedUp()),
    LinkState.LOGGED_OUT: (d.PairSucceeded(PHONE), ONLINE, d.LoggedOutByPhone("401")),
    LinkState.REPLACED: (d.PairSucceeded(PHONE), ONLINE, d.StreamReplaced()),
    LinkState.BANNED: (d.PairSucceeded(PHONE), ONLINE, d.TemporaryBan(101, 60.0)),
    LinkState.CLIENT_OUTDATED: (d.Outdated(),),
    LinkState.FAILED: (d.ConnectFailed("x"),),
}


@pytest.mark.parametrize("state", REACHED, ids=str)
@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
async def test_logout_works_in_every_state(tmp_path: Path, state: LinkState, dead: bool) -> None:
    async with staged(tmp_path, disconnect_grace=1.0) as stage:
        await stage.start()
        session = stage.session()
        session.spec.store.write_bytes(b"keys")
        session.logout_fails = dead
        await stage.report(*REACHED[state])
        if state is LinkState.DISCONNECTED:
            await stage.clock.advance(1.1)
        assert stage.state() is state
        said = stage.publisher.types()
        paired = any(isinstance(report, d.PairSucceeded) for report in REACHED[state])
        snapshot = await stage.service.logout(KEY)
        assert snapshot.state is LinkState.LOGGED_OUT
        if state is not LinkState.LOGGED_OUT:
            assert stage.publisher.types() == [*said, "LoggedOut"]
            assert snapshot.reason_code == ("requested" if paired else "cancelled")
        assert await stage.service.logout(KEY) == snapshot
        await settle()
        assert session.stopped or session.logged_out
        if paired and state in (LinkState.CONNECTED, LinkState.DEGRADED, LinkState.DISCONNECTED, LinkState.PAIRED):
            assert session.logged_out is not dead
            assert session.stopped is dead
        waits = paired and state is not LinkState.LOGGED_OUT and not session.logged_out
        assert session.spec.store.exists() is waits
        assert stage.service.snapshot(KEY).device_removed is (None if not paired else not waits)


def test_logout_is_tried_in_every_state_but_idle() -> None:
    assert set(REACHED) == set(LinkState) - {LinkState.IDLE}


async def test_a_logout_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.publisher.fails = FULL
        with pytest.raises(LinkError) as refused:
            await stage.service.logout(KEY)
        assert refused.value.code == "outbox_full"
        assert stage.state() is LinkState.CONNECTED
        assert not stage.session().logged_out
        stage.publisher.fails = None
        assert (await stage.service.logout(KEY)).state is LinkState.LOGGED_OUT


async def test_only_a_simulated_phone_can_be_played_with(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        with pytest.raises(LinkError) as refused:
            await stage.service.simulate(KEY, SimulateAction.SCAN)
        assert refused.value.code == "not_simulated"


async def test_the_operators_view_hides_the_phone_number(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        (view,) = stage.service.links()
        assert view.phone_number is not None
        assert PHONE[1:-2] not in view.phone_number
        assert (view.worker_pid, view.state) == (4242, LinkState.CONNECTED)
        assert stage.service.counts() == {LinkState.CONNECTED: 1}


async def test_a_step_that_breaks_does_not_end_the_link(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(d.QrShown("2@a,b,c,d", 1, 6, float("nan")))  # a time that cannot be written
        await stage.report(QR)
        assert stage.state() is LinkState.QR


async def test_asking_at_once_does_not_pass_the_limit(tmp_path: Path) -> None:
    async with staged(tmp_path, max_links_per_user=5) as stage:
        asked = [stage.service.start(BotKey.parse("user", f"bot-{n}")) for n in range(100)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, LinkError)]
        assert len(refused) == 95
        assert {error.code for error in refused} == {"too_many_links"}
        assert len(stage.service.links()) == 5


async def test_one_users_flood_of_starts_delays_nobody_else(tmp_path: Path) -> None:
    async with staged(tmp_path, start_concurrency=1) as stage:
        for n in range(20):
            await stage.start(BotKey.parse("flood", f"bot-{n}"))
        assert len(stage.driver.sessions) == 1
        await stage.start(OTHER)
        assert len(stage.driver.sessions) == 2
        await stage.report(QR, key=OTHER)
        assert stage.state(OTHER) is LinkState.QR


async def test_another_wish_changes_the_code_that_is_asked_for(tmp_path: Path) -> None:
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


async def test_another_number_for_a_linked_bot_is_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        assert (await stage.service.start(KEY, PHONE)).state is LinkState.CONNECTED
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY, "+14155550199")
        assert (refused.value.code, STATUS[refused.value.code]) == ("another_number_linked", 409)


async def test_a_device_that_cannot_be_removed_is_told_and_given_up_after_a_day(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        session = stage.session()
        session.logout_fails = True
        snapshot = await stage.service.logout(KEY)
        assert (snapshot.state, snapshot.device_removed) == (LinkState.LOGGED_OUT, False)
        assert stage.publisher.last.device_removed is False
        assert "Linked devices" in stage.publisher.last.user_action
        await stage.start()  # a new link does not wait for it, and leaves its keys alone
        await settle()
        assert session.spec.store.exists()
        said, begun = len(stage.publisher.published), len(stage.driver.sessions)
        await stage.clock.advance(2 * 3600.0)
        tries = [other for other in stage.driver.sessions[begun:] if other.spec.link_id == session.spec.link_id]
        assert len(tries) > 12, "at least every ten minutes"
        assert all(other.stopped for other in tries[:-1])
        stage.driver.start_fails = True  # a start that fails is one of the tries
        await stage.clock.advance(86400.0 - 2 * 3600.0 - 10.0)
        assert session.spec.store.exists(), "the key is needed for a day"
        assert len(await stage.store.removals()) == 1
        await stage.clock.advance(600.0)
        assert not session.spec.store.exists()
        assert await stage.store.removals() == []
        told = [p for _, p in stage.publisher.published[said:] if isinstance(p, e.LoggedOut)]
        assert told == [], "a link that began meanwhile is not told of the one before it"


async def test_who_logged_out_is_told_again_when_the_device_is_given_up(tmp_path: Path) -> None:
    async with staged(tmp_path, removal_period=600.0) as stage:
        await stage.connect()
        stage.session().logout_fails = True
        await stage.service.logout(KEY)
        stage.driver.start_fails = True
        await stage.clock.advance(1000.0)
        assert stage.publisher.types()[-2:] == ["LoggedOut", "LoggedOut"]
        assert stage.publisher.last.device_removed is False
        assert stage.service.snapshot(KEY).device_removed is False
        assert "Linked devices" in stage.publisher.last.user_action


async def test_a_removal_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().logout_fails = True
        await stage.service.logout(KEY)
    async with staged(tmp_path) as stage:
        assert stage.state() is LinkState.LOGGED_OUT
        await stage.clock.advance(5.1)
        (session,) = stage.driver.sessions
        session.report(ONLINE)
        await settle()
        assert session.logged_out
        assert stage.publisher.last.device_removed is True
        assert stage.service.snapshot(KEY).device_removed is True
        assert await stage.store.removals() == []


async def test_no_step_of_the_clock_forgets_or_fails_a_link(tmp_path: Path) -> None:
    async with staged(tmp_path, restart_limit=2, restart_window=100.0, retry_cap=2.0) as stage:
        await stage.start()
        for step in (86400.0, -86400.0):
            await stage.report(d.WorkerDied(1))
            stage.clock.step(step)
            await stage.clock.advance(2.1)
        assert stage.state() is LinkState.CONNECTING
        await stage.report(d.WorkerDied(1))
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"  # counted over both steps
