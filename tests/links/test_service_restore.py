"""After a restart each link is restored by itself, and one that fails does not hinder the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from roundtrip import events as e
from roundtrip.drivers import base as d
from roundtrip.errors import StorageError
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkState
from tests.support.links import KEY, NAME, ONLINE, OTHER, PHONE, QR, Stage, settle, staged, write_key_file

THIRD = BotKey.parse("user-3", "bot-1")


async def run_before(data_dir: Path, scenario: Callable[[Stage], Awaitable[None]]) -> str | None:
    """Run the service once before the restart under test; returns the link's id."""
    async with staged(data_dir) as stage:
        await scenario(stage)
        return stage.service.snapshot(KEY).link_id


async def test_a_connected_link_comes_back_and_is_connecting_until_then(tmp_path: Path) -> None:
    link_id = await run_before(tmp_path, lambda stage: stage.connect())
    async with staged(tmp_path, restore=False) as stage:
        assert stage.state() is LinkState.CONNECTING
        assert stage.service.snapshot(KEY).phone_number == PHONE
        assert not stage.service.restoring.finished
        restoring = asyncio.create_task(stage.service.restore())
        await settle()
        assert stage.publisher.published == []  # for the frontend it is no new link
        assert stage.session().spec.link_id == link_id
        assert not stage.service.restoring.finished
        await stage.report(ONLINE)
        await restoring
        assert stage.service.restoring.finished
        assert stage.publisher.types() == ["Connected"]
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=False)
        assert stage.metrics.pairings == []


async def test_a_start_during_the_restore_finds_the_link_alive(tmp_path: Path) -> None:
    link_id = await run_before(tmp_path, lambda stage: stage.connect())
    async with staged(tmp_path, restore=False) as stage:
        assert (await stage.service.start(KEY)).link_id == link_id
        assert stage.publisher.published == []


async def test_a_logout_during_the_restore(tmp_path: Path) -> None:
    await run_before(tmp_path, lambda stage: stage.connect())
    async with staged(tmp_path, restore=False) as stage:
        await stage.service.logout(KEY)
        assert stage.publisher.last.reason_code == "requested"
        await stage.service.restore()
        await stage.clock.advance(5.1)
        (session,) = stage.driver.sessions  # not for the link, but to remove its device
        await settle()
        assert stage.service.snapshot(KEY).device_removed is False
        session.report(ONLINE)
        await settle()
        assert session.logged_out
        assert not list(stage.store.sessions.iterdir())
        assert stage.publisher.last.device_removed is True
        assert stage.state() is LinkState.LOGGED_OUT


async def test_a_few_at_a_time(tmp_path: Path) -> None:
    keys = [BotKey.parse("user", f"bot-{n}") for n in range(7)]

    async def scenario(stage: Stage) -> None:
        for n, key in enumerate(keys):
            await stage.connect(key, f"+1415555014{n}")

    await run_before(tmp_path, scenario)
    async with staged(tmp_path, restore=False, restore_concurrency=2, start_concurrency=4) as stage:
        restoring = asyncio.create_task(stage.service.restore())
        await settle()
        assert len(stage.driver.sessions) == 2
        assert stage.service.restoring == (7, 0, False)
        stage.driver.sessions[0].report(ONLINE)
        await settle()
        assert len(stage.driver.sessions) == 3
        assert stage.service.restoring == (7, 1, False)
        await stage.clock.advance(10.1)  # a session that reports nothing does not hold up the others
        assert len(stage.driver.sessions) == 5
        await stage.clock.advance(120.0)
        await restoring
        assert stage.service.restoring == (7, 7, True)


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "truncated"])
async def test_a_broken_key_file_fails_one_link_and_advises_the_user(tmp_path: Path, damage: str) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.connect(KEY)
        await stage.connect(OTHER, "+14155550143")
        store = stage.session(KEY).spec.store
        match damage:
            case "missing":
                store.unlink()
            case "empty":
                store.write_bytes(b"")
            case "garbage":
                store.write_bytes(b"this is not a database" * 1000)
            case "truncated":
                store.write_bytes(store.read_bytes()[:5000])

    link_id = await run_before(tmp_path, scenario)
    async with staged(tmp_path, restore=False) as stage:
        restoring = asyncio.create_task(stage.service.restore())
        await settle()
        await stage.report(d.Online("+14155550143", NAME), key=OTHER)
        await restoring
        assert stage.state(OTHER) is LinkState.CONNECTED
        snapshot = stage.service.snapshot(KEY)
        assert snapshot.state is LinkState.FAILED
        assert snapshot.reason_code == ("store_missing" if damage in ("missing", "empty") else "store_corrupt")
        assert snapshot.user_action
        assert stage.publisher.types(KEY) == ["Failed"]
        again = await stage.service.start(KEY)  # what the advice is
        assert again.link_id != link_id
        await settle()
        await stage.report(QR)
        assert stage.state() is LinkState.QR


async def test_a_paired_account_that_is_shown_a_code_lost_its_keys(tmp_path: Path) -> None:
    await run_before(tmp_path, lambda stage: stage.connect())
    async with staged(tmp_path, restore=False) as stage:
        restoring = asyncio.create_task(stage.service.restore())
        await settle()
        await stage.report(QR)
        await restoring
        assert stage.service.snapshot(KEY).reason_code == "store_missing"
        assert stage.publisher.types() == ["Failed"]  # and no code was shown to anybody


