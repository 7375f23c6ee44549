"""How WhatsApp ends a link: logged out, replaced, banned, outdated, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from roundtrip import events as e
from roundtrip.clock import rfc3339
from roundtrip.drivers import base as d
from roundtrip.identity import BotKey
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from tests.support.links import KEY, NAME, ONLINE, OTHER, PHONE, QR, settle, staged, write_key_file

S = LinkState


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
        await stage.clock.advance(3.0)  # over: tried again by itself, and published
        assert stage.publisher.types()[-2:] == ["Banned", "Connecting"]
        assert len(stage.driver.sessions) == 2
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_a_ban_holds_for_the_number_under_any_bot(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("lasts", [None, 0.0, -5.0, float("nan")])
async def test_a_ban_of_no_known_length_gets_the_pause(tmp_path: Path, lasts: float | None) -> None:
    async with staged(tmp_path, ban_cooldown=600.0) as stage:
        await stage.connect()
        await stage.report(d.TemporaryBan(101, lasts))
        snapshot = stage.service.snapshot(KEY)
        assert (snapshot.until, snapshot.retry_at) == (None, rfc3339(stage.clock.now() + 600.0))


async def test_a_ban_of_centuries_is_tried_again_within_a_year(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.TemporaryBan(101, 1e12))
        assert stage.service.snapshot(KEY).retry_at == rfc3339(stage.clock.now() + 366 * 86400.0)


async def test_only_a_paired_account_is_tried_again_after_a_ban_by_itself(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone=PHONE)
        await stage.report(d.TemporaryBan(101, 100.0))
        assert stage.service.links()[0].deadlines == ()
        await stage.clock.advance(200.0)
        assert stage.state() is S.BANNED
        await stage.start(phone=PHONE)
        assert stage.state() is S.CONNECTING


async def test_a_connection_lifts_the_ban_of_the_number_under_any_bot(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.connect(OTHER)
        await stage.report(d.TemporaryBan(101, 1000.0))
        await stage.report(ONLINE, key=OTHER)  # it was let in meanwhile
        await stage.clock.advance(0.1)
        assert await stage.store.bans(0.0) == {}
        await stage.start()
        assert stage.state() is S.CONNECTING


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


@pytest.mark.parametrize(("number", "code"), [("401", "device_removed"), ("406", "account_banned")])
async def test_a_connect_failure_that_means_a_logout_is_one(tmp_path: Path, number: str, code: str) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.ConnectFailed(number))
        assert stage.publisher.last.reason_code == code
        assert stage.publisher.last.retryable is (number == "401")
        assert stage.state() is LinkState.LOGGED_OUT