async def test_a_pairing_expires_with_a_restart(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.start(KEY)
        await stage.report(QR)
        await stage.start(OTHER)

    await run_before(tmp_path, scenario)
    async with staged(tmp_path) as stage:
        assert (stage.state(KEY), stage.state(OTHER)) == (LinkState.QR_EXPIRED, LinkState.QR_EXPIRED)
        assert stage.publisher.types(KEY) == stage.publisher.types(OTHER) == ["QrExpired"]
        assert stage.driver.sessions == []


async def test_paired_but_not_yet_connected_comes_back(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.connect(OTHER)
        await stage.start(KEY)
        stage.session(KEY).spec.store.write_bytes(stage.session(OTHER).spec.store.read_bytes())
        await stage.report(QR, d.PairSucceeded(PHONE))

    await run_before(tmp_path, scenario)
    async with staged(tmp_path, restore=False) as stage:
        restoring = asyncio.create_task(stage.service.restore())
        await settle()
        await stage.report(ONLINE)
        await stage.report(ONLINE, key=OTHER)
        await restoring
        payloads = [payload for key, payload in stage.publisher.published if key == KEY]
        assert e.Connected(PHONE, NAME, first=True, also_linked_elsewhere=True) in payloads


async def test_a_crash_before_the_event_does_not_delete_new_keys(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        write_key_file(stage.session().spec.store)
        stage.publisher.fails = StorageError("outbox_unavailable", "down")
        await stage.report(QR, d.PairSucceeded(PHONE))
        stage.publisher.fails = StorageError("outbox_unavailable", "still down")
        await stage.clock.advance(70.0)  # the code ended while it waited; the scan is next
    async with staged(tmp_path, restore=False) as stage:
        assert stage.state() is LinkState.CONNECTING
        assert stage.service.snapshot(KEY).phone_number == PHONE
        restoring = asyncio.create_task(stage.service.restore())
        await settle()
        await stage.report(ONLINE)
        await restoring
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=True)


@pytest.mark.parametrize(
    ("report", "state", "back"),
    [
        (d.StreamReplaced(), LinkState.REPLACED, False),
        (d.TemporaryBan(101, 3600.0), LinkState.BANNED, False),
        (d.LoggedOutByPhone("401"), LinkState.LOGGED_OUT, False),
        (d.ConnectFailed("400"), LinkState.DISCONNECTED, True),
        (d.Outdated(), LinkState.CLIENT_OUTDATED, True),
    ],
    ids=lambda value: str(value) if isinstance(value, LinkState) else "",
)
async def test_an_ended_link_stays_ended(tmp_path: Path, report: d.Report, state: LinkState, back: bool) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.connect()
        await stage.report(report)
        assert stage.state() is state

    await run_before(tmp_path, scenario)
    async with staged(tmp_path, restore=False) as stage:
        assert stage.state() is (LinkState.CONNECTING if back else state)
        if not back:
            assert stage.service.snapshot(KEY).user_action
            await stage.service.restore()
            assert stage.driver.sessions == []


async def test_a_ban_outlives_a_restart_and_ends(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.connect()
        await stage.report(d.TemporaryBan(101, 3600.0))

    await run_before(tmp_path, scenario)
    async with staged(tmp_path) as stage:
        for key, number in ((KEY, None), (OTHER, PHONE)):
            with pytest.raises(Exception, match="blocked"):
                await stage.service.start(key, number)
        await stage.clock.advance(3500.0)
        assert stage.driver.sessions == []
        await stage.clock.advance(102.0)
        assert stage.publisher.types() == ["Connecting"]
        await stage.report(ONLINE)
        assert stage.state() is LinkState.CONNECTED


async def test_a_clock_set_back_across_a_restart_does_not_ban_for_ever(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        stage.clock.step(365 * 86400.0)
        await stage.connect()
        await stage.report(d.TemporaryBan(101, 3600.0))

    await run_before(tmp_path, scenario)
    async with staged(tmp_path) as stage:
        await stage.clock.advance(3602.0)
        assert len(stage.driver.sessions) == 1


async def test_a_link_that_failed_is_restored_too(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.connect()
        await stage.report(d.WorkerDied(1))
        assert stage.state() is LinkState.DISCONNECTED

    async with staged(tmp_path, restart_limit=0) as stage:
        await scenario(stage)
    async with staged(tmp_path, restore=False) as stage:
        assert stage.state() is LinkState.CONNECTING
        assert stage.service.snapshot(KEY).reason_code is None


async def test_a_refused_version_does_not_hold_up_the_restore(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        for n, key in enumerate((KEY, OTHER, THIRD)):
            await stage.connect(key, f"+1415555014{n}")

    await run_before(tmp_path, scenario)
    async with staged(tmp_path, restore=False, restore_concurrency=1) as stage:
        restoring = asyncio.create_task(stage.service.restore())
        await settle()
        stage.driver.sessions[0].report(d.Outdated())
        await restoring
        assert {stage.state(key) for key in (KEY, OTHER, THIRD)} == {LinkState.CLIENT_OUTDATED}
        assert len(stage.driver.sessions) == 1


async def test_the_same_account_twice_is_still_known_after_a_restart(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.connect(KEY)
        await stage.connect(OTHER)

    await run_before(tmp_path, scenario)
    async with staged(tmp_path, restore=False) as stage:
        for key in (KEY, OTHER):
            assert stage.service.snapshot(key).also_linked_elsewhere


async def test_a_restart_that_cannot_publish_does_not_hang(tmp_path: Path) -> None:
    await run_before(tmp_path, lambda stage: stage.start())
    async with staged(tmp_path, restore=False) as stage:
        stage.publisher.full = True
        restoring = asyncio.create_task(stage.service.restore())
        await stage.clock.advance(60.0)
        await restoring
        assert stage.service.restoring.finished
